"""A loop whose objects are in containers and attributes; knows no kill."""

from __future__ import annotations

import collections
import dataclasses
import random
from typing import Any, NamedTuple

import numpy
import torch
from torch import nn

from resumable import attributes
from tests.lab.feeds import loss_of
from tests.lab.loops import train_loader, update
from tests.lab.script import Script, scenario, seed_all


class Seen(NamedTuple):
    """One step, as a replay memory holds it."""

    state: torch.Tensor
    loss: float


@dataclasses.dataclass
class Best:
    """The best loss so far, and the last ones."""

    loss: float = float("inf")
    recent: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=5))


class Noise:
    """Has a generator of its own, and an attribute that appears while it is used."""

    __slots__ = ("drawn", "generator", "show")

    def __init__(self) -> None:
        self.generator = random.Random(5)
        self.show = print

    def __call__(self) -> float:
        self.drawn = getattr(self, "drawn", 0) + 1
        return self.generator.gauss(0, 0.01) * self.drawn


@scenario
def containers(script: Script) -> None:
    """Modules in a list, optimizers and plain values in a dict, a replay memory, attributes, a tensor and an array."""
    seed_all()
    nets = [nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2)), nn.Linear(8, 3)]
    opts: dict[str, Any] = {
        "body": torch.optim.AdamW(nets[0].parameters(), lr=0.01),
        "head": (torch.optim.SGD(nets[1].parameters(), lr=0.1, momentum=0.9), {"lr": 0.1}),
        "streams": [torch.Generator().manual_seed(1), numpy.random.default_rng(2)],
    }
    memory: collections.deque[Seen] = collections.deque(maxlen=12)
    counts: collections.defaultdict[str, list[int]] = collections.defaultdict(list)
    best, noise = Best(), Noise()
    table, rows = torch.zeros(4, 12)[:, ::2], numpy.zeros(9)[::-2]
    trainer = script.trainer(
        nets=nets,
        opts=opts,
        memory=memory,
        counts=counts,
        best=attributes(best),
        noise=attributes(noise),
        table=table,
        rows=rows,
    )
    for _ in trainer.epochs(2):
        for x, y in trainer.batches(train_loader(script)):
            jitter = torch.rand(x.shape, generator=opts["streams"][0]) * noise()
            loss = loss_of(nets[1](nets[0](x + jitter)), y) + table.mean()
            update(opts["body"], loss)
            update(opts["head"][0], loss_of(nets[1](nets[0](x)), y))
            opts["head"][1]["lr"] *= 0.99
            opts["head"][0].param_groups[0]["lr"] = opts["head"][1]["lr"]
            memory.append(Seen(x[0].clone(), loss.item()))
            counts[f"kind {len(memory) % 3}"].append(trainer.step)
            best.loss = min(best.loss, loss.item(), *(seen.loss for seen in random.choices(memory, k=2)))
            best.recent.append(best.loss)
            table[trainer.step % 4] = x[0, :1]
            rows[trainer.step % 5] += opts["streams"][1].random()
            script.saw(trainer, x, loss, best.loss, table.clone(), rows.copy(), sum(best.recent))
