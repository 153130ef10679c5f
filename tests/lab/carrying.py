"""Scenarios whose state is in variables of the loop, named by `trainer.carry`; knows no kill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from resumable import Trainer
from tests.lab.feeds import loss_of
from tests.lab.loops import train_loader, update, validate
from tests.lab.script import Script, scenario, seed_all
from tests.lab.toys import BATCH, CLASSES, INPUTS, mlp


class Recurrent(nn.Module):
    """A GRU over the batches of the whole training, as a language model over its text."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(INPUTS, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of one step, and the next hidden state."""
        out, hidden = self.gru(x[None], hidden)
        return self.head(out[0]), hidden


@scenario
def carried_language_model(script: Script) -> None:
    """A hidden state and a learning rate that validation anneals, in variables, as in word_language_model."""
    seed_all()
    model = Recurrent()
    loader = train_loader(script)
    trainer = script.trainer(model=model)
    lr, best, history = 0.5, None, []
    trainer.carry("lr", "best", "hidden", "history")
    for epoch in trainer.epochs(3):
        hidden = torch.zeros(1, BATCH, 8) + epoch
        total, lr = 0.0, lr * 0.99
        for x, y in trainer.batches(loader):
            out, hidden = model(x, hidden)
            loss = loss_of(out, y)
            model.zero_grad()
            loss.backward()
            hidden = hidden.detach()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(lr * parameter.grad)
            total += loss.item()
            history = [*history[-5:], loss.item()]
            script.saw(trainer, x, y, loss, lr, history)
        value = sum(history[-3:])
        if best is None or value < best:
            best = value
        else:
            lr /= 4
        script.saw(trainer, lr, best, where="validated")


@scenario
def carried_prefetch(script: Script) -> None:
    """nanoGPT's shape in a method: a prefetched batch, a best value, its own learning rate, counters and a deque."""
    seed_all()
    Prefetching(script).train()


class Prefetching:
    """Trains by `steps`, with what it needs for the next step in local variables."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.model = mlp()
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def batch(self) -> tuple[Tensor, Tensor]:
        """A random batch."""
        x = torch.randn(BATCH, INPUTS)
        return x, x[:, :CLASSES].argmax(1)

    def train(self) -> None:
        """The loop."""
        trainer = self.script.trainer(model=self.model, optimizer=self.optimizer)
        x, y = self.batch()
        best, running, seen = float("inf"), -1.0, {"targets": [0] * CLASSES}
        trainer.carry("x", "y", "best", "running", "seen")
        for step in trainer.steps(30):
            for group in self.optimizer.param_groups:
                group["lr"] = 0.01 / (1 + step)
            loss = loss_of(self.model(x), y)
            self.script.saw(trainer, x, y, loss, best, running, seen)
            seen = {"targets": [n + (y == k).sum().item() for k, n in enumerate(seen["targets"])]}
            x, y = self.batch()
            update(self.optimizer, loss)
            best, running = min(best, loss.item()), 0.9 * running + 0.1 * loss.item()


@scenario
def carried_by_functions(script: Script) -> None:
    """A function for each of two passes of an epoch, one of them with a sum of its own, and a closure that counts."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = train_loader(script)
    trainer = script.trainer(model=model, optimizer=optimizer)
    counted, momentum = 0, torch.zeros(())

    def count() -> None:
        nonlocal counted
        counted += 1

    trainer.carry("counted", "momentum", "summed")
    for _ in trainer.epochs(2):
        summed = summed_pass(script, trainer, loader, model, optimizer)
        for x, y in fed(trainer, loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            count()
            momentum = momentum * 0.9 + summed * loss.detach()
            script.saw(trainer, x, y, loss, counted, momentum)
        validate(trainer, model)


def summed_pass(
    script: Script,
    trainer: Trainer,
    loader: DataLoader[Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> float:
    """A pass that sums its losses, and steps less for a larger sum."""
    total = 0.0
    trainer.carry("total")
    for x, y in trainer.batches(loader):
        loss = loss_of(model(x), y) / (1 + total)
        update(optimizer, loss)
        total += loss.item()
        script.saw(trainer, x, y, loss, total)
    return total


def fed(trainer: Trainer, loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches, each smoothed by those before it: a generator between the loop and the code that drives it."""
    smooth = torch.zeros(INPUTS)
    trainer.carry("smooth")
    for x, y in trainer.batches(loader):
        smooth = smooth * 0.9 + x.mean(0)
        yield x - 0.1 * smooth, y


@scenario
def growing(script: Script) -> None:
    """A program that keeps a sum of weights and a best loss, where the option `grown` says so."""
    seed_all()
    grown = script.option("grown", False)
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    weights = {"sum": torch.zeros(CLASSES)}
    best = 9.0
    trainer = script.trainer(model=model, optimizer=optimizer, **({"weights": weights} if grown else {}))
    if grown:
        trainer.carry("best")
    loader = train_loader(script)
    for _ in trainer.epochs(3):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            weights["sum"] += model[-1].bias.detach()
            best = min(best, loss.item()) * 1.01
            script.saw(trainer, x, y, loss)
            if grown:
                script.saw(trainer, best, weights["sum"], where="grown")
