"""The launch that wrote the golden run with every feature of version 3; never changed, or it fits the run no more."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from resumable import Trainer, attributes
from tests.golden.launch import Crash

FEATURES = {"carried", "containers", "dataset_states", "parts", "sampling_orders"}
EPOCHS = 2


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: float


class Counted(Dataset[Tensor]):
    """A map-style dataset that has a state."""

    def __init__(self) -> None:
        self.scale = 1.0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, at: int) -> Tensor:
        return torch.tensor([float(at), self.scale])

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale = state["scale"]


class Weighted(Sampler[int]):
    """Draws by weights that the training changes, from torch's global stream."""

    def __init__(self) -> None:
        self.weights = torch.ones(8)

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Iterator[int]:
        return iter(torch.multinomial(self.weights, 8, replacement=True).tolist())


class Loop:
    """A plain object with the state of a loop."""

    def __init__(self) -> None:
        self.seen, self.best = 0, float("inf")


class Featured:
    """Everything that one launch makes before its loop; each launch makes the same."""

    def __init__(self, run: Path | str) -> None:
        torch.manual_seed(1)
        self.config = {"run": str(run), "data_seed": 5, "every": {"steps": None, "minutes": None}, "keep": {"last": 9}}
        self.nets = {"left": nn.Linear(2, 1), "right": nn.Linear(2, 1)}
        self.optimizers = [torch.optim.SGD(each.parameters(), lr=0.01, momentum=0.9) for each in self.nets.values()]
        self.loop, self.data, self.sampler = Loop(), Counted(), Weighted()
        self.values: dict[str, Any] = {"recent": deque([0.5], maxlen=2), "count": defaultdict(int), "at": Point(0, 0.0)}
        self.objects = {
            "nets": self.nets,
            "optimizers": self.optimizers,
            "loop": attributes(self.loop),
            "values": self.values,
            "weights": self.sampler.weights,
        }
        self.carried: list[tuple[float, float]] = []

    def train(self, epochs: int = EPOCHS, *, saves: tuple[int, ...] = (), crash_at: int | None = None) -> None:
        """The loop to its end, or to its crash in the body of a step."""
        rate, hidden = 1.0, torch.zeros(2)
        with Trainer(self.config, **self.objects) as trainer:
            trainer.carry("rate", "hidden")
            for _ in trainer.epochs(epochs):
                for x in trainer.batches(DataLoader(self.data, batch_size=2, sampler=self.sampler)):
                    self.carried.append((rate, float(hidden.sum())))
                    rate, hidden = rate * 0.5, hidden + x.mean(0)
                    trainer.log(loss=self.step(x + hidden, trainer.step))
                    if trainer.step in saves:
                        trainer.request_save()
                    if trainer.step == crash_at:
                        raise Crash

    def step(self, x: Tensor, number: int) -> float:
        """One step that changes every object; returns the last loss."""
        last = 0.0
        for net, optimizer in zip(self.nets.values(), self.optimizers, strict=True):
            loss = net(x / 32).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            last = loss.item()
        self.loop.seen, self.loop.best = number, min(self.loop.best, last)
        self.values["recent"].append(last)
        self.values["count"]["steps"] += 1
        self.values["at"] = Point(number, last)
        self.data.scale += 0.25
        self.sampler.weights += 0.5
        return last
