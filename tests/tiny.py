"""The smallest training there is, in this very program: four batches an epoch; knows no test."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from resumable import Run, Trainer
from tests.lab.compare import differences

if TYPE_CHECKING:
    import pytest

BATCHES = 4


class Crash(Exception):
    """Thrown out of a loop's body where a real program would die."""


class Tiny:
    """Everything that one launch of one script makes before its loop; each launch makes the same.

    It saves at the boundaries after the steps in `saves`, without waiting for the clock or for an idle writer, and
    crashes in the body of step `crash_at`.
    """

    def __init__(
        self, run: Path | str, *, saves: Container[int] = range(1, 1000, 2), crash_at: int | None = None, **config: Any
    ) -> None:
        torch.manual_seed(1)
        numpy.random.seed(2)
        random.seed(3)
        self.run = str(run)
        self.config = {"run": self.run, "data_seed": 7, "every": {"steps": None, "minutes": None}} | config
        self.saves = saves
        self.crash_at = crash_at
        self.model = nn.Sequential(nn.Linear(2, 20), nn.BatchNorm1d(20), nn.Dropout(0.25), nn.Linear(20, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.02, momentum=0.9)
        self.notes: dict[str, Any] = {"seen": []}
        samples = torch.arange(4.0 * BATCHES).reshape(2 * BATCHES, 2)
        self.loader = DataLoader(TensorDataset(samples), batch_size=2, shuffle=True)

    def trainer(self, **more: Any) -> Trainer:
        """A trainer of this launch; it is closed by `with`, as a program that ends would."""
        return Trainer(self.config, model=self.model, optimizer=self.optimizer, notes=self.notes, **more)

    def step(self, batch: Any) -> Tensor:
        """One optimizer step; notes down what it saw."""
        loss = self.backward(batch)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def backward(self, batch: Any) -> Tensor:
        """One batch's gradients, added to those that are there."""
        [x] = batch
        self.notes["seen"].append(x[:, 0].tolist())
        loss = self.model(x / 16).square().mean()
        loss.backward()
        return loss.detach()

    def ends(self, trainer: Trainer) -> None:
        """The last line of a loop's body."""
        if trainer.step in self.saves:
            trainer.request_save()
        if trainer.step == self.crash_at:
            raise Crash

    def train(self, epochs: int = 2) -> None:
        """The plain loop to its end, or to its crash."""
        with self.trainer() as trainer:
            for _ in trainer.epochs(epochs):
                for batch in trainer.batches(self.loader):
                    trainer.log(loss=self.step(batch))
                    self.ends(trainer)

    def turn(self, steps: int, body: Callable[[Trainer], None]) -> None:
        """A loop without a loader, with the body given."""
        with self.trainer() as trainer:
            for _ in trainer.steps(steps):
                body(trainer)


def crashed(run: Path | str, *, step: int, **options: Any) -> None:
    """Train until a crash in the body of `step`; what was saved before is durable."""
    try:
        Tiny(run, crash_at=step, **options).train()
    except Crash:
        return
    raise AssertionError(f"the training ended before step {step}")


def assert_equal_ends(one: Path | str, other: Path | str) -> None:
    """The newest checkpoints of two runs hold the same bits."""
    found = differences(Run(str(one)), Run(str(other)))
    assert not found, "\n".join(found[:20])


def steps_of(run: Path | str) -> list[int]:
    """The steps of the checkpoints that stand, oldest first."""
    return [checkpoint.step for checkpoint in Run(str(run)).checkpoints()]


def draw_from_all_streams() -> Iterator[float]:
    """One number of each global stream."""
    yield torch.rand(()).item()
    yield float(numpy.random.rand())
    yield random.random()


def saved(run: Path | str) -> list[tuple[int, str]]:
    """Step and reason of every checkpoint that stands, oldest first."""
    return [(checkpoint.step, checkpoint.manifest.reason) for checkpoint in Run(str(run)).checkpoints()]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines that warn, in order."""
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("WARN")]


def until_written() -> None:
    """Wait for the save in flight, so that what comes next does not depend on the speed of the disk."""
    for thread in threading.enumerate():
        if thread.name == "resumable-writer":
            thread.join()
