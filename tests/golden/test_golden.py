"""Runs that earlier versions of the program wrote: read now, and for ever, with exactly the values they had then."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from resumable import Run, RunMismatchError, Trainer
from resumable.cli import app
from resumable.state.objects.choose_adapter import adapt
from resumable.store.layout import CHECKPOINTS
from tests.golden.launch import EPOCHS, Golden
from tests.golden.values import exact_digest
from tests.golden.write import expected

VERSIONS = sorted(path.name for path in Path(__file__).parent.glob("v[0-9]*"))
FINAL = "step-000000008.e0002.a0002"

pytestmark = pytest.mark.parametrize("version", VERSIONS)


def golden(version: str) -> Path:
    return Path(__file__).parent / version / "run"


def held(version: str) -> dict[str, Any]:
    """What the run held when it was written."""
    document: dict[str, Any] = json.loads(golden(version).with_name("expected.json").read_bytes())
    return document


def copied(version: str, to: Path) -> Path:
    return Path(shutil.copytree(golden(version), to / "run"))


def ls(run: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit, match="0"):
        app(["ls", "--json", str(run)])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_its_files_are_as_they_were_written(version: str) -> None:
    found = {path: hashlib.sha256((golden(version) / path).read_bytes()).hexdigest() for path in held(version)["files"]}
    assert found == held(version)["files"]
    assert sum(path.stat().st_size for path in golden(version).parent.rglob("*") if path.is_file()) < 200_000


def test_everything_that_it_holds_reads_as_it_did_when_it_was_written(version: str) -> None:
    assert json.loads(json.dumps(expected(golden(version)))) == held(version)


def test_it_verifies_and_is_listed(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        app(["verify", "--json", str(golden(version))])
    assert json.loads(capsys.readouterr().out)["ok"]
    listed = ls(golden(version), capsys)
    assert not listed["rejected"]
    wanted = held(version)["checkpoints"]
    assert [row["name"] for row in listed["checkpoints"]] == [checkpoint["name"] for checkpoint in wanted]
    assert [row["metrics"]["bad"] for row in listed["checkpoints"]] == ["nan"] * len(wanted)
    assert [row["resumed_from"] for row in listed["checkpoints"]] == [c["lineage"][-1][1] for c in wanted]
    assert listed["checkpoints"][-1]["flags"] == ["latest", "finished"]


def test_a_launch_resumes_it_inside_an_epoch_with_every_object_as_it_was(version: str, tmp_path: Path) -> None:
    run = copied(version, tmp_path)
    shutil.rmtree(run / CHECKPOINTS / FINAL)
    launch = Golden(run)
    checkpoint = Run(str(run)).latest()
    trees = {name: checkpoint.tree(name) for name in launch.objects}
    with Trainer(launch.config, **launch.objects) as trainer:
        trainer.cycle(launch.side, name="side")
        assert (trainer.step, trainer.resumed_from) == (5, checkpoint.name)
        for _ in trainer.epochs(EPOCHS):
            for number, _ in trainer.enumerate(launch.loader):
                assert number == 1
                for name, adapter in adapt(launch.objects).items():
                    assert digest_of(adapter.capture()) == digest_of(trees[name]), name
                return


def digest_of(tree: Any) -> str:
    # Versions of torch's modules are theirs, and so is what their schedulers and groups have more of one day.
    return exact_digest({**tree, "metadata": None} if isinstance(tree, dict) and "metadata" in tree else tree)


def test_what_is_finished_trains_nothing_and_a_larger_number_continues(version: str, tmp_path: Path) -> None:
    run = copied(version, tmp_path)
    Golden(run).train()
    assert Run(str(run)).latest().name == FINAL
    Golden(run).train(EPOCHS + 1)
    newest = Run(str(run)).latest()
    assert newest.name == "step-000000012.e0003.a0004"
    assert newest.notes["built_with"]["settings"]["optimizer.lr"] == [[0.002, 1], [0.004, 1]]


def test_what_the_first_launch_was_built_with_is_compared(
    version: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = copied(version, tmp_path)
    for values, eps in (({}, 1e-8), ({"overrule": ["optimizer.eps"]}, 0.5)):
        launch = Golden(run)
        launch.config |= values
        launch.optimizer.defaults["eps"] = 0.5
        for group in launch.optimizer.param_groups:
            group["eps"] = 0.5
        launch.train()
        known = version == "v3"  # others hold nothing of it
        assert launch.optimizer.param_groups[1]["eps"] == (eps if known else 1e-8)
    named = [line for line in map(str, (each.getMessage() for each in caplog.records)) if "optimizer.eps" in line]
    assert len(named) == (2 if known else 0)
    assert all("optimizer.eps 1e-08->0.5" in line for line in named)


def test_another_model_is_refused(version: str, tmp_path: Path) -> None:
    launch = Golden(copied(version, tmp_path))
    launch.objects["model"].norm = None
    different = pytest.raises(RunMismatchError, match="model: not in this module: norm")
    with Trainer(launch.config, **launch.objects) as trainer, different:
        trainer.restore()
