"""Scenarios about what a loop does with its batches; knows no kill."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from resumable import Trainer
from tests.lab.feeds import fit, loader_of, loss_of
from tests.lab.script import Script, scenario, seed_all
from tests.lab.toys import BATCH, TRAIN_SAMPLES, VAL_SAMPLES, Augmented, AugmentedByAll, Restless, mlp, samples


def train_loader(script: Script) -> DataLoader[Any]:
    """Shuffled batches with augmentation."""
    return loader_of(script, Augmented(samples(TRAIN_SAMPLES)))


def validate(trainer: Trainer, model: nn.Module) -> float:
    """The mean loss over shuffled, noisy validation batches: it draws, and must disturb nothing by it."""
    model.eval()
    loader = DataLoader(Augmented(samples(VAL_SAMPLES, seed=9)), batch_size=BATCH, shuffle=True)
    with torch.no_grad():
        losses = [loss_of(model(x + 0.01 * torch.randn_like(x)), y).item() for x, y in trainer.evaluate(loader)]
    model.train()
    return sum(losses) / len(losses)


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One optimizer step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@scenario
def base(script: Script) -> None:
    """The tutorial's loop: dropout, AdamW, one cycle, augmentation, validation, the loop's own best value."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = OneCycleLR(optimizer, 0.02, total_steps=1000)
    progress = {"best": float("inf")}
    loader = train_loader(script)
    trainer = script.trainer(model=model, optimizer=optimizer, scheduler=scheduler, progress=progress)
    for _ in trainer.epochs(script.option("epochs", 3)):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            scheduler.step()
            trainer.log(loss=loss)
            script.saw(trainer, x, y, loss)
        if not script.option("validates", True):
            continue
        value = validate(trainer, model)
        progress["best"] = min(progress["best"], value)
        trainer.log(val_loss=value)
        script.saw(trainer, value, where="validated")


@scenario
def accumulate_4(script: Script) -> None:
    """Four batches to an optimizer step, so that most boundaries have gradients that nobody has used yet."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = OneCycleLR(optimizer, 0.02, total_steps=1000)
    loader = train_loader(script)
    trainer = script.trainer(model=model, optimizer=optimizer, scheduler=scheduler)
    for _ in trainer.epochs(3):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y) / 4
            loss.backward()
            if (trainer.step + 1) % 4 == 0:
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            trainer.log(loss=loss)
            script.saw(trainer, x, y, loss)


@scenario
def golden_input(script: Script) -> None:
    """Each save runs a restless model on a golden input, while gradients wait; unless the option `golden` is off."""
    seed_all()
    model = mlp(nn.BatchNorm1d(16), Restless())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = train_loader(script)
    trainer = script.trainer(model=model, optimizer=optimizer)
    if script.option("golden", True):
        trainer.golden(samples(VAL_SAMPLES, seed=9).tensors[0])
    for _ in trainer.epochs(3):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y) / 3
            loss.backward()
            if trainer.step % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
            if trainer.step % 2 == 1:
                trainer.request_save()  # also where gradients wait
            trainer.log(loss=loss)
            script.saw(trainer, x, y, loss)


@scenario
def two_cadences(script: Script) -> None:
    """A GAN: the critic steps every batch, the generator gathers the gradients of four."""
    seed_all()
    generator, critic = nn.Linear(3, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    generator_optimizer = torch.optim.Adam(generator.parameters(), lr=0.01)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
    loader = train_loader(script)
    trainer = script.trainer(
        generator=generator,
        critic=critic,
        generator_optimizer=generator_optimizer,
        critic_optimizer=critic_optimizer,
    )
    for _ in trainer.epochs(3):
        for x, _ in trainer.batches(loader):
            made = generator(torch.randn(len(x), 3))
            critic_loss = nn.functional.softplus(critic(made.detach()) - critic(x)).mean()
            update(critic_optimizer, critic_loss)
            generator_loss = nn.functional.softplus(-critic(made)).mean() / 4
            generator_loss.backward()
            if (trainer.step + 1) % 4 == 0:
                generator_optimizer.step()
                generator_optimizer.zero_grad()
            trainer.log(critic_loss=critic_loss, generator_loss=generator_loss)
            script.saw(trainer, x, made, critic_loss, generator_loss)


@scenario
def step_at_head(script: Script) -> None:
    """The optimizer steps at the head of the body, every fourth time: no boundary is without waiting gradients."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = train_loader(script)
    trainer = script.trainer(model=model, optimizer=optimizer)
    for _ in trainer.epochs(3):
        for x, y in trainer.batches(loader):
            if trainer.step % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
            loss = loss_of(model(x), y) / 4
            loss.backward()
            trainer.log(loss=loss)
            if trainer.step % 3 == 0:
                trainer.request_save()  # one that is only due would wait for a boundary without waiting gradients
            script.saw(trainer, x, y, loss)


