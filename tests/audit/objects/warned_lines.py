"""A small training for the loops of these tests, and the WARN lines that a loop causes; knows no test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from resumable import Trainer

INPUTS = torch.linspace(-1, 1, 64).reshape(16, 4)
LABELS = (INPUTS.sum(1) > 0).long()


class Setting:
    """The run, the model, its optimizer and the data of one loop."""

    def __init__(self, run: Path) -> None:
        torch.manual_seed(0)
        self.run = run
        self.model = network()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        self.loader = DataLoader(TensorDataset(INPUTS, LABELS), 4, shuffle=True)

    def trainer(self, config: dict[str, Any] | None = None, **more: Any) -> Trainer:
        """Return a trainer that has the model and the optimizer."""
        return self.bare(config, model=self.model, optimizer=self.optimizer, **more)

    def bare(self, config: dict[str, Any] | None = None, **objects: Any) -> Trainer:
        """Return a trainer that has these objects alone."""
        return Trainer({"run": str(self.run), "every": {"steps": 3}, "data_seed": 7} | (config or {}), **objects)

    def step(self, batch: Any) -> Tensor:
        """Train one step, and return the loss."""
        return step(self.model, self.optimizer, batch)


def network() -> nn.Sequential:
    """Return the smallest network with every kind of part that has a state."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> Tensor:
    """Train one step, and return the loss."""
    inputs, labels = batch
    loss = nn.functional.cross_entropy(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


@contextmanager
def warned() -> Iterator[list[str]]:
    """Collect the WARN lines of the block, without that word."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            event, _, words = record.getMessage().partition(" ")
            if event == "WARN":
                lines.append(words.strip())

    handler = Collector(logging.WARNING)
    log = logging.getLogger("resumable")
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
