"""A loop with Fabric: with `fabric.save` and `fabric.load` as its documentation does it, and with `Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from resumable import Trainer
from tests.peers.probe import Probe
from tests.peers.training import (
    CONFIG,
    EPOCHS,
    EVALUATE_EVERY,
    SAVE_EVERY,
    WINDOW,
    Kind,
    Streams,
    evaluate,
    loaders,
    loss_of,
    objects,
    seed_all,
)

FILE = Path("checkpoint.ckpt")


def prepared(kind: Kind = "plain") -> tuple[Fabric, Any, Any, Any, Any, Any]:
    """Return a Fabric, and what it set up: model, optimizer, scheduler, loaders."""
    fabric = Fabric(accelerator="cpu", devices=1)
    seed_all()
    model, optimizer, scheduler = objects()
    model, optimizer = fabric.setup(model, optimizer)
    loader, test = fabric.setup_dataloaders(*loaders(kind))
    return fabric, model, optimizer, scheduler, loader, test


def own(probe: Probe, *, kind: Kind = "plain") -> None:
    """Resume with Fabric: an epoch from its beginning, or at the batch, and by hand with the streams, too."""
    fabric, model, optimizer, scheduler, loader, test = prepared(kind)
    state: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "epoch": 0, "batch": 0}
    if kind != "plain":
        state["loader"] = loader
    if kind == "by hand":
        state["streams"] = Streams()
    if FILE.exists():
        fabric.load(FILE, state)
    for epoch in range(state["epoch"], EPOCHS):
        state["epoch"] = epoch
        for batch in loader:
            probe.batch(epoch, state["batch"], batch["id"], batch["x"])
            state["batch"] += 1
            update, inside = divmod(state["batch"], WINDOW)
            with fabric.no_backward_sync(model, enabled=bool(inside)):
                loss = loss_of(model, batch)
                fabric.backward(loss / WINDOW)
            if inside:
                probe.reach("window", update)
                continue
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            probe.log(update, loss=loss.item(), lr=scheduler.get_last_lr()[0])
            if update % EVALUATE_EVERY == 0:
                evaluate(probe, model, test, update)
            if update % SAVE_EVERY == 0:
                fabric.save(FILE, state)
            probe.reach("update", update)
    probe.end(model, optimizer)


def resumable(probe: Probe) -> None:
    """Resume with this package."""
    fabric, model, optimizer, scheduler, loader, test = prepared()
    trainer = Trainer(CONFIG, fabric=fabric, model=model, optimizer=optimizer, scheduler=scheduler)
    for epoch in trainer.epochs(EPOCHS):
        for batch in trainer.batches(loader):
            probe.batch(epoch, trainer.step, batch["id"], batch["x"])
            update, inside = divmod(trainer.step + 1, WINDOW)
            with fabric.no_backward_sync(model, enabled=bool(inside)):
                loss = loss_of(model, batch)
                fabric.backward(loss / WINDOW)
            if inside:
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