@scenario
def gan_zeroing_after_step(script: Script) -> None:
    """A GAN that zeroes after each step: what the generator's loss leaves in the critic is part of its next step."""
    seed_all()
    generator, critic = nn.Linear(3, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    generator_optimizer = torch.optim.Adam(generator.parameters(), lr=0.01)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
    loader = train_loader(script)
    trainer = script.trainer(
        generator=generator,
        critic=critic,
        generator_optimizer=generator_optimizer,
        critic_optimizer=critic_optimizer,
    )
    for _ in trainer.epochs(3):
        for x, _ in trainer.batches(loader):
            made = generator(torch.randn(len(x), 3))
            critic_loss = nn.functional.softplus(critic(made.detach()) - critic(x)).mean()
            critic_loss.backward()
            critic_optimizer.step()
            critic_optimizer.zero_grad()
            generator_loss = nn.functional.softplus(-critic(made)).mean()
            generator_loss.backward()
            generator_optimizer.step()
            generator_optimizer.zero_grad()
            trainer.log(critic_loss=critic_loss, generator_loss=generator_loss)
            if trainer.step % 3 == 0:
                trainer.request_save()
            script.saw(trainer, x, made, critic_loss, generator_loss)


@scenario
def plateau_and_best(script: Script) -> None:
    """A schedule driven by validation, the best weights kept in a dict, and the best checkpoints kept on disk."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    best: dict[str, Any] = {"value": float("inf"), "epoch": -1, "weights": copy.deepcopy(model.state_dict())}
    loader = train_loader(script)
    config = script.config(
        every={"steps": 7, "minutes": None},
        keep={"last": 1, "best": {"metric": "val_loss", "mode": "min", "count": 1}},
    )
    trainer = Trainer(config, model=model, optimizer=optimizer, scheduler=scheduler, best=best)
    for epoch in trainer.epochs(5):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            script.saw(trainer, x, y, loss)
        value = validate(trainer, model)
        scheduler.step(value)
        if value < best["value"]:
            best.update(value=value, epoch=epoch, weights=copy.deepcopy(model.state_dict()))
        trainer.log(val_loss=value)


@scenario
def old_style_scheduler(script: Script) -> None:
    """`scheduler.step()` at the head of the epoch, as before torch 1.1, and other code that runs again on a resume."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = ExponentialLR(optimizer, 0.7)
    counts = {"epochs": 0, "batches": 0}
    loader = train_loader(script)
    trainer = script.trainer(model=model, optimizer=optimizer, scheduler=scheduler, counts=counts)
    for _ in trainer.epochs(3):
        scheduler.step()
        counts["epochs"] += 1
        model(torch.randn(BATCH, 6))  # a warm-up that draws for its dropout
        for x, y in trainer.batches(loader):
            counts["batches"] += 1
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            script.saw(trainer, x, y, loss, scheduler.get_last_lr())


@scenario
def leaves_epochs_early(script: Script) -> None:
    """`break` after seven of ten batches, in epochs of even number."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = train_loader(script)
    trainer = script.trainer(model=model, optimizer=optimizer)
    for epoch in trainer.epochs(4):
        for index, (x, y) in trainer.enumerate(loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            script.saw(trainer, x, y, loss)
            if index == 6 and epoch % 2 == 0:
                break
        trainer.log(left_at=trainer.step)  # not the loop's own `index`: a resume at the end of the pass has none


@scenario
def two_passes(script: Script) -> None:
    """Two passes over one loader and one over another, in each epoch, with random draws in between."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = train_loader(script)
    other = loader_of(script, AugmentedByAll(samples(12, seed=6)), batch_size=3)
    seen = {"noise": torch.zeros(3)}
    trainer = script.trainer(model=model, optimizer=optimizer, seen=seen)
    for _ in trainer.epochs(2):
        for part in (loader, other, loader):
            seen["noise"].add_(torch.randn(3))
            for x, y in trainer.batches(part):
                loss = loss_of(model(x), y)
                update(optimizer, loss)
                script.saw(trainer, x, y, loss)


@scenario
def bf16_autocast(script: Script) -> None:
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = train_loader(script)
    trainer = script.trainer(model=model, optimizer=optimizer)
    for _ in trainer.epochs(2):
        for x, y in trainer.batches(loader):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model(x), y)
            update(optimizer, loss)
            trainer.log(loss=loss)
            script.saw(trainer, x, y, loss)


