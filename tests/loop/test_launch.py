"""A launch without a trainer: what a further driver of loops gets from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resumable import Config, Run
from resumable.checkpointing.position import Position
from resumable.loop.boundary import Instant
from resumable.loop.launch import EvaluationAddresses, Launch


def launched(run: Path, counts: dict[str, int]) -> Launch:
    launch = Launch(Config.load(run), {"counts": counts})
    launch.start(idle=lambda: False, close=lambda: None)
    return launch


def at(launch: Launch, step: int, *, last: bool = False) -> Callable[[], Instant]:
    return lambda: launch.instant(
        lambda: Position(loop="steps", step=step),
        lambda: {"loss": 1.0 / (step + 1)},
        step=step,
        epoch=0,
        inside_epoch=False,
        last=last,
    )


def test_a_driver_begins_saves_and_ends(tmp_path: Path) -> None:
    launch = launched(tmp_path / "run", {"steps": 0})
    assert launch.progress.pending is None
    launch.begin(at(launch, 0))
    launch.begin(at(launch, 0))  # only the first one saves
    launch.boundary.reached(at(launch, 1, last=True)())
    launch.close(trained=1, keep="")
    first, last = Run(tmp_path / "run").checkpoints()
    assert (first.step, last.step, last.manifest.finished) == (0, 1, True)
    assert last.manifest.metrics == {"loss": 0.5}


def test_a_resume_is_pending_and_its_begin_saves_nothing(tmp_path: Path) -> None:
    launch = launched(tmp_path / "run", {"steps": 0})
    launch.boundary.reached(at(launch, 3, last=True)())
    launch.close(trained=3, keep="")
    launch = launched(tmp_path / "run", {"steps": 0})
    assert launch.progress.pending is not None
    assert (launch.progress.pending.step, launch.progress.pending.finished) == (3, True)
    launch.begin(at(launch, 3))
    launch.close(trained=None, keep="")
    assert [checkpoint.step for checkpoint in Run(tmp_path / "run").checkpoints()] == [3]


def test_steps_in_no_checkpoint_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    launch = launched(tmp_path / "run", {"steps": 0})
    launch.begin(at(launch, 0))
    launch.close(trained=2, keep="save them")
    launch.close(trained=2, keep="save them")
    [warning] = [record.getMessage() for record in caplog.records if "trained up to step 2" in record.getMessage()]
    assert "the newest checkpoint is of step 0" in warning
    assert warning.endswith("to keep such steps, save them")


def test_evaluations_are_numbered_by_loop_since_the_last_boundary() -> None:
    addresses = EvaluationAddresses()
    taken = [addresses.take(loop, step=5) for loop in ("validate:0", "validate:1", "validate:0")]
    assert [(each.loop, each.number, each.epoch) for each in taken] == [
        ("validate:0", 0, 5),
        ("validate:1", 0, 5),
        ("validate:0", 1, 5),
    ]
    addresses.clear()
    assert addresses.take("validate:0", step=6).number == 0
