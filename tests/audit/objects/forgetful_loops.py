"""Loops that forget an object each, with the beginning of the line that names it; knows no test."""

from __future__ import annotations

import random
from collections import deque
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler

from tests.audit.objects.warned_lines import INPUTS, LABELS, Setting, network, step


def model(a: Setting) -> None:
    net, optimizer = a.model, a.optimizer
    trainer = a.bare(optimizer=optimizer)
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            step(net, optimizer, batch)


def optimizer_in_a_helper(a: Setting) -> None:
    hidden = {"a": torch.optim.Adam(a.model.parameters())}

    def train(batch: Any) -> None:
        step(a.model, hidden["a"], batch)

    trainer = a.bare(model=a.model)
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            train(batch)


def optimizer_of_another_model(a: Setting) -> None:
    head = network()
    other = torch.optim.Adam(head.parameters())
    trainer = a.trainer(head=head)
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            a.step(batch)
            step(head, other, batch)


def optimizer_built_again(a: Setting) -> None:
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        optimizer = torch.optim.Adam(a.model.parameters())
        for batch in trainer.batches(a.loader):
            step(a.model, optimizer, batch)


def average_by_hand(a: Setting) -> None:
    ema, model = deepcopy(a.model), a.model
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            a.step(batch)
            with torch.no_grad():
                for mine, theirs in zip(ema.parameters(), model.parameters(), strict=True):
                    mine.lerp_(theirs, 0.1)


def averaged_model(a: Setting) -> None:
    swa = AveragedModel(a.model)
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            a.step(batch)
            swa.update_parameters(a.model)


class Average:
    """An average of parameters as many programs write it."""

    def __init__(self, parameters: Any) -> None:
        self.shadow = [each.detach().clone() for each in parameters]
        self.updates = 0

    def update(self, parameters: Any) -> None:
        self.updates += 1
        for mine, theirs in zip(self.shadow, parameters, strict=True):
            mine.lerp_(theirs.detach(), 0.1)


def average_of_a_class(a: Setting) -> None:
    average = Average(a.model.parameters())
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            a.step(batch)
            average.update(a.model.parameters())


class CalledAverage(Average):
    """The same, called like a function."""

    @torch.no_grad()
    def __call__(self, parameters: Any) -> None:
        self.updates += 1
        for mine, theirs in zip(self.shadow, parameters, strict=True):
            mine.lerp_(theirs, 0.1)


def average_that_is_called(a: Setting) -> None:
    average = CalledAverage(a.model.parameters())
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            a.step(batch)
            average(a.model.parameters())


def loader_iterator(a: Setting) -> None:
    batches = iter(a.loader)
    trainer = a.trainer()
    for _ in trainer.steps(8):
        try:
            batch = next(batches)
        except StopIteration:
            batches = iter(a.loader)
            batch = next(batches)
        a.step(batch)


def schedule(a: Setting) -> None:
    scheduler = torch.optim.lr_scheduler.StepLR(a.optimizer, 2)
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            a.step(batch)
            scheduler.step()


def schedule_by_epochs(a: Setting) -> None:
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(a.optimizer)
    trainer = a.trainer()
    for _ in trainer.epochs(4):
        for batch in trainer.batches(a.loader):
            loss = a.step(batch)
        scheduler.step(loss.item())


def scaler(a: Setting) -> None:
    scaler = torch.amp.GradScaler("cpu")
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for inputs, labels in trainer.batches(a.loader):
            loss = nn.functional.cross_entropy(a.model(inputs), labels)
            a.optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(a.optimizer)
            scaler.update()


def numpy_generator(a: Setting) -> None:
    rng = np.random.default_rng(0)
    trainer = a.trainer()
    for _ in trainer.steps(8):
        rows = rng.integers(0, 16, 4)
        a.step((INPUTS[rows], LABELS[rows]))


def torch_generator(a: Setting) -> None:
    noise = torch.Generator().manual_seed(0)
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for inputs, labels in trainer.batches(a.loader):
            a.step((inputs + 0.1 * torch.randn(inputs.shape, generator=noise), labels))


def python_generator(a: Setting) -> None:
    dice = random.Random(0)
    trainer = a.trainer()
    for _ in trainer.steps(8):
        rows = [dice.randrange(16) for _ in range(4)]
        a.step((INPUTS[rows], LABELS[rows]))


class World:
    """An environment in the manner of gymnasium's."""

    def __init__(self) -> None:
        self._np_random = np.random.default_rng(0)
        self.place = 0.0

    def step(self, action: float) -> float:
        self.place += action + self._np_random.normal()
        return self.place