@scenario
def ema(script: Script) -> None:
    """An exponential average of a model with BatchNorm, evaluated after each epoch."""
    seed_all()
    model = mlp(nn.BatchNorm1d(16))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = train_loader(script)
    trainer = script.trainer(model=model, average=average, optimizer=optimizer)
    for _ in trainer.epochs(2):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            average.update_parameters(model)
            trainer.log(loss=loss)
            script.saw(trainer, x, y, loss)
        trainer.log(val_loss=validate(trainer, average))


@scenario
def everything_registered(script: Script) -> None:
    """Generators of all sorts, nested containers, layers that thaw, saves on request, `with`, `restore()`."""
    seed_all()
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    streams: dict[str, Any] = {
        "torch_stream": torch.Generator().manual_seed(2),
        "numpy_stream": numpy.random.default_rng(2),
        "python_stream": random.Random(2),
    }
    history: dict[str, Any] = {"recent": [], "by_epoch": {0: torch.zeros(2)}}
    loader = train_loader(script)
    with script.trainer(model=model, optimizer=optimizer, history=history, **streams) as trainer:
        trainer.restore()
        for epoch in trainer.epochs(3):
            if epoch == 1:
                model[0].requires_grad_(True)
            for x, y in trainer.batches(loader):
                x = x + 0.1 * torch.randn(x.shape, generator=streams["torch_stream"])
                x = x * streams["python_stream"].uniform(0.9, 1.1) + 0.1 * float(streams["numpy_stream"].random())
                x = x + 0.1 * random.random() + 0.1 * float(numpy.random.rand())
                loss = loss_of(model(x), y)
                update(optimizer, loss)
                history["recent"] = [*history["recent"], loss.item()][-3:]
                if trainer.step % 10 == 5:
                    trainer.request_save()
                script.saw(trainer, x, y, loss)
            history["by_epoch"][epoch] = torch.tensor([float(epoch), history["recent"][-1]])


