"""A run is put back to one of its checkpoints, once, and goes on from there as if nothing newer had ever been."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resumable import FencedError, Run, Trainer
from resumable.store.attempts import lock_run
from resumable.store.storage.open import open_storage
from tests.cli.conftest import KEEP_ALL, Cli, flip_a_bit
from tests.faults.servers import shared_moto
from tests.golden.launch import EPOCHS, Golden
from tests.nets import Net
from tests.ranks import RankWriter, along
from tests.tiny import Crash, Tiny, assert_equal_ends, crashed, steps_of, until_written


def names(run: Path | str) -> list[str]:
    """The checkpoints on the line, oldest first."""
    return [checkpoint.name for checkpoint in Run(str(run)).checkpoints()]


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def killed(point: str, *arguments: object) -> None:
    """The command line in a process of its own, killed at a point of its save."""
    command = [sys.executable, "-m", "resumable", *map(str, arguments)]
    ended = subprocess.run(command, env={**os.environ, "RESUMABLE_KILL": f"{point}:0"}, capture_output=True)
    assert ended.returncode == -9, ended.stderr.decode()


@pytest.fixture
def reference(run: Path, tmp_path: Path) -> Path:
    """The run as it was when its newest checkpoint was that of step 4, trained to its end."""
    reference = Path(shutil.copytree(run, tmp_path / "reference"))
    for folder in (reference / "checkpoints").iterdir():
        if folder.name > "step-000000004.e0000.a0001":
            shutil.rmtree(folder)
    Tiny(reference, keep=KEEP_ALL).train(3)
    return reference


def test_training_goes_on_from_there_as_if_nothing_newer_had_been(run: Path, reference: Path, cli: Cli) -> None:
    before = names(run)
    rewound = cli("rewind", f"{run}@4")
    assert rewound.code == 0
    assert rewound.lines[-1] == "rewound to step-000000004.e0000.a0001, as step-000000004.e0000.a0003"
    newer = before[before.index("step-000000004.e0000.a0001") + 1 :]
    assert rewound.lines[:-1] == [f"off the line  {name}  pinned" for name in reversed(newer)]
    assert names(run) == [*before[: -len(newer)], "step-000000004.e0000.a0003"]
    assert sorted(path.name for path in (run / "pins").iterdir()) == sorted(newer)
    assert Run(str(run)).latest().manifest.notes["rewound_from"] == "step-000000004.e0000.a0001"
    Tiny(run, keep={"last": 1, "best": None}).train(3)
    assert_equal_ends(run, reference)
    assert all((run / "checkpoints" / name / "manifest.json").exists() for name in newer)
    assert cli("verify", run).code == 0


def test_what_is_newer_may_be_discarded(run: Path, cli: Cli) -> None:
    newer = cli("rewind", f"{run}@4", "--discard", "--json").json["off_line"]
    assert newer
    assert not list((run / "pins").iterdir())
    Tiny(run, keep={"last": 1, "best": None}).train(3)
    assert not [name for name in newer if (run / "checkpoints" / name).exists()]


def test_a_rewind_is_taken_back_by_the_full_name(run: Path, cli: Cli) -> None:
    newest = names(run)[-1]
    cli("rewind", f"{run}@4")
    back = cli("rewind", f"{run}@{newest}", "--json").json
    assert (back["from"], back["off_line"]) == (newest, ["step-000000004.e0000.a0003"])
    assert Run(str(run)).latest().manifest.finished
    Tiny(run, keep=KEEP_ALL).train(3)
    assert steps_of(run)[-1] == 12


def test_again_it_does_nothing(run: Path, cli: Cli) -> None:
    cli("rewind", f"{run}@4")
    before = files_of(run)
    assert cli("rewind", f"{run}@4").out == f"{run} stands at step-000000004.e0000.a0003 already\n"
    assert cli("rewind", f"{run}@4", "--json").json["name"] is None
    assert files_of(run) == before


@pytest.mark.parametrize("point", ["save.blob", "save.manifest", "save.published"])
def test_killed_in_the_middle_it_is_done_or_not_begun_and_may_be_run_again(
    point: str, run: Path, reference: Path, cli: Cli
) -> None:
    before = names(run)
    killed(point, "rewind", f"{run}@4")
    assert (names(run) == before) is (point != "save.published")
    assert cli("rewind", f"{run}@4").code == 0
    assert names(run)[-1].startswith("step-000000004.e0000.")
    assert set(before) <= {path.name for path in (run / "checkpoints").iterdir()}
    assert cli("verify", run).code == 0
    Tiny(run, keep=KEEP_ALL).train(3)
    assert_equal_ends(run, reference)


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_runs_of_every_version(version: str, tmp_path: Path, cli: Cli) -> None:
    for name in ("run", "reference"):
        shutil.copytree(Path(__file__).parents[1] / "golden" / version / "run", tmp_path / name)
    run, reference = tmp_path / "run", tmp_path / "reference"
    shutil.rmtree(reference / "checkpoints" / "step-000000008.e0002.a0002")
    Golden(reference).train(EPOCHS + 1)
    assert cli("rewind", f"{run}@5").code == 0
    assert cli("diff", f"{run}@step-000000005.e0001.a0002", f"{run}@latest").code == 0
    assert Run(str(run)).latest().manifest.format_version == 3
    Golden(run).train(EPOCHS + 1)
    assert_equal_ends(run, reference)
    assert cli("verify", run).code == 0


def test_checkpoints_of_several_ranks(tmp_path: Path, cli: Cli) -> None:
    run = tmp_path / "run"
    RankWriter(run, 2, along(2)).save(7, model=Net(1))
    RankWriter(run, 2, along(2)).save(9, model=Net(2))
    first = Run(str(run)).at(7)
    assert cli("rewind", f"{run}@7").code == 0
    newest = Run(str(run)).latest()
    assert [blob.digest for blob in newest.manifest.blobs.values()] == [
        first.manifest.blobs[name].digest for name in newest.manifest.blobs
    ]
    assert newest.states == first.states
    assert cli("verify", run).code == 0


def test_in_an_object_store_the_files_are_named_where_they_are(cli: Cli, tmp_path: Path) -> None:
    server = shared_moto()
    run, options = f"s3://{server.new_bucket()}/run", server.options()
    with pytest.raises(Crash):
        Tiny(run, keep=KEEP_ALL, storage_options=options, crash_at=5).train()
    given = ("--storage-options", json.dumps(options))
    assert cli("rewind", f"{run}@2", *given).code == 0
    newest = Run(run, storage_options=options).latest()
    paths = [blob.path for name, blob in newest.manifest.blobs.items() if not name.startswith("state")]
    assert paths
    assert all(path.startswith("checkpoints/step-000000002.e0000.a0001/") for path in paths)
    Tiny(run, keep={"last": 1, "best": None}, storage_options=options).train()
    reference = tmp_path / "reference"
    crashed(reference, step=3)
    Tiny(reference).train()
    assert cli("diff", f"{run}@latest", f"{reference}@latest", *given).code == 0
    assert cli("verify", run, *given).code == 0


def test_a_file_that_as_many_checkpoints_name_as_may_is_written_again(run: Path, cli: Cli) -> None:
    other, name = names(run)[-1], "step-000000004.e0000.a0001"
    for _ in range(10):
        name = cli("rewind", f"{run}@{name}", "--json").json["name"]
        other = cli("rewind", f"{run}@{other}", "--json").json["name"]
    assert {blob.named for blob in Run(str(run)).latest().manifest.blobs.values()} == {1}
    assert cli("verify", run).code == 0


class Leaving(Tiny):
    """Leaves the first epoch behind a step, as a pass that is dropped there."""

    def train(self, epochs: int = 2) -> None:
        with self.trainer() as trainer:
            for epoch in trainer.epochs(epochs):
                for batch in trainer.batches(self.loader):
                    trainer.log(loss=self.step(batch))
                    self.ends(trainer)
                    if epoch == 0 and trainer.step == 1:
                        break


def test_the_next_epoch_begins_where_the_pass_is_dropped(tmp_path: Path, cli: Cli) -> None:
    crashed(tmp_path / "run", step=3)  # the step that the body is in counts with the next one
    assert steps_of(tmp_path / "run") == [0, 2]
    Leaving(tmp_path / "reference").train(3)
    rewound = cli("rewind", f"{tmp_path / 'run'}@2", "--next-epoch", "--json").json
    assert rewound["name"] == "step-000000002.e0001.a0002"
    Tiny(tmp_path / "run").train(3)
    found = Run(str(tmp_path / "run")).latest()
    assert (found.step, found.epoch) == (10, 3)
    assert_equal_ends(tmp_path / "run", tmp_path / "reference")
    assert cli("show", f"{tmp_path / 'run'}@latest").code == 0


def test_the_next_pass_begins_without_epochs_too(tmp_path: Path, cli: Cli) -> None:
    def train(run: Path, *, left_at: int | None = None, crash_at: int | None = None) -> None:
        tiny = Tiny(run, crash_at=crash_at)
        with tiny.trainer() as trainer:
            for epoch in range(3):
                for batch in trainer.batches(tiny.loader):
                    tiny.step(batch)
                    tiny.ends(trainer)
                    if epoch == 0 and trainer.step == left_at:
                        break

    train(tmp_path / "reference", left_at=1)
    with pytest.raises(Crash):
        train(tmp_path / "run", crash_at=3)
    assert cli("rewind", f"{tmp_path / 'run'}@2", "--next-epoch").code == 0
    train(tmp_path / "run")
    assert_equal_ends(tmp_path / "run", tmp_path / "reference")


def refused(cli: Cli, run: Path, *arguments: str) -> str:
    before = files_of(run)
    failed = cli("rewind", *arguments)
    assert failed.code == 1
    assert files_of(run) == before
    return failed.err


def test_an_end_of_an_epoch_has_no_pass_to_drop(run: Path, cli: Cli) -> None:
    assert "found the end of an epoch" in refused(cli, run, f"{run}@8", "--next-epoch")


def test_steps_have_no_epochs(tmp_path: Path, cli: Cli) -> None:
    Tiny(tmp_path).turn(4, lambda trainer: None)
    assert "expected a pass of epochs() or batches(), found steps()" in refused(
        cli, tmp_path, f"{tmp_path}@4", "--next-epoch"
    )


def test_a_damaged_checkpoint_is_refused_untouched(run: Path, cli: Cli) -> None:
    flip_a_bit(run / "checkpoints" / "step-000000004.e0000.a0001" / "model.safetensors")
    assert "model.safetensors: digest differs" in refused(cli, run, f"{run}@4")


def test_a_run_that_a_job_uses_is_refused_untouched(run: Path, cli: Cli) -> None:
    unlock = lock_run(open_storage(str(run)))
    try:
        assert "another job is using this run" in refused(cli, run, f"{run}@4")
    finally:
        unlock()


def test_a_launch_that_still_runs_elsewhere_is_fenced(cli: Cli) -> None:
    run = "memory://tests-rewind/fenced"

    def body(trainer: Trainer) -> None:
        trainer.request_save()
        if trainer.step == 3:
            until_written()
            assert cli("rewind", f"{run}@0", "--json").json["name"] == "step-000000000.e0000.a0002"

    with pytest.raises(FencedError, match=r"attempt 2 .* owns this run now"):
        Tiny(run, keep=KEEP_ALL).turn(6, body)
    assert Run(run).latest().name == "step-000000000.e0000.a0002"
