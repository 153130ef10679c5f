"""What Accelerate and Fabric prepared is reported once where the object that prepared it was forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import GradientState

from resumable import Trainer
from tests.prepared.training import Program
from tests.tiny import Crash, assert_equal_ends

MISSING = "no object given to Trainer(...) stores the"


class Window:
    """What an earlier version's line advised."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.accelerator.step, "sync": self.accelerator.sync_gradients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.accelerator.step, self.accelerator.sync_gradients = state["step"], state["sync"]


class Beside(Window):
    """Holds the accelerator, too, and stores something else."""

    def state_dict(self) -> dict[str, Any]:
        return {"process": self.accelerator.process_index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def in_a_closure(accelerator: Accelerator) -> Any:
    def load(state: dict[str, Any]) -> None:
        accelerator.step, accelerator.sync_gradients = state["step"], state["sync"]

    return SimpleNamespace(
        state_dict=lambda: {"step": accelerator.step, "sync": accelerator.sync_gradients}, load_state_dict=load
    )


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("WARN")]


@pytest.mark.parametrize("window", [None, Beside], ids=["none", "of something else"])
def test_without_the_accelerator_windows_are_shifted_and_one_line_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, window: Any
) -> None:
    def launch(run: str, **options: Any) -> list[bool]:
        program = Program()
        more = {"window": window(program.accelerator)} if window else {}
        return program.train(tmp_path / run, program.updated | more, **options)

    whole = launch("whole")
    [line] = warnings(caplog)
    assert f"Accelerate prepared model, optimizer, scheduler, and {MISSING} Accelerator" in line
    assert line.endswith("add it: Trainer(..., accelerator=accelerator)")
    with pytest.raises(Crash):
        launch("run", crash_at=3)
    assert launch("run") != whole[3:]


@pytest.mark.parametrize("window", [Window, in_a_closure])
def test_an_object_that_stores_the_counter_is_as_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, window: Callable[[Accelerator], Any]
) -> None:
    def launch(run: str, **options: Any) -> list[bool]:
        program = Program()
        return program.train(tmp_path / run, program.updated | {"window": window(program.accelerator)}, **options)

    with pytest.raises(Crash):
        launch("run", crash_at=3)
    assert launch("run") == launch("whole")[3:]
    assert_equal_ends(tmp_path / "run", tmp_path / "whole")
    assert warnings(caplog) == []


UNWRAPPED: dict[str, Any] = {
    "the loader": ("Accelerate prepared the loader", lambda program: program.loader),
    "the window": ("accelerator.accumulate() accumulates 4 batches", lambda program: program.plain),
}


@pytest.mark.parametrize("seen", UNWRAPPED)
def test_it_is_seen_by_what_is_left_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture, seen: str) -> None:
    program = Program()
    del program.model._is_accelerate_prepared
    objects = {
        "model": program.model,
        "optimizer": program.optimizer.optimizer,
        "scheduler": program.scheduler.scheduler,
    }
    expected, loader = UNWRAPPED[seen]
    program.train(tmp_path / "run", objects, loader=loader(program))
    [line] = warnings(caplog)
    assert f"{expected}, and {MISSING} Accelerator" in line


@pytest.mark.alarms("StepLR")
def test_a_scheduler_that_was_prepared_and_forgotten_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for registered in (False, True):
        program = Program()
        if registered:
            program.accelerator.register_for_checkpointing(program.scheduler)
        objects = {"accelerator": program.accelerator} | program.updated
        del objects["scheduler"]
        program.train(tmp_path / str(registered), objects)
    [line] = warnings(caplog)
    assert "Accelerate prepared a StepLR that was not given to Trainer(...): it is in no checkpoint" in line


def test_the_objects_inside_the_wrappers_are_not_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = Program()
    optimizer, scheduler = program.optimizer.optimizer, program.scheduler.scheduler
    objects = {"any_name": program.accelerator, "model": program.model, "optimizer": optimizer, "scheduler": scheduler}
    program.train(tmp_path / "run", objects)
    assert warnings(caplog) == []


def test_an_earlier_training_in_the_same_program_is_not_reported_for_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = Program()
    with pytest.raises(Crash):
        program.train(tmp_path / "run", {"accelerator": program.accelerator} | program.updated, crash_at=2)
    with Trainer({"run": str(tmp_path / "other")}, notes={}) as trainer:
        assert GradientState().sync_gradients is False
        assert list(trainer.steps(3)) == [0, 1, 2]
    assert MISSING not in caplog.text


def test_a_fabric_is_reported_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fabrics = pytest.importorskip("lightning_fabric", reason="needs pytorch-lightning")
    fabric = fabrics.Fabric(accelerator="cpu", devices=1)
    model = torch.nn.Linear(2, 1)
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for more in ({}, {"fabric": fabric}):
        with Trainer({"run": str(tmp_path / str(len(more)))}, model=model, optimizer=optimizer, **more):
            pass
    [line] = warnings(caplog)
    assert f"Fabric prepared model, optimizer, and {MISSING} Fabric" in line
    assert line.endswith("add it: Trainer(..., fabric=fabric)")
