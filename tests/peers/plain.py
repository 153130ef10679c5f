"""A loop over a `DataLoader`: with `torch.save` as the tutorials of PyTorch and torchdata do it, and with `Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from resumable import Trainer
from tests.peers.probe import Probe
from tests.peers.training import (
    CONFIG,
    EPOCHS,
    EVALUATE_EVERY,
    SAVE_EVERY,
    WINDOW,
    Kind,
    evaluate,
    loaders,
    loss_of,
    objects,
    seed_all,
    set_streams,
    streams,
)

FILE = Path("checkpoint.pt")


class Program:
    """A script with all that a checkpoint of its own holds."""

    def __init__(self, probe: Probe, *, kind: Kind, inside: bool) -> None:
        seed_all()
        self.probe, self.kind, self.inside = probe, kind, inside
        self.model, self.optimizer, self.scheduler = objects()
        self.loader, self.test = loaders(kind)
        self.epoch = self.batch = 0

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

    def train(self) -> None:
        """Train from where the checkpoint, if there is one, stands."""
        if FILE.exists():
            self.load()
        for epoch in range(self.epoch, EPOCHS):
            for batch in self.loader:
                self.step(epoch, batch)
            self.save(epoch + 1)
        self.probe.end(self.model, self.optimizer)

    def step(self, epoch: int, batch: dict[str, Any]) -> None:
        """Train one batch, and do what is due after it."""
        self.probe.batch(epoch, self.batch, batch["id"], batch["x"])
        loss = loss_of(self.model, batch)
        (loss / WINDOW).backward()
        self.batch += 1
        update = self.batch // WINDOW
        if self.batch % WINDOW:
            self.probe.reach("window", update)
            return
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.probe.log(update, loss=loss.item(), lr=self.scheduler.get_last_lr()[0])
        if update % EVALUATE_EVERY == 0:
            evaluate(self.probe, self.model, self.test, update)
        if self.inside and update % SAVE_EVERY == 0:
            self.save(epoch)
        self.probe.reach("update", update)


def own(probe: Probe, *, kind: Kind = "plain", inside: bool = True) -> None:
    """Resume with `torch.save`: an epoch from its beginning, or at the batch if the loader has a state.

    Without `inside` checkpoints are written at the ends of epochs only.
    """
    Program(probe, kind=kind, inside=inside).train()


def resumable(probe: Probe) -> None:
    """Resume with this package."""
    seed_all()
    model, optimizer, scheduler = objects()
    loader, test = loaders()
    trainer = Trainer(CONFIG, model=model, optimizer=optimizer, scheduler=scheduler)
    for epoch in trainer.epochs(EPOCHS):
        for batch in trainer.batches(loader):
            probe.batch(epoch, trainer.step, batch["id"], batch["x"])
            loss = loss_of(model, batch)
            (loss / WINDOW).backward()
            update = (trainer.step + 1) // WINDOW
            if (trainer.step + 1) % WINDOW:
                probe.reach("window", update)
                continue
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            probe.log(update, loss=loss.item(), lr=scheduler.get_last_lr()[0])
            if update % EVALUATE_EVERY == 0:
                evaluate(probe, model, trainer.evaluate(test), update)
            probe.reach("update", update)
    probe.end(model, optimizer)
