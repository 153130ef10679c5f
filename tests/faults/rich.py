"""A launch that holds every kind of object there is, over a loader whose sampler has a state; knows no test."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from resumable import Trainer


class Turns(Sampler[int]):
    """Gives the indices from another start in every pass; its state is where the next one starts."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.start = 0

    def __iter__(self) -> Iterator[int]:
        start, self.start = self.start, self.start + 1
        return iter([(start + place) % self.length for place in range(self.length)])

    def __len__(self) -> int:
        return self.length

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start = state["start"] + 0


class Tally:
    """Counts by name: the smallest object with a state of its own."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts = dict(state["counts"].items())


class Net(nn.Module):
    """Tied weights, batch statistics and a buffer that its `state_dict` leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        result: torch.Tensor = self.second(self.norm(self.first(x)))
        return result


class Rich:
    """Everything that one launch makes before its loop; each launch makes the same."""

    def __init__(self, run: Path) -> None:
        torch.manual_seed(1)
        np.random.seed(2)
        random.seed(3)
        self.config = {"run": str(run), "data_seed": 7, "every": {"steps": None, "minutes": None}, "keep": {"last": 1}}
        self.model = Net()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, fused=True)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3)
        self.loader = DataLoader(TensorDataset(torch.arange(16.0).reshape(8, 2)), 2, sampler=Turns(8))
        self.objects: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "tally": Tally(),
            "torch_stream": torch.Generator().manual_seed(4),
            "numpy_stream": np.random.default_rng(5),
            "philox": np.random.Generator(np.random.Philox(6)),
            "old_numpy": np.random.RandomState(7),
            "python_stream": random.Random(8),
            "notes": {"best": 1.5, 3: (None, b"x"), "array": np.arange(3), "tensor": torch.ones(2), "odd": {1, "a"}},
            "more": OrderedDict(a=Counter("ab"), big=[2**80, complex(1, 2), float("inf")]),
        }

    def train(self, steps: int) -> None:
        """Take `steps` steps, save, and leave as a crash would."""
        with Trainer(self.config, **self.objects) as trainer:
            cycle = trainer.cycle([1, 2, 3], name="side")
            for _ in trainer.epochs(9):
                for [x] in trainer.batches(self.loader):
                    next(cycle)
                    self.step(x)
                    trainer.log(loss=0.5)
                    if trainer.step == steps - 1:
                        trainer.request_save()
                    if trainer.step == steps:
                        return

    def resume(self) -> None:
        """Restore everything and fetch one batch, as the first moments of a resumed launch do."""
        with Trainer(self.config, **self.objects) as trainer:
            cycle = trainer.cycle([1, 2, 3], name="side")
            for _ in trainer.epochs(9):
                for _ in trainer.batches(self.loader):
                    next(cycle)
                    return

    def step(self, x: torch.Tensor) -> None:
        """One optimizer step that draws from every stream."""
        for name in ("numpy_stream", "philox"):
            self.objects[name].random()
        self.objects["old_numpy"].rand()
        self.objects["python_stream"].random()
        self.objects["tally"].add("steps")
        noise = torch.rand(2, generator=self.objects["torch_stream"])
        self.model(x + noise + random.random() + float(np.random.rand())).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
