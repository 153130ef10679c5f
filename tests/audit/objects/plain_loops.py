"""Loops in which nothing is forgotten, or only what is printed: no line may be logged for them; knows no test."""

from __future__ import annotations

import random
import time
from collections import deque
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from tests.audit.objects.warned_lines import INPUTS, LABELS, Setting, network, step


def supervised(a: Setting) -> None:
    scheduler = torch.optim.lr_scheduler.OneCycleLR(a.optimizer, 0.1, total_steps=8)
    trainer = a.trainer(scheduler=scheduler)
    began = time.time()
    for epoch in trainer.epochs(2):
        a.model.train()
        for batch in trainer.batches(a.loader):
            loss = a.step(batch)
            scheduler.step()
            trainer.log(loss=loss)
        a.model.eval()
        with torch.no_grad():
            right = sum((a.model(x).argmax(1) == y).sum().item() for x, y in trainer.evaluate(a.loader))
        print(f"epoch {epoch} accuracy {right / 16:.2f} after {time.time() - began:.1f}s")


def adversarial(a: Setting) -> None:
    critic = network()
    critic_optimizer = torch.optim.Adam(critic.parameters())
    trainer = a.trainer(critic=critic, critic_optimizer=critic_optimizer)
    real = torch.ones(4)
    for _ in trainer.epochs(2):
        for index, (inputs, labels) in trainer.enumerate(a.loader):
            fake = a.model(torch.randn(4, 4))
            loss = critic(torch.cat([fake, fake], 1)).mean() - critic(inputs).mean()
            critic_optimizer.zero_grad()
            loss.backward()
            critic_optimizer.step()
            for each in critic.parameters():
                each.data.clamp_(-0.1, 0.1)
            if index % 2 == 0:
                a.step((inputs, labels))
            real.fill_(0.9)


class Game:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.place = np.zeros(4, np.float32)

    def move(self, action: int) -> Any:
        self.place = (self.place + self.rng.normal(size=4) * action).astype(np.float32)
        return self.place.copy()

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state, "place": self.place.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.place = state["place"]


def reinforcement(a: Setting) -> None:
    game, memory = Game(), {"seen": torch.zeros(16, 4), "size": 0}
    target = deepcopy(a.model)
    trainer = a.trainer(game=game, memory=memory, target=target)
    rollout = torch.zeros(4, 4)
    for now in trainer.steps(8):
        for move in range(4):
            rollout[move] = torch.from_numpy(game.move(1))
        memory["seen"][now % 16] = rollout[0]
        memory["size"] += 1
        rows = torch.randint(0, 4, (4,))
        a.step((rollout[rows], LABELS[:4]))
        if now % 3 == 0:
            target.load_state_dict(a.model.state_dict())


def closures(a: Setting) -> None:
    optimizer = torch.optim.LBFGS(a.model.parameters(), max_iter=3)
    trainer = a.bare(model=a.model, optimizer=optimizer)
    for _ in trainer.steps(4):

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(a.model(INPUTS), LABELS)
            loss.backward()
            return loss

        loss = optimizer.step(closure)
        print(loss)


def accumulation(a: Setting) -> None:
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for index, (inputs, labels) in trainer.enumerate(a.loader):
            loss = nn.functional.cross_entropy(a.model(inputs), labels) / 2
            loss.backward()
            if index % 2 == 1:
                nn.utils.clip_grad_norm_(a.model.parameters(), 1.0)
                a.optimizer.step()
                a.optimizer.zero_grad()


def mixed_precision(a: Setting) -> None:
    scaler = torch.amp.GradScaler("cpu")
    trainer = a.trainer(scaler=scaler)
    for _ in trainer.epochs(2):
        for inputs, labels in trainer.batches(a.loader):
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(a.model(inputs), labels)
            a.optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(a.optimizer)
            scaler.update()


class Curriculum(Dataset[Any]):
    def __init__(self) -> None:
        self.noise = 0.0
        self.reads = 0

    def __len__(self) -> int:
        return 16

    def set_epoch(self, epoch: int) -> None:
        self.noise = 0.1 * epoch

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return INPUTS[index] + self.noise * torch.randn(4), LABELS[index]


def curriculum(a: Setting) -> None:
    data, settings = Curriculum(), SimpleNamespace(level=0)
    loader = DataLoader(data, 4, shuffle=True)
    trainer = a.trainer()
    for epoch in trainer.epochs(4):
        data.set_epoch(epoch)
        settings.level = epoch
        a.model[2].p = 0.1 + 0.01 * epoch
        for batch in trainer.batches(loader):
            a.step(batch)


