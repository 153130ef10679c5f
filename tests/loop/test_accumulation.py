"""Accumulation by Accelerate: a counter that no checkpoint holds is told once, and what the line says helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin
from torch.utils.data import DataLoader, TensorDataset

from resumable import Trainer
from resumable.data.passes.replay import faster_hint
from tests.tiny import Crash, assert_equal_ends

TOLD = "no object given to Trainer(...) stores"
BATCHES, EPOCHS = 6, 3  # a window of 4 is cut short by the end of each epoch


@pytest.fixture(autouse=True)
def _no_state_of_another_program() -> Iterator[None]:
    _reset()
    yield
    _reset()


def _reset() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Window:
    """What the line asks for."""

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


def launch(
    run: Path,
    *,
    crash_at: int | None = None,
    window: Callable[[Accelerator], Any] | None = None,
    prepared: bool = True,
    inside: bool = True,
    **options: Any,
) -> list[bool]:
    """One launch of a loop that accumulates; returns where its windows ended."""
    _reset()
    torch.manual_seed(1)
    accelerator = Accelerator(cpu=True, **(options or {"gradient_accumulation_steps": 4}))
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    plain = DataLoader(TensorDataset(torch.arange(4.0 * BATCHES).reshape(-1, 2)), batch_size=2, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, plain)
    objects = {"model": model, "optimizer": optimizer} | ({"window": window(accelerator)} if window else {})
    ends = []
    config = {"run": str(run), "data_seed": 7, "every": {"steps": None, "minutes": None}}
    with Trainer(config, **objects) as trainer:
        for _ in trainer.epochs(EPOCHS):
            for [x] in trainer.batches(loader if prepared else plain):
                optimizer.zero_grad()  # of what the window before left, which its flag decides
                for _ in range(1 if inside else 4):
                    with accelerator.accumulate(model):
                        accelerator.backward(model(x / 16).square().mean())
                        optimizer.step()
                ends.append(accelerator.sync_gradients)
                trainer.request_save()
                if trainer.step == crash_at:
                    raise Crash
    return ends


def told(caplog: pytest.LogCaptureFixture) -> int:
    return caplog.text.count(TOLD)


@pytest.mark.parametrize("crash_at", [2, 5, 9])
@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "from before prepare()"])
def test_with_the_object_that_the_line_asks_for_all_windows_are_those_of_an_undisturbed_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, prepared: bool, crash_at: int
) -> None:
    with pytest.raises(Crash):
        launch(tmp_path / "run", crash_at=crash_at, window=Window, prepared=prepared)
    rest = launch(tmp_path / "run", window=Window, prepared=prepared)
    whole = launch(tmp_path / "whole", window=Window, prepared=prepared)
    assert rest == whole[crash_at:]
    assert whole.count(True) == (6 if prepared else 4)
    assert_equal_ends(tmp_path / "run", tmp_path / "whole")
    assert told(caplog) == 0


@pytest.mark.parametrize("window", [None, Beside], ids=["none", "of something else"])
def test_without_it_windows_are_shifted_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, window: Any
) -> None:
    whole = launch(tmp_path / "whole", window=window)
    assert told(caplog) == 1
    assert "whose state_dict returns accelerator.step and accelerator.sync_gradients" in caplog.text
    with pytest.raises(Crash):
        launch(tmp_path / "run", crash_at=3, window=window)
    assert launch(tmp_path / "run", window=window) != whole[3:]


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 1},
        {"gradient_accumulation_steps": 4, "window": in_a_closure},
        {"gradient_accumulation_steps": 4, "inside": False},
    ],
    ids=["no accumulation", "an object of functions", "whole windows in a step"],
)
def test_a_program_that_loses_no_window_is_told_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    launch(tmp_path / "run", **options)
    assert told(caplog) == 0


def test_what_an_earlier_training_in_the_same_program_left_is_not_told_to_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Crash):
        launch(tmp_path / "run", crash_at=2, window=Window)
    with Trainer({"run": str(tmp_path / "other")}, notes={}) as trainer:
        assert GradientState().sync_gradients is False
        assert list(trainer.steps(3)) == [0, 1, 2]
    assert told(caplog) == 0


def test_no_other_loader_is_advised_that_would_train_otherwise() -> None:
    flushing, going_on = (GradientAccumulationPlugin(num_steps=4, sync_with_dataloader=sync) for sync in (True, False))
    for options, helps in (
        ({"gradient_accumulation_steps": 1}, True),
        ({"gradient_accumulation_plugin": flushing}, False),
        ({"gradient_accumulation_plugin": going_on}, True),
    ):
        _reset()
        accelerator = Accelerator(cpu=True, **options)  # type: ignore[arg-type]
        prepared = accelerator.prepare(DataLoader(TensorDataset(torch.arange(8.0)), 2))
        assert ("pass the DataLoader from before prepare()" in faster_hint(prepared)) == helps
        assert ("there is nothing faster" in faster_hint(prepared)) != helps


@pytest.mark.parametrize("sync", [True, False])
def test_where_the_loader_from_before_is_advised_it_gives_the_same_windows(tmp_path: Path, sync: bool) -> None:
    plugin = GradientAccumulationPlugin(num_steps=4, sync_with_dataloader=sync)
    ends = [
        launch(tmp_path / str(prepared), prepared=prepared, gradient_accumulation_plugin=plugin)
        for prepared in (True, False)
    ]
    assert (ends[0] == ends[1]) == (not sync)
