"""The ends of a training: finished, stopped early, extended, left by a signal or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resumable import Run
from tests.harness.place import Launch, killed, preempted
from tests.huggingface.launches import Place
from tests.huggingface.watch import crc

PROGRAMS = "tests.huggingface.programs"


def place(folder: Path, program: str = "points", **options: Any) -> Place:
    return Place(folder, f"{PROGRAMS}:{program}", **options)


def test_a_signal_between_two_batches_of_a_window_waits_for_its_end(tmp_path: Path) -> None:
    _, ended = place(tmp_path).crash_and_rerun(preempted("batch:8", saved=9))
    assert "PREEMPT signal=SIGTERM step=9 saved=yes exit=75" in ended[0].output


def test_a_signal_that_has_waited_leaves_the_window_with_the_last_checkpoint(tmp_path: Path) -> None:
    """Windows of four batches, and a grace of nothing: it leaves behind the batch after the signal."""
    options = {"gradient_accumulation_steps": 4, "window_seconds": 0.0}
    _, ended = place(tmp_path, "hasty", **options).crash_and_rerun(preempted("batch:3", saved=2))
    assert "PREEMPT signal=SIGTERM step=3 saved=no newest=2 exit=75" in ended[0].output


@pytest.mark.matrix
def test_a_signal_in_an_evaluation_leaves_at_once(tmp_path: Path) -> None:
    place(tmp_path).crash_and_rerun(preempted("evaluate:8", saved=6))


def test_the_final_checkpoint_is_that_before_the_best_model_was_loaded(tmp_path: Path) -> None:
    """What is loaded is in no checkpoint; a finished run that is started again trains nothing and loads it again."""
    here = place(tmp_path, "stopping", patience=2, eval_steps=2, num_train_epochs=20)
    whole, _ = here.crash_and_rerun(killed("update:7", saved=6))
    trained = [line for line in whole.events if line.startswith("update ")][-1].split("weights=")[1].split()[0]
    loaded = whole.events[-1].split("weights=")[1]
    assert trained != loaded
    assert here.launch().events[-1] == whole.events[-1]
    last = Run(str(here.here / "run")).latest()
    assert last.manifest.finished
    assert str(crc(last.load("model").values())) == trained


def test_a_finished_run_that_is_started_again_trains_nothing(tmp_path: Path) -> None:
    here = place(tmp_path)
    whole = here.launch()
    again = here.launch(Launch(options={"seed": 3}))
    assert "DONE    step=15 epoch=3" in again.output
    assert [line.split()[0] for line in again.events] == ["log", "end"]
    assert again.events[-1] == whole.events[-1]


@pytest.mark.matrix
def test_a_finished_run_goes_on_with_more_epochs(tmp_path: Path) -> None:
    """The schedule of the learning rate is constant, so that the longer run is the same from its start."""
    short, long = {"num_train_epochs": 2}, {"num_train_epochs": 4}
    here = place(tmp_path, lr_scheduler_type="constant", eval_steps=100, eval_strategy="no")
    whole = here.launch(Launch(options=long))
    here.keep_as("whole")
    here.launch(Launch(options=short))
    rest = here.launch(Launch(options=long))
    assert rest.resumed_from == 10
    updates = [line for line in whole.events if line.startswith("update ")]
    assert [line for line in rest.events if line.startswith("update ")] == updates[10:]
