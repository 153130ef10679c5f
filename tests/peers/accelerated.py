"""A loop with Accelerate: with `save_state` and `load_state` as its documentation does it, and with `Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator, DataLoaderConfiguration

from resumable import Trainer
from tests.peers.probe import Probe
from tests.peers.training import (
    BATCHES,
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
)


def prepared(kind: Kind = "plain", **options: Any) -> tuple[Accelerator, Any, Any, Any, Any, Any]:
    """Return an Accelerator, and what it prepared: model, optimizer, scheduler, loaders."""
    configuration = DataLoaderConfiguration(use_stateful_dataloader=kind != "plain", **options)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=WINDOW, dataloader_config=configuration)
    seed_all()
    return accelerator, *accelerator.prepare(*objects(), *loaders(kind))


def newest() -> int | None:
    """Return the batches that the newest checkpoint has trained."""
    return max((int(path.name.removeprefix("step_")) for path in Path().glob("step_*")), default=None)


def own(probe: Probe, *, kind: Kind = "plain", seedable: bool = False) -> None:
    """Resume with `load_state`, and with `skip_first_batches` or the state of the loader.

    A seedable sampler is told its epoch, as `transformers.Trainer` does it.
    """
    options = {"use_seedable_sampler": True} if seedable else {}
    accelerator, model, optimizer, scheduler, loader, test = prepared(kind, **options)
    number = newest() or 0
    if number:
        accelerator.load_state(f"step_{number}")
    for epoch in range(number // BATCHES, EPOCHS):
        batches = loader
        if seedable:
            loader.set_epoch(epoch)
        if number % BATCHES and kind == "plain":
            batches = accelerator.skip_first_batches(loader, number % BATCHES)
        for batch in batches:
            probe.batch(epoch, number, batch["id"], batch["x"])
            number += 1
            with accelerator.accumulate(model):
                loss = loss_of(model, batch)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            update = number // WINDOW
            if not accelerator.sync_gradients:
                probe.reach("window", update)
                continue
            probe.log(update, loss=loss.item(), lr=scheduler.get_last_lr()[0])
            if update % EVALUATE_EVERY == 0:
                evaluate(probe, model, test, update)
            if update % SAVE_EVERY == 0:
                accelerator.save_state(f"step_{number}")
            probe.reach("update", update)
    probe.end(model, optimizer)


def resumable(probe: Probe) -> None:
    """Resume with this package."""
    accelerator, model, optimizer, scheduler, loader, test = prepared()
    trainer = Trainer(CONFIG, accelerator=accelerator, model=model, optimizer=optimizer, scheduler=scheduler)
    for epoch in trainer.epochs(EPOCHS):
        for batch in trainer.batches(loader):
            probe.batch(epoch, trainer.step, batch["id"], batch["x"])
            with accelerator.accumulate(model):
                loss = loss_of(model, batch)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            update = (trainer.step + 1) // WINDOW
            if not accelerator.sync_gradients:
                probe.reach("window", update)
                continue
            probe.log(update, loss=loss.item(), lr=scheduler.get_last_lr()[0])
            if update % EVALUATE_EVERY == 0:
                evaluate(probe, model, trainer.evaluate(test), update)
            probe.reach("update", update)
    probe.end(model, optimizer)
