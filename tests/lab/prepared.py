"""Scenarios in which Accelerate or Fabric prepares model, optimizer and loaders; knows no kill."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from resumable import Trainer
from tests.lab.feeds import EPOCHS, loader_of, loss_of
from tests.lab.script import Script, scenario, seed_all
from tests.lab.toys import BATCH, TRAIN_SAMPLES, VAL_SAMPLES, Augmented, mlp, samples


class Counted:
    """What a user registers for checkpointing: a number that the training depends on."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> float:
        self.count += 1
        return 1 + self.count / 100

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def loaders(script: Script) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Shuffled, augmented batches to train on, of which the last one is short, and others to validate on."""
    validation = DataLoader(Augmented(samples(VAL_SAMPLES, seed=9)), batch_size=BATCH, shuffle=True)
    return loader_of(script, Augmented(samples(TRAIN_SAMPLES + 1))), validation


def validate(trainer: Trainer, model: Any, loader: Any) -> float:
    """The mean loss over the batches of a prepared loader."""
    model.eval()
    with torch.no_grad():
        losses = [loss_of(model(x), y).item() for x, y in trainer.evaluate(loader)]
    model.train()
    return sum(losses) / len(losses)


@scenario
def accelerate_loop(script: Script) -> None:
    """Everything goes through `Accelerator.prepare`, as in Accelerate's own quick tour."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)
    loader, _ = loaders(script)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    trainer = script.trainer(accelerator=accelerator, model=model, optimizer=optimizer, scheduler=scheduler)
    for _ in trainer.epochs(EPOCHS):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            trainer.log(loss=loss)
            script.saw(trainer, x, y, loss)


@scenario
def accelerate_accumulates(script: Script) -> None:
    """Four batches to a window, the last one of an epoch cut short; a checkpoint at every boundary; validation."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    seed_all()
    model, counted = mlp(), Counted()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    model, optimizer, scheduler, loader, other = accelerator.prepare(model, optimizer, scheduler, *loaders(script))
    accelerator.register_for_checkpointing(counted)
    given = {} if script.option("without_accelerator", False) else {"accelerator": accelerator}
    trainer = script.trainer(model=model, optimizer=optimizer, scheduler=scheduler, **given)
    for _ in trainer.epochs(EPOCHS):
        for x, y in trainer.batches(loader):
            with accelerator.accumulate(model):
                loss = loss_of(model(x), y) * counted.next()
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            trainer.request_save()
            script.saw(trainer, x, y, loss, accelerator.sync_gradients, accelerator.gradient_state.remainder)
            if trainer.step % 5 == 3:
                trainer.log(val_loss=validate(trainer, model, other))
        validate(trainer, model, other)


@scenario
def fabric_accumulates(script: Script) -> None:
    """Everything is set up by Fabric. Two batches to a window, counted by the trainer; validation."""
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    seed_all()
    model = mlp()
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimizer = fabric.setup(model, optimizer)
    loader, other = fabric.setup_dataloaders(*loaders(script))
    trainer = script.trainer(fabric=fabric, model=model, optimizer=optimizer)
    for _ in trainer.epochs(EPOCHS):
        for number, (x, y) in trainer.enumerate(loader):
            accumulates = number % 2 == 0
            with fabric.no_backward_sync(model, enabled=accumulates):
                loss = loss_of(model(x), y)
                fabric.backward(loss)
            if not accumulates:
                optimizer.step()
                optimizer.zero_grad()
            trainer.request_save()
            script.saw(trainer, x, y, loss)
            if trainer.step % 5 == 3:
                trainer.log(val_loss=validate(trainer, model, other))
