"""Leaving a fit: by the stop button, by an exception, and the same cell again in one program."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from resumable import FencedError, Interrupted, LoopError, Preempted, Run, Trainer
from resumable.errors import CellInterrupted
from resumable.lightning import Resume

STEPS = 4  # in an epoch

pytestmark = [pytest.mark.filterwarnings("ignore")]  # Lightning's own


class Module(pl.LightningModule):
    """Calls `body` in each training step."""

    def __init__(self, body: Callable[[int], object] = lambda step: None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.body = body

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.body(self.global_step)
        loss: torch.Tensor = self.layer(batch[0]).mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[str]]:
    """The log lines of one event until now."""
    caplog.set_level(logging.INFO, logger="resumable")
    return lambda event: [each.getMessage() for each in caplog.records if each.getMessage().startswith(event)]


def fit(run: Path, module: Module, *more: pl.Callback) -> None:
    config = {"run": str(run), "data_seed": 1, "every": {"steps": 100, "minutes": None}}
    trainer = pl.Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[*more, Resume(config)],
    )
    samples = torch.arange(4.0 * STEPS).reshape(2 * STEPS, 2)
    trainer.fit(module, DataLoader(TensorDataset(samples), batch_size=2))


def interrupts(step: int) -> None:
    if step == 4:
        os.kill(os.getpid(), signal.SIGINT)


def fails(step: int) -> None:
    if step == 5:
        raise ValueError("a typo")


class Broken(pl.Callback):
    """Fails where it is told of a failure, so that no other callback is told."""

    def on_exception(self, *_: object) -> None:
        raise OSError("the pager is down")


def test_the_stop_button_is_a_keyboard_interrupt_that_has_saved_and_keeps_its_code(
    tmp_path: Path, lines: Callable[[str], list[str]]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(tmp_path / "run", Module(interrupts))
    assert isinstance(caught.value, Interrupted)
    assert isinstance(caught.value, Preempted)
    assert (caught.value.code, caught.value.step, caught.value.saved) == (130, 5, True)
    assert signal.getsignal(signal.SIGINT) is before
    assert lines("WARN") == []
    fit(tmp_path / "run", Module())
    last = Run(str(tmp_path / "run")).latest()
    assert (last.step, last.manifest.finished, last.manifest.attempt) == (2 * STEPS, True, 2)


def test_in_a_notebook_the_stop_button_is_no_system_exit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel reports a `SystemExit` as a mistake; `tests/loop/test_notebook.py` has a real one."""
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", kernel)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(tmp_path / "run", Module(interrupts))
    assert isinstance(caught.value, CellInterrupted)
    assert not isinstance(caught.value, SystemExit)
    assert str(caught.value) == "stopped at step 5, saved; run the cell again to continue"


def test_a_fit_whose_end_nobody_was_told_of_is_taken_over(tmp_path: Path, lines: Callable[[str], list[str]]) -> None:
    with pytest.raises(OSError, match="the pager is down"):
        fit(tmp_path / "run", Module(fails), Broken())
    fit(tmp_path / "run", Module())
    [line] = lines("TAKEOVER")
    assert 'from="attempt 1" attempt=2' in line
    assert Run(str(tmp_path / "run")).latest().step == 2 * STEPS


def test_steps_that_are_in_no_checkpoint_are_said(tmp_path: Path, lines: Callable[[str], list[str]]) -> None:
    with pytest.raises(ValueError, match="a typo"):
        fit(tmp_path / "run", Module(fails))
    [line] = lines("WARN")
    assert "trained up to step 5, but the newest checkpoint is of step 0" in line
    assert "trainer.should_stop" in line


def test_a_fit_takes_over_an_idle_trainer_and_is_not_taken_over_while_it_runs(tmp_path: Path) -> None:
    config = {"run": str(tmp_path / "run"), "data_seed": 1}
    idle, refused = Trainer(config, progress={"n": 0}), []

    def launches(step: int) -> None:
        with pytest.raises(FencedError, match="this program has a Trainer on this run already"):
            Trainer(config, progress={"n": 0})
        refused.append(step)

    fit(tmp_path / "run", Module(launches))
    assert len(refused) == 2 * STEPS
    with pytest.raises(LoopError, match="attempt 1 of this program took the run over"):
        idle.stop()