@scenario
def early_stop(script: Script) -> None:
    """`stop()` in the middle of an epoch, once five losses in a row were lower than one."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    patience = {"good": 0}
    loader = train_loader(script)
    trainer = script.trainer(model=model, optimizer=optimizer, patience=patience)
    for _ in trainer.epochs(100):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            trainer.log(loss=loss)
            script.saw(trainer, x, y, loss)
            patience["good"] = patience["good"] + 1 if loss.item() < 0.9 else 0
            if patience["good"] == 5:
                trainer.stop()


@scenario
def seeds_nothing(script: Script) -> None:
    """Every launch begins with other weights and other streams, and the data seed is drawn."""
    torch.seed()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = loader_of(script, AugmentedByAll(samples(TRAIN_SAMPLES)))
    trainer = Trainer(script.config(data_seed=None, every={"steps": 9}), model=model, optimizer=optimizer)
    for _ in trainer.epochs(3):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            trainer.log(loss=loss)
            script.saw(trainer, x, y, loss, random.random(), numpy.random.rand())


@scenario
def no_outer_loop(script: Script) -> None:
    """`batches` under the user's own `for`: every pass is an epoch."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = train_loader(script)
    trainer = script.trainer(model=model, optimizer=optimizer)
    for _ in range(3):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            script.saw(trainer, x, y, loss)


@scenario
def stale_gradients(script: Script) -> None:
    """`zero_grad(set_to_none=False)` and a parameter that no loss reaches: zeros and None are not the same to AdamW."""
    seed_all()
    model = mlp()
    idle = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW([*model.parameters(), *idle.parameters()], lr=0.01, weight_decay=0.1)
    loader = train_loader(script)
    trainer = script.trainer(model=model, idle=idle, optimizer=optimizer)
    for epoch in trainer.epochs(3):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            if epoch == 0:
                loss = loss + idle(x[:, :2]).square().mean()  # from then on its gradients are zeros, not None
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            optimizer.step()
            script.saw(trainer, x, y, loss)


@scenario
def compiled_by_name(script: Script) -> None:
    """The model is given to the trainer wrapped by `torch.compile`, here with the backend that compiles nothing."""
    seed_all()
    fit(script, train_loader(script), model=torch.compile(mlp(), backend="eager"))


@scenario
def taken_over(script: Script) -> None:
    """A program that stored its second epoch by `torch.save` goes on from that file as a run, in each launch."""
    old = Path(script.run).with_suffix(".pt")
    loader = train_loader(script)
    if not old.exists():
        _train_alone(loader, old)
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = OneCycleLR(optimizer, 0.02, total_steps=1000)
    trainer = script.trainer(model=model, optimizer=optimizer, scheduler=scheduler)
    stored = torch.load(old)
    model.load_state_dict(stored["model"])
    optimizer.load_state_dict(stored["optimizer"])
    scheduler.load_state_dict(stored["scheduler"])
    trainer.begin_at(epoch=stored["epoch"], step=stored["step"])
    for _ in trainer.epochs(4):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            scheduler.step()
            trainer.log(loss=loss)
            script.saw(trainer, x, y, loss)
        trainer.log(val_loss=validate(trainer, model))


def _train_alone(loader: DataLoader[Any], path: Path) -> None:
    """Two epochs without a Trainer, and their file."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = OneCycleLR(optimizer, 0.02, total_steps=1000)
    for _ in range(2):
        for x, y in loader:
            update(optimizer, loss_of(model(x), y))
            scheduler.step()
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**states, "epoch": 2, "step": 2 * len(loader)}, path)


@scenario
def replay_buffer(script: Script) -> None:
    """A buffer of 65 MiB, of which each step overwrites a row and reads others: large enough for slabs."""
    seed_all()
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    buffer = {"seen": numpy.zeros((16_640, 4096), numpy.uint8), "next": 0}
    rows = buffer["seen"]
    trainer = script.trainer(model=model, optimizer=optimizer, buffer=buffer)
    for _ in trainer.steps(16):
        rows[buffer["next"]] = numpy.random.randint(256, size=4096)
        buffer["next"] = (buffer["next"] + 1) % len(rows)
        chosen = rows[numpy.random.randint(len(rows), size=64)]
        x = torch.from_numpy(chosen[:, :4].astype(numpy.float32))
        loss = model(x / 256).square().mean()
        update(optimizer, loss)
        script.saw(trainer, chosen, loss)
