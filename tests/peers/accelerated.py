"""A loop with Accelerate: with `save_state` and `load_state` as its documentation does it, and with `Trainer`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, DataLoaderConfiguration

from resumable import Trainer
from tests.peers.probe import Probe
from tests.peers.training import (
    BATCHES,
    CONFIG,
    EPOCHS,
    WINDOW,
    Kind,
    end_update,
    loaders,
    loss_of,
    objects,
    seed_all,
)


class Prepared(NamedTuple):
    """An Accelerator, and what it prepared."""

    accelerator: Accelerator
    model: Any
    optimizer: Any
    scheduler: Any
    loader: Any
    test: Any

    def train(self, batch: dict[str, Any]) -> torch.Tensor:
        """Train a batch, and return its loss."""
        with self.accelerator.accumulate(self.model):
            loss = loss_of(self.model, batch)
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
        return loss


def prepare(kind: Kind = "plain", **options: Any) -> Prepared:
    """Return all that a script prepares."""
    configuration = DataLoaderConfiguration(use_stateful_dataloader=kind != "plain", **options)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=WINDOW, dataloader_config=configuration)
    seed_all()
    return Prepared(accelerator, *accelerator.prepare(*objects(), *loaders(kind)))


def own(probe: Probe, *, kind: Kind = "plain", seedable: bool = False, inside: bool = True) -> None:
    """Resume with `load_state`, and with `skip_first_batches` or the state of the loader.

    A seedable sampler is given its epoch, as `transformers.Trainer` does it. Without `inside` checkpoints are written
    at the ends of epochs only.
    """
    it = prepare(kind, use_seedable_sampler=seedable)
    number = newest()
    if number:
        it.accelerator.load_state(f"step_{number}")
    for epoch in range(number // BATCHES, EPOCHS):
        if seedable:
            it.loader.set_epoch(epoch)
        skips = kind == "plain" and number % BATCHES
        for batch in it.accelerator.skip_first_batches(it.loader, skips) if skips else it.loader:
            probe.batch(epoch, number, batch["id"], batch["x"])
            loss = it.train(batch)
            number += 1
            update = number // WINDOW
            if not it.accelerator.sync_gradients:
                probe.reach("window", update)
                continue
            save = partial(it.accelerator.save_state, f"step_{number}") if inside else None
            end_update(probe, it, update, loss, save=save)
        if not inside:
            it.accelerator.save_state(f"step_{number}")
    probe.end(it.model, it.optimizer)


def newest() -> int:
    """Return the batches that the newest checkpoint has trained."""
    return max((int(path.name.removeprefix("step_")) for path in Path().glob("step_*")), default=0)


def resumable(probe: Probe) -> None:
    """Resume with this package."""
    it = prepare()
    trainer = Trainer(
        CONFIG, accelerator=it.accelerator, model=it.model, optimizer=it.optimizer, scheduler=it.scheduler
    )
    for epoch in trainer.epochs(EPOCHS):
        for batch in trainer.batches(it.loader):
            probe.batch(epoch, trainer.step, batch["id"], batch["x"])
            loss = it.train(batch)
            update = (trainer.step + 1) // WINDOW
            if not it.accelerator.sync_gradients:
                probe.reach("window", update)
                continue
            end_update(probe, it, update, loss, evaluated=trainer.evaluate)
    probe.end(it.model, it.optimizer)