class Wrapped:
    def __init__(self, env: Any) -> None:
        self.env = env

    def step(self, action: float) -> float:
        return float(self.env.step(action))


def environment(a: Setting) -> None:
    env = Wrapped(Wrapped(World()))
    trainer = a.trainer()
    for _ in trainer.steps(8):
        place = env.step(0.5)
        a.step((INPUTS[:4] + place, LABELS[:4]))


def replay_list(a: Setting) -> None:
    memory: list[Any] = []
    trainer = a.trainer()
    for now in trainer.steps(8):
        memory.append(now % 16)
        rows = random.choices(memory, k=4)
        a.step((INPUTS[rows], LABELS[rows]))


def replay_in_a_helper(a: Setting) -> None:
    memory: deque[int] = deque(maxlen=10)

    def remember(where: deque[int], what: int) -> None:
        where.append(what)

    trainer = a.trainer()
    for now in trainer.steps(8):
        remember(memory, now)
        rows = random.choices(memory, k=4)
        a.step((INPUTS[rows], LABELS[rows]))


def counts_in_a_dict(a: Setting) -> None:
    counts: dict[int, int] = {}
    trainer = a.trainer()
    for now in trainer.steps(8):
        counts[now % 4] = counts.get(now % 4, 0) + 1
        rows = sorted(counts) * 4
        a.step((INPUTS[rows], LABELS[rows]))


def seen_rows(a: Setting) -> None:
    seen: set[int] = set()
    trainer = a.trainer()
    for now in trainer.steps(8):
        seen.add(now % 16)
        rows = [*seen, *range(8)][:4]
        a.step((INPUTS[rows], LABELS[rows]))


@dataclass
class Stopping:
    """Early stopping as a dataclass, with an attribute that is set under a condition."""

    best: float = float("inf")
    bad: int = 0
    seen: list[float] = field(default_factory=list)

    def see(self, loss: float) -> bool:
        if loss < self.best:
            self.best = loss
        else:
            self.bad += 1
        return self.bad > 100


def early_stopping(a: Setting) -> None:
    stopping = Stopping()
    trainer = a.trainer()
    for _ in trainer.epochs(4):
        for batch in trainer.batches(a.loader):
            loss = a.step(batch)
        if stopping.see(loss.item()):
            trainer.stop()


def hidden_state(a: Setting) -> None:
    hidden = torch.zeros(8)
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for inputs, labels in trainer.batches(a.loader):
            hidden.mul_(0.9).add_(inputs.mean())
            a.step((inputs + hidden.mean(), labels))


def ring_buffer(a: Setting) -> None:
    ring = np.zeros((32, 4), np.float32)
    trainer = a.trainer()
    for now in trainer.steps(8):
        ring[now % 32] = INPUTS[now]
        a.step((torch.from_numpy(ring[:4]), LABELS[:4]))


class Cooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.temperature = 1.0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.inner(inputs) / self.temperature
        return outputs


def module_attribute(a: Setting) -> None:
    model = Cooling()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = a.bare(model=model, optimizer=optimizer)
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            step(model, optimizer, batch)
            model.temperature = max(0.3, model.temperature * 0.97)


def dropout(a: Setting) -> None:
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            a.step(batch)
            a.model[2].p += 0.01


class Growing(Dataset[Any]):
    def __init__(self) -> None:
        self.noise = 0.0

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        return INPUTS[index] + self.noise * torch.randn(4), LABELS[index]


def dataset_attribute(a: Setting) -> None:
    data = Growing()
    loader = DataLoader(data, 4)
    trainer = a.trainer()
    for _ in trainer.epochs(4):
        for batch in trainer.batches(loader):
            a.step(batch)
        loader.dataset.noise += 0.1  # type: ignore[attr-defined]


class Hard(Sampler[int]):
    def __init__(self) -> None:
        self.weights = [1.0] * 16

    def __iter__(self) -> Any:
        return iter(random.choices(range(16), self.weights, k=16))

    def learn(self, row: int, loss: float) -> None:
        self.weights[row] = loss


def sampler_weights(a: Setting) -> None:
    sampler = Hard()
    loader = DataLoader(Growing(), 4, sampler=sampler)
    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for batch in trainer.batches(loader):
            sampler.learn(3, a.step(batch).item())


def iterator(a: Setting) -> None:
    def endless() -> Any:
        while True:
            yield from a.loader

    unlabelled = endless()
    trainer = a.trainer()
    for _ in trainer.steps(8):
        a.step(next(unlabelled))