class Meter:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, value: float) -> None:
        self.total += value
        self.count += 1

    def compute(self) -> float:
        return self.total / max(1, self.count)


def meters(a: Setting) -> None:
    meter, losses = Meter(), deque(maxlen=3)  # type: ignore[var-annotated]
    history: list[float] = []
    trainer = a.trainer()
    for epoch in trainer.epochs(2):
        meter.reset()
        for batch in trainer.batches(a.loader):
            loss = a.step(batch).item()
            meter.update(loss)
            losses.append(loss)
            print(f"{sum(losses) / len(losses):.3f}")
        mean = meter.compute()
        history.append(mean)
        print(epoch, "mean", mean)
    print(history)


def train_one_epoch(a: Setting, batches: Any) -> float:
    meter = Meter()
    for batch in batches:
        meter.update(a.step(batch).item())
    return meter.compute()


def meters_of_a_function(a: Setting) -> None:
    trainer = a.trainer()
    for epoch in trainer.epochs(2):
        mean = train_one_epoch(a, trainer.batches(a.loader))
        print(f"epoch {epoch} loss {mean:.3f}")
        trainer.log(mean=mean)


def folds(a: Setting) -> None:
    scores = []
    for fold in range(2):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        rows = [row for row in range(16) if row % 2 != fold]
        loader = DataLoader(Subset(TensorDataset(INPUTS, LABELS), rows), 4)
        config = {"run": str(a.run / str(fold))}
        with a.bare(config, model=model, optimizer=optimizer) as trainer:
            for _ in trainer.epochs(2):
                for batch in trainer.batches(loader):
                    loss = step(model, optimizer, batch)
        scores.append(loss.item())
    assert len(scores) == 2


def recurrent(a: Setting) -> None:
    net = nn.LSTM(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    state = {"hidden": torch.zeros(1, 4), "cell": torch.zeros(1, 4)}
    trainer = a.bare(net=net, optimizer=optimizer, memory=state)
    for _ in trainer.epochs(2):
        for inputs, _ in trainer.batches(a.loader):
            outputs, (hidden, cell) = net(inputs, (state["hidden"], state["cell"]))
            optimizer.zero_grad()
            outputs.mean().backward()
            optimizer.step()
            state["hidden"], state["cell"] = hidden.detach(), cell.detach()


def prefetching(a: Setting) -> None:
    def moved(batches: Any) -> Any:
        for inputs, labels in batches:
            yield inputs.clone(), labels

    extra = a.loader
    trainer = a.trainer()
    unlabelled = trainer.cycle(extra)
    static = torch.empty(4, 4)
    for _ in trainer.epochs(2):
        for inputs, labels in moved(trainer.batches(a.loader)):
            other, _ = next(unlabelled)
            static.copy_(inputs + 0 * other)
            a.step((static, labels))


def carried_memory(a: Setting) -> None:
    memory: deque[int] = deque()
    trainer = a.trainer()
    trainer.carry("memory")
    for now in trainer.steps(8):
        if len(memory) > 100:
            memory = deque(memory, 50)
        memory.append(now)
        rows = random.choices(memory, k=4)
        a.step((INPUTS[rows], LABELS[rows]))


def inner_optimizers(a: Setting) -> None:
    trainer = a.trainer()
    for batch in (b for _ in range(2) for b in trainer.batches(a.loader)):
        learner = deepcopy(a.model)
        inner = torch.optim.SGD(learner.parameters(), 0.1)
        step(learner, inner, batch)
        a.step(batch)


def many_objects_in_helpers(a: Setting) -> None:
    def evaluate(model: nn.Module, rows: list[int]) -> float:
        seen = []
        for row in rows:
            seen.append(model(INPUTS[row]).sum().item())
        return sum(seen)

    best = {"value": 0.0}
    trainer = a.trainer(best=best)
    cache = random.sample(range(16), 4)
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            a.step(batch)
        value = evaluate(a.model, cache)
        if value > best["value"]:
            best["value"] = value


QUIET = [
    supervised,
    adversarial,
    reinforcement,
    closures,
    accumulation,
    mixed_precision,
    curriculum,
    meters,
    meters_of_a_function,
    folds,
    recurrent,
    prefetching,
    carried_memory,
    inner_optimizers,
    many_objects_in_helpers,
]
