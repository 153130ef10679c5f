"""A run of its own begins from a checkpoint of another one, on any storage, and the other one is only read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from resumable import CorruptCheckpointError, Run
from tests.cli.conftest import KEEP_ALL, Cli, flip_a_bit
from tests.cli.test_rewind import files_of, killed
from tests.faults.servers import shared_moto
from tests.golden.launch import Golden
from tests.nets import Net
from tests.ranks import RankWriter, along
from tests.tiny import Crash, Tiny, assert_equal_ends, crashed

FIRST = "step-000000004.e0000.a0001"


def test_it_goes_on_as_the_run_itself_and_both_go_their_ways(run: Path, tmp_path: Path, cli: Cli) -> None:
    before, new = files_of(run), tmp_path / "new"
    made = cli("branch", f"{run}@4", new, "--json").json
    manifest, origin = Run(str(new)).latest().manifest, Run(str(run)).at(4).manifest
    assert made == {
        "run": str(new),
        "name": FIRST,
        "run_id": manifest.run_id,
        "from": {"run": str(run), "name": str(origin.name)},
    }
    assert (manifest.attempt, manifest.lineage) == (1, [(1, None)])
    assert manifest.run_id != origin.run_id
    assert manifest.config == origin.config | {"run": str(new), "data_seed": 7}
    assert json.loads((new / "run.json").read_text())["run_id"] == manifest.run_id
    assert manifest.notes["branched_from"] == {
        "run": str(run),
        "run_id": origin.run_id,
        "checkpoint": str(origin.name),
    }
    reference = tmp_path / "reference"
    crashed(reference, step=5)
    for each in (new, reference):
        Tiny(each).train(3)
    assert_equal_ends(new, reference)
    assert files_of(run) == before
    assert cli("verify", new).code == 0


def test_files_on_one_file_system_are_hard_links(run: Path, tmp_path: Path, cli: Cli) -> None:
    new = tmp_path / "below" / "new"
    cli("branch", f"{run}@4", new)
    blobs = sorted((new / "checkpoints" / FIRST).glob("*.safetensors"))
    origin = run / "checkpoints" / Run(str(run)).at(4).name
    assert blobs
    assert all(blob.samefile(origin / blob.name) for blob in blobs)
    assert not (new / "checkpoints" / FIRST / "state.rank00000.json").samefile(origin / "state.rank00000.json")
    shutil.rmtree(run)
    assert cli("verify", new).code == 0


def test_the_storages_may_be_any(tmp_path: Path, cli: Cli) -> None:
    server = shared_moto()
    bucket, options = f"s3://{server.new_bucket()}", json.dumps(server.options())
    crashed(tmp_path / "run", step=5)
    assert cli("branch", f"{tmp_path / 'run'}@4", f"{bucket}/a", "--new-storage-options", options).code == 0
    assert cli("branch", f"{bucket}/a", f"{bucket}/b", "--storage-options", options).code == 0
    back = ("--storage-options", options, "--new-storage-options", "{}")
    assert cli("branch", f"{bucket}/b", "memory://tests-branch/c", *back).code == 0
    assert cli("branch", "memory://tests-branch/c@latest", tmp_path / "d").code == 0
    assert cli("verify", f"{bucket}/b", "--storage-options", options).code == 0
    for run in (tmp_path / "run", tmp_path / "d"):
        Tiny(run).train()
    assert_equal_ends(tmp_path / "run", tmp_path / "d")


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_runs_of_every_version(version: str, tmp_path: Path, cli: Cli) -> None:
    golden, reference = Path(__file__).parents[1] / "golden" / version / "run", tmp_path / "reference"
    shutil.copytree(golden, reference)
    shutil.rmtree(reference / "checkpoints" / "step-000000008.e0002.a0002")
    assert cli("branch", f"{golden}@5", tmp_path / "new").code == 0
    for run in (tmp_path / "new", reference):
        Golden(run).train()
    assert_equal_ends(tmp_path / "new", reference)
    assert cli("verify", tmp_path / "new").code == 0


def test_checkpoints_of_several_ranks(tmp_path: Path, cli: Cli) -> None:
    RankWriter(tmp_path / "run", 2, along(2)).save(7, model=Net(1))
    assert cli("branch", f"{tmp_path / 'run'}@7", tmp_path / "new").code == 0
    assert cli("verify", tmp_path / "new").code == 0
    assert Run(str(tmp_path / "new")).latest().states == Run(str(tmp_path / "run")).latest().states


@pytest.mark.parametrize("point", ["save.blob", "save.manifest", "save.published"])
def test_killed_in_the_middle_it_cannot_be_launched_and_is_run_again(
    point: str, run: Path, tmp_path: Path, cli: Cli
) -> None:
    new = tmp_path / "new"
    killed(point, "branch", f"{run}@4", new)
    assert not (new / "run.json").exists()
    if (new / "checkpoints").exists():
        with pytest.raises(CorruptCheckpointError, match=r"checkpoints but no run.json"):
            Tiny(new).train()
    assert cli("branch", f"{run}@4", new).code == 0
    reference = tmp_path / "reference"
    crashed(reference, step=5)
    for each in (new, reference):
        Tiny(each).train()
    assert_equal_ends(new, reference)
    assert cli("verify", new).code == 0


def test_a_place_with_a_run_is_refused_untouched(run: Path, tmp_path: Path, cli: Cli) -> None:
    crashed(tmp_path / "other", step=3)
    before = files_of(tmp_path / "other")
    failed = cli("branch", f"{run}@4", tmp_path / "other")
    assert failed.code == 1
    assert "expected a place without a run" in failed.err
    assert files_of(tmp_path / "other") == before
    assert cli("branch", f"{run}@4", run).code == 1


def test_a_part_of_another_run_is_not_completed(run: Path, tmp_path: Path, cli: Cli) -> None:
    new = tmp_path / "new"
    killed("save.published", "branch", f"{run}@4", new)
    failed = cli("branch", f"{run}@2", new)
    assert failed.code == 1
    assert not (new / "run.json").exists()


def test_a_damaged_checkpoint_begins_no_run(run: Path, tmp_path: Path, cli: Cli) -> None:
    flip_a_bit(run / "checkpoints" / Run(str(run)).at(4).name / "model.safetensors")
    failed = cli("branch", f"{run}@4", tmp_path / "new")
    assert failed.code == 1
    assert "digest differs" in failed.err
    assert not (tmp_path / "new").exists()


def test_the_next_epoch_begins_there(tmp_path: Path, cli: Cli) -> None:
    with pytest.raises(Crash):
        Tiny(tmp_path / "run", keep=KEEP_ALL, crash_at=3).train()
    made = cli("branch", f"{tmp_path / 'run'}@2", tmp_path / "new", "--next-epoch", "--json").json
    assert made["name"] == "step-000000002.e0001.a0001"
    Tiny(tmp_path / "new").train()
    found = Run(str(tmp_path / "new")).latest()
    assert (found.step, found.epoch, found.manifest.finished) == (6, 2, True)