class Program:
    """A training as a class, whose parts are attributes."""

    def __init__(self, a: Setting) -> None:
        self.a = a
        self.model, self.optimizer = a.model, a.optimizer
        self.average = Average(a.model.parameters())
        self.patience = 0
        self.trainer = a.trainer()

    def train(self) -> None:
        for _ in self.trainer.epochs(2):
            for batch in self.trainer.batches(self.a.loader):
                self.one_step(batch)

    def one_step(self, batch: Any) -> None:
        step(self.model, self.optimizer, batch)
        self.average.update(self.model.parameters())
        self.patience += 1


def attributes_of_a_program(a: Setting) -> None:
    Program(a).train()


def attribute_of_a_class(a: Setting) -> None:
    class Settings:
        warm = 0

    trainer = a.trainer()
    for _ in trainer.epochs(2):
        for batch in trainer.batches(a.loader):
            Settings.warm += 1
            a.optimizer.param_groups[0]["lr"] = 0.1 / Settings.warm
            a.step(batch)


LINES = {
    attribute_of_a_class: [
        "Settings changes in the loop and is in no checkpoint (.warm was 1 and is 2): keep what changes in a dict"
    ],
    model: ["net has 4 parameters that optimizer steps, and is in no checkpoint: save it too: Trainer(..., net=net)"],
    optimizer_in_a_helper: ["an optimizer (Adam) steps the parameters of model and is in no checkpoint"],
    optimizer_of_another_model: ["other steps the parameters of head and is in no checkpoint: save it too: Trainer("],
    optimizer_built_again: ["optimizer never steps, while another optimizer (Adam) that is in no checkpoint"],
    average_by_hand: ["ema changes in the loop and is in no checkpoint (.3.bias was float32[2] #"],
    averaged_model: ["swa changes in the loop and is in no checkpoint (.n_averaged was int64[] #"],
    average_of_a_class: ["average changes in the loop and is in no checkpoint (.updates was 1 and is 2)"],
    average_that_is_called: ["average changes in the loop and is in no checkpoint (.updates was 1 and is 2)"],
    loader_iterator: [
        "batches changes in the loop and is in no checkpoint (._num_yielded was 1 and is 2): its place is lost",
        "carried batches crosses from one step to the next",  # the name, since the loop binds it
    ],
    schedule: ["scheduler changes in the loop and is in no checkpoint (.last_epoch was 1 and is 2): save it too"],
    schedule_by_epochs: ["scheduler changes in the loop and is in no checkpoint (.best was "],
    scaler: ["scaler changes in the loop and is in no checkpoint ("],
    numpy_generator: ["rng changes in the loop and is in no checkpoint (it was state #"],
    torch_generator: ["noise changes in the loop and is in no checkpoint (it was state #"],
    python_generator: ["dice changes in the loop and is in no checkpoint (it was state #"],
    environment: ["env changes in the loop and is in no checkpoint (.env.env.place was "],
    replay_list: ["memory changes in the loop and is in no checkpoint (it was 1 items and is 2 items): save it too"],
    replay_in_a_helper: ["memory changes in the loop and is in no checkpoint (it was 1 items and is 2 items): save"],
    counts_in_a_dict: ["counts changes in the loop and is in no checkpoint (it was 1 items and is 2 items): save it"],
    seen_rows: ["seen changes in the loop and is in no checkpoint (it was 1 items and is 2 items): keep it in a dict"],
    early_stopping: ["stopping changes in the loop and is in no checkpoint (."],
    hidden_state: ["hidden changes in the loop and is in no checkpoint (it was float32[8] #"],
    ring_buffer: ["ring: written by index in the loop, and in no checkpoint"],
    module_attribute: ["model.temperature changes in the loop and is in no checkpoint (it was 0.97 and is 0.9409)"],
    dropout: ["model.2.p changes in the loop and is in no checkpoint (it was 0.11 and is 0.12"],
    dataset_attribute: ["loader.dataset changes in the loop and is in no checkpoint (.noise was 0.0 and is 0.1): save"],
    sampler_weights: ["sampler changes in the loop and is in no checkpoint (.weights[3] was "],
    iterator: ["unlabelled changes in the loop and is in no checkpoint (gave items): its place is lost in a resume"],
    attributes_of_a_program: [
        "self.average changes in the loop and is in no checkpoint (.updates was 1 and is 2): save it too: "
        "Trainer(..., average=attributes(self.average))",
        "self changes in the loop and is in no checkpoint (.patience was 1 and is 2): keep what changes in a dict",
    ],
}
