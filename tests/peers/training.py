"""The small training that all programs do: data that is drawn at random in workers, a network with dropout, AdamW."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset, Subset
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.peers.probe import Probe

SEED = 1
SAMPLES, BATCH, WINDOW, EPOCHS, WORKERS = 96, 4, 4, 3, 2
BATCHES = SAMPLES // BATCH  # of an epoch
UPDATES = EPOCHS * BATCHES // WINDOW
SAVE_EVERY, EVALUATE_EVERY = 5, 4  # updates
Kind = Literal["plain", "stateful", "by hand"]
CONFIG = {"run": "run", "every": {"steps": SAVE_EVERY * WINDOW, "minutes": None}, "data_seed": SEED}


class Pictures(Dataset[dict[str, Any]]):
    """Samples with noise, size and sign drawn from three streams wherever a sample is read."""

    def __init__(self) -> None:
        drawn = torch.Generator().manual_seed(7)
        self.x = torch.randn(SAMPLES, 16, generator=drawn)
        self.y = torch.randint(4, (SAMPLES,), generator=drawn)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Any]:
        size = 1 + 0.1 * float(numpy.random.randn())
        sign = random.choice((-1, 1))
        return {"id": index, "x": sign * size * self.x[index] + 0.1 * torch.randn(16), "y": self.y[index]}


class StatefulPictures(Pictures):
    """The same with the streams of the worker as its state, as the guide of torchdata advises for augmentation."""

    def state_dict(self) -> dict[str, Any]:
        return streams()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_streams(state)


def streams() -> dict[str, Any]:
    """Return the states of the three global streams, as `torch.load` reads them without running code."""
    kind, keys, *rest = numpy.random.get_state()
    return {"torch": torch.get_rng_state(), "numpy": (kind, keys.tolist(), *rest), "python": random.getstate()}


def set_streams(state: dict[str, Any]) -> None:
    """Put the three global streams into these states."""
    torch.set_rng_state(state["torch"])
    numpy.random.set_state(state["numpy"])
    random.setstate(state["python"])


class Streams:
    """The three global streams, as an object with a state."""

    def state_dict(self) -> dict[str, Any]:
        return streams()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_streams(state)


def seed_all() -> None:
    """Seed the three global streams, as a script does at its start."""
    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)


class Net(nn.Sequential):
    """Two layers with dropout."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))


def objects() -> tuple[Any, Any, Any]:
    """Return a network, its optimizer and its schedule, which steps once an update."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return model, optimizer, CosineAnnealingLR(optimizer, UPDATES)


def loaders(kind: Kind = "plain") -> tuple[Any, Any]:
    """Return a loader for training and one for evaluation.

    A stateful one is that of torchdata. By hand it also has the state of the dataset that torchdata advises for
    augmentation, and both have generators of their own, as PyTorch's notes on reproducibility advise.
    """
    options: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "num_workers": WORKERS}
    test = Subset(Pictures(), range(12))
    if kind == "plain":
        return DataLoader(Pictures(), **options), DataLoader(test, batch_size=BATCH)
    if kind == "stateful":
        return StatefulDataLoader(Pictures(), **options), DataLoader(test, batch_size=BATCH)
    train = StatefulDataLoader(StatefulPictures(), generator=torch.Generator().manual_seed(SEED), **options)
    return train, DataLoader(test, batch_size=BATCH, generator=torch.Generator().manual_seed(SEED))


def loss_of(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the loss of a batch."""
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


class Trained(Protocol):
    """What a script trains, and the loader of its evaluation."""

    model: Any
    scheduler: Any
    test: Any


def end_update(
    probe: Probe,
    it: Trained,
    update: int,
    loss: torch.Tensor,
    *,
    save: Callable[[], object] | None = None,
    evaluated: Callable[[Any], Any] = iter,
) -> None:
    """Log an update, by the loss of its last batch; evaluate over `evaluated(it.test)`, and save, where that is due."""
    probe.log(update, loss=loss.item(), lr=it.scheduler.get_last_lr()[0])
    if update % EVALUATE_EVERY == 0:
        evaluate(probe, it.model, evaluated(it.test), update)
    if save is not None and update % SAVE_EVERY == 0:
        save()
    probe.reach("update", update)


def evaluate(probe: Probe, model: Any, batches: Any, update: int) -> None:
    """Log the mean loss over the batches of evaluation; the first of them is a place of death."""
    losses = []
    model.eval()
    with torch.no_grad():
        for batch in batches:
            losses.append(loss_of(model, batch).item())
            probe.reach("evaluation", update)
    model.train()
    probe.log(update, eval_loss=sum(losses) / len(losses))
