"""Scenarios whose objects get another structure while they train, and whose relaunch builds it again; knows no kill."""

from __future__ import annotations

import torch
from torch import nn

from tests.lab.feeds import loss_of
from tests.lab.loops import train_loader, update
from tests.lab.script import Script, scenario, seed_all
from tests.lab.toys import mlp


class Growth:
    """A network that gets a layer, and an optimizer that gets a group for it, and for a part that was frozen."""

    def __init__(self) -> None:
        seed_all()
        self.model = mlp()
        self.first = next(each for each in self.model if isinstance(each, nn.Linear))
        self.first.requires_grad_(False)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.01)

    def grow(self) -> None:
        """Append a layer with a group of its own."""
        width = self.model[-1].out_features
        self.model.append(nn.Linear(width, width))
        self.optimizer.add_param_group({"params": self.model[-1].parameters(), "lr": 0.02})

    def unfreeze(self) -> None:
        """Train what was frozen, with a group of its own."""
        self.first.requires_grad_(True)
        self.optimizer.add_param_group({"params": self.first.parameters(), "lr": 0.001})


@scenario
def grows_in_epochs(script: Script) -> None:
    """A head of an epoch unfreezes, and the next one grows; both as the hint says."""
    growth, loader = Growth(), train_loader(script)
    trainer = script.trainer(model=growth.model, optimizer=growth.optimizer)
    if trainer.epoch + trainer.resuming > 1:
        growth.unfreeze()
    if trainer.epoch + trainer.resuming > 2:
        growth.grow()
    for epoch in trainer.epochs(4):
        if epoch == 1 and not trainer.resuming:
            growth.unfreeze()
        if epoch == 2 and not trainer.resuming:
            growth.grow()
        for x, y in trainer.batches(loader):
            loss = loss_of(growth.model(x), y)
            update(growth.optimizer, loss)
            script.saw(trainer, x, y, loss)


@scenario
def grows_in_passes(script: Script) -> None:
    """The same with a `for` of its own around the passes."""
    growth, loader = Growth(), train_loader(script)
    trainer = script.trainer(model=growth.model, optimizer=growth.optimizer)
    if trainer.step > len(loader):
        growth.unfreeze()
    if trainer.step > 2 * len(loader):
        growth.grow()
    for epoch in range(4):
        if epoch == 1 and not trainer.resuming:
            growth.unfreeze()
        if epoch == 2 and not trainer.resuming:
            growth.grow()
        for x, y in trainer.batches(loader):
            loss = loss_of(growth.model(x), y)
            update(growth.optimizer, loss)
            script.saw(trainer, x, y, loss)


@scenario
def grows_in_steps(script: Script) -> None:
    """The body of a step changes the structure."""
    growth = Growth()
    x, y = next(iter(train_loader(script)))
    trainer = script.trainer(model=growth.model, optimizer=growth.optimizer)
    if trainer.step > 9:
        growth.unfreeze()
    if trainer.step > 13:
        growth.grow()
    for step in trainer.steps(30):
        if step == 9:
            growth.unfreeze()
        if step == 13:
            growth.grow()
        loss = loss_of(growth.model(x + torch.randn_like(x)), y)
        update(growth.optimizer, loss)
        script.saw(trainer, loss)
