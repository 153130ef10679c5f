"""Models and datasets that are small enough to be trained in a tenth of a second; knows no trainer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset, get_worker_info

INPUTS, CLASSES = 6, 3
TRAIN_SAMPLES, VAL_SAMPLES = 40, 12
BATCH = 4
STEPS_PER_EPOCH = TRAIN_SAMPLES // BATCH


def samples(count: int, seed: int = 5) -> TensorDataset:
    """A fixed classification problem; its making draws from no global stream."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, INPUTS, generator=generator)
    return TensorDataset(x, (x[:, :CLASSES] + 0.1 * x[:, CLASSES:]).argmax(1))


def mlp(*extra: nn.Module) -> nn.Sequential:
    """One hidden layer with dropout, and `extra` layers behind the first."""
    return nn.Sequential(nn.Linear(INPUTS, 16), *extra, nn.ReLU(), nn.Dropout(0.25), nn.Linear(16, CLASSES))


class Restless(nn.Module):
    """Counts its calls and draws from every global stream, in eval mode too: each call changes what comes after it."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        drawn = torch.rand(()) + float(numpy.random.rand()) + random.random()
        return x * (1 + drawn / 10) + self.calls / 100


class Augmented(Dataset[Any]):
    """Samples with noise from torch's global stream."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        x, y = self.dataset[index]
        return x + 0.1 * torch.randn(x.shape), y


class Transform:
    """Scales by a factor from its own torch generator."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(11)

    def __call__(self, x: Tensor) -> Tensor:
        return x * (1 + 0.1 * torch.rand((), generator=self.generator))

    def __getstate__(self) -> Any:
        return self.generator.get_state().tolist()  # torch 2.13 cannot hand a generator to a spawned worker

    def __setstate__(self, state: Any) -> None:
        self.generator = torch.Generator()
        self.generator.set_state(torch.tensor(state, dtype=torch.uint8))


class AugmentedByAll(Augmented):
    """Samples with noise from torch, NumPy, Python, and from private generators of all three sorts."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        super().__init__(dataset)
        self.numpy_generator = numpy.random.default_rng(3)
        self.python_generator = random.Random(4)
        self.transform = Transform()

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        x = x + 0.1 * torch.from_numpy(numpy.random.standard_normal(INPUTS)).float() + random.random() * 0.1
        x = x + 0.1 * self.python_generator.random() + 0.1 * float(self.numpy_generator.random())
        return self.transform(x), y


class Drawn(IterableDataset[Any]):
    """A stream of samples drawn at random, `count` of them, shared out among workers; it cannot say where it is."""

    def __init__(self, count: int = TRAIN_SAMPLES) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, self.count, stride):
            yield self.sample(number)

    def sample(self, number: int) -> tuple[Tensor, int]:
        x = torch.randn(INPUTS) + 0.1 * random.random() + 0.1 * float(numpy.random.rand())
        return x, number % CLASSES


class DrawnStateful(Drawn):
    """The same stream, from which a `state_dict` can go on."""

    def __init__(self, count: int = TRAIN_SAMPLES) -> None:
        super().__init__(count)
        self.number = 0

    def __iter__(self) -> Iterator[Any]:
        while self.number < self.count:
            self.number += 1
            yield self.sample(self.number)
        self.number = 0

    def state_dict(self) -> dict[str, int]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.number = state["number"]


class Islands:
    """An iterable of batches without length, state or class of torch: what a user wrote in an afternoon."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.batches):
            yield torch.randn(BATCH, INPUTS), torch.randint(CLASSES, (BATCH,))
