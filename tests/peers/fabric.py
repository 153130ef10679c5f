"""A loop with Fabric: with `fabric.save` and `fabric.load` as its documentation does it, and with `Trainer`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric

from resumable import Trainer
from tests.peers.probe import Probe
from tests.peers.training import (
    CONFIG,
    EPOCHS,
    WINDOW,
    Kind,
    Streams,
    end_update,
    loaders,
    loss_of,
    objects,
    seed_all,
)

FILE = Path("checkpoint.ckpt")


class Prepared(NamedTuple):
    """A Fabric, and what it set up."""

    fabric: Fabric
    model: Any
    optimizer: Any
    scheduler: Any
    loader: Any
    test: Any

    def train(self, batch: dict[str, Any], *, updates: bool) -> torch.Tensor:
        """Train a batch, and return its loss."""
        with self.fabric.no_backward_sync(self.model, enabled=not updates):
            loss = loss_of(self.model, batch)
            self.fabric.backward(loss / WINDOW)
        if updates:
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.scheduler.step()
        return loss

    def state(self, kind: Kind) -> dict[str, Any]:
        """Return what a checkpoint holds: by hand also the streams."""
        state: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        if kind != "plain":
            state["loader"] = self.loader
        if kind == "by hand":
            state["streams"] = Streams()
        return state | {"epoch": 0, "batch": 0}


def prepare(kind: Kind = "plain") -> Prepared:
    """Return all that a script sets up."""
    fabric = Fabric(accelerator="cpu", devices=1)
    seed_all()
    model, optimizer, scheduler = objects()
    model, optimizer = fabric.setup(model, optimizer)
    return Prepared(fabric, model, optimizer, scheduler, *fabric.setup_dataloaders(*loaders(kind)))


def own(probe: Probe, *, kind: Kind = "plain", inside: bool = True) -> None:
    """Resume with Fabric: an epoch from its beginning, or at the batch if the loader has a state.

    Without `inside` checkpoints are written at the ends of epochs only.
    """
    it = prepare(kind)
    state = it.state(kind)
    if FILE.exists():
        it.fabric.load(FILE, state)
    for epoch in range(state["epoch"], EPOCHS):
        state["epoch"] = epoch
        for batch in it.loader:
            probe.batch(epoch, state["batch"], batch["id"], batch["x"])
            state["batch"] += 1
            update, rest = divmod(state["batch"], WINDOW)
            loss = it.train(batch, updates=not rest)
            if rest:
                probe.reach("window", update)
                continue
            end_update(probe, it, update, loss, save=partial(it.fabric.save, FILE, state) if inside else None)
        if not inside:
            it.fabric.save(FILE, state | {"epoch": epoch + 1})
    probe.end(it.model, it.optimizer)


def resumable(probe: Probe) -> None:
    """Resume with this package."""
    it = prepare()
    trainer = Trainer(CONFIG, fabric=it.fabric, model=it.model, optimizer=it.optimizer, scheduler=it.scheduler)
    for epoch in trainer.epochs(EPOCHS):
        for batch in trainer.batches(it.loader):
            probe.batch(epoch, trainer.step, batch["id"], batch["x"])
            update, rest = divmod(trainer.step + 1, WINDOW)
            loss = it.train(batch, updates=not rest)
            if rest:
                probe.reach("window", update)
                continue
            end_update(probe, it, update, loss, evaluated=trainer.evaluate)
    probe.end(it.model, it.optimizer)
