"""A loop over a `DataLoader`: with `torch.save` as the tutorials of PyTorch and torchdata do it, and with `Trainer`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from resumable import Trainer
from tests.peers.probe import Probe
from tests.peers.training import (
    CONFIG,
    EPOCHS,
    WINDOW,
    Kind,
    end_update,
    loaders,
    loss_of,
    objects,
    seed_all,
    set_streams,
    streams,
)

FILE = Path("checkpoint.pt")


class Script:
    """All that a script makes, and its own checkpoints, which hold the streams, too."""

    def __init__(self, kind: Kind = "plain") -> None:
        seed_all()
        self.kind = kind
        self.model, self.optimizer, self.scheduler = objects()
        self.loader, self.test = loaders(kind)
        self.epoch = self.batch = 0

    def train(self, batch: dict[str, Any], *, updates: bool) -> torch.Tensor:
        """Train a batch, and return its loss."""
        loss = loss_of(self.model, batch)
        (loss / WINDOW).backward()
        if updates:
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.scheduler.step()
        return loss

    def save(self, epoch: int) -> None:
        """Write a checkpoint from which the training goes on with this epoch."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "epoch": epoch,
            "batch": self.batch,
            "streams": streams(),
            "loader": None if self.kind == "plain" else self.loader.state_dict(),
        }
        torch.save(state, "new.pt")
        Path("new.pt").rename(FILE)

    def load(self) -> None:
        """Read the checkpoint."""
        state = torch.load(FILE)
        for name in ("model", "optimizer", "scheduler"):
            getattr(self, name).load_state_dict(state[name])
        self.epoch, self.batch = state["epoch"], state["batch"]
        set_streams(state["streams"])
        if self.kind != "plain":
            self.loader.load_state_dict(state["loader"])


def own(probe: Probe, *, kind: Kind = "plain", inside: bool = True) -> None:
    """Resume with `torch.save`: an epoch from its beginning, or at the batch if the loader has a state.

    Checkpoints are written at the ends of epochs, and with `inside` also every few updates.
    """
    it = Script(kind)
    if FILE.exists():
        it.load()
    for epoch in range(it.epoch, EPOCHS):
        for batch in it.loader:
            probe.batch(epoch, it.batch, batch["id"], batch["x"])
            it.batch += 1
            update, rest = divmod(it.batch, WINDOW)
            loss = it.train(batch, updates=not rest)
            if rest:
                probe.reach("window", update)
                continue
            end_update(probe, it, update, loss, save=partial(it.save, epoch) if inside else None)
        it.save(epoch + 1)
    probe.end(it.model, it.optimizer)


def resumable(probe: Probe) -> None:
    """Resume with this package."""
    it = Script()
    trainer = Trainer(CONFIG, model=it.model, optimizer=it.optimizer, scheduler=it.scheduler)
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
