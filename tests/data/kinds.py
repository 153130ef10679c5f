"""Datasets, samplers and loaders of every kind that the data layer promises to resume; at module level, for spawn."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from resumable.data.addresses import PassAddress
from resumable.data.open_pass import Data

FLOAT = torch.float64


def draws() -> list[float]:
    return [torch.rand(()).item(), torch.randn(()).item(), np.random.rand(), np.random.randn(), random.random()]


class Indices(Dataset[int]):
    """As large as one says; a sample is its index."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


class Augmented(Dataset[torch.Tensor]):
    """Each sample is its index and a draw from every kind of stream, private ones included."""

    transform: list[Callable[[], float]]

    def __init__(self, length: int = 41) -> None:
        self.length = length
        self.reads = 0
        self.private = np.random.default_rng(0)
        self.transform = [Jitter()]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        self.reads += 1
        own = [self.private.random(), self.transform[0]()]
        return torch.tensor([float(index), *draws(), *own], dtype=FLOAT)


class Spawnable(Augmented):
    """Without a torch.Generator: torch cannot send one to a spawned worker."""

    def __init__(self, length: int = 41) -> None:
        super().__init__(length)
        self.transform = [np.random.default_rng(1).random]  # a method: found through its owner


class ByList(Augmented):
    """Takes a whole list of indices as one."""

    def __getitem__(self, indices: Any) -> torch.Tensor:
        return torch.stack([super(ByList, self).__getitem__(index) for index in indices])


class Jitter:
    def __init__(self) -> None:
        self.generator = torch.Generator()

    def __call__(self) -> float:
        return torch.rand((), generator=self.generator).item()


class LazilySeeded(Augmented):
    """Makes its generator at the first sample, from what torch told the worker: the usual recipe."""

    lazy: np.random.Generator | None = None

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.lazy is None:
            told = get_worker_info()
            self.lazy = np.random.default_rng(told.seed if told else torch.initial_seed())
        return torch.tensor([float(index), self.lazy.random()], dtype=FLOAT)


class Batched(Augmented):
    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


class Epoched(Augmented):
    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index), float(self.epoch)], dtype=FLOAT)


class LazySampler(Sampler[int]):
    """Draws from the global streams at every index, and has no length."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[int]:
        for _ in range(self.length):
            yield int(random.random() * 7) + int(np.random.rand() * 7) + int(torch.randint(7, ()).item())


class CountingSampler(Sampler[int]):
    """Its order depends on how often it was iterated: state that its state_dict tells."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.passes = 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        return iter([(index * (self.passes + 1)) % self.length for index in range(self.length)])

    def __len__(self) -> int:
        return self.length

    def state_dict(self) -> dict[str, int]:
        return {"passes": self.passes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.passes = state["passes"]


class OwnGenerator(Sampler[int]):
    """Makes its generator when iterating first begins."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.rng: np.random.Generator | None = None

    def __iter__(self) -> Iterator[int]:
        if self.rng is None:
            self.rng = np.random.default_rng(3)
        return iter(self.rng.permutation(self.length).tolist())

    def __len__(self) -> int:
        return self.length


class Pairs:
    """A batch sampler that is no Sampler; yields what `shape` makes of a list."""

    def __init__(self, length: int, shape: Any = list) -> None:
        self.length = length
        self.shape = shape

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.length):
            yield self.shape([random.randrange(20), random.randrange(20)])


def mixup(samples: list[torch.Tensor]) -> torch.Tensor:
    stacked = torch.stack(samples)
    return stacked * np.random.beta(0.4, 0.4) + stacked[torch.randperm(len(samples))] * random.random()


def start_worker(worker: int) -> None:
    told = get_worker_info()
    assert told is not None
    assert isinstance(told.dataset, Augmented)
    told.dataset.private = np.random.default_rng(told.seed)


class Numbers(IterableDataset[torch.Tensor]):
    """A stream divided among workers, shuffled and augmented from global and private streams."""

    def __init__(self, length: int = 37) -> None:
        self.length = length
        self.private = np.random.default_rng(0)

    def __iter__(self) -> Iterator[torch.Tensor]:
        told = get_worker_info()
        first, step = (told.id, told.num_workers) if told else (0, 1)
        order = self.private.permutation(self.length)[first::step]
        seed = float(told.seed % 1000) if told else 0.0
        return (torch.tensor([float(n), seed, self.private.random(), *draws()], dtype=FLOAT) for n in order)


class Ledger(IterableDataset[torch.Tensor]):
    """A stream that knows where it stands."""

    def __init__(self, length: int = 37) -> None:
        self.length = length
        self.at = 0
        self.reads = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.at < self.length:
            self.at += 1
            self.reads += 1
            yield torch.tensor([float(self.at), *draws()], dtype=FLOAT)
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class OwnIter(DataLoader[torch.Tensor]):
    """A loader with an __iter__ of its own."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield batch + random.random()


class Endless:
    """A plain iterable that draws from the global streams and a private one."""

    def __init__(self, length: int = 9) -> None:
        self.length = length
        self.rng = random.Random(5)

    def __iter__(self) -> Iterator[torch.Tensor]:
        for number in range(self.length):
            yield torch.tensor([float(number), self.rng.random(), *draws()], dtype=FLOAT)


class Bench:
    """A `Data` with what it said."""

    def __init__(self, data_seed: int = 7, **settings: Any) -> None:
        self.said: list[str] = []
        self.advanced = 0
        self.data = Data(data_seed, warn=self.said.append, skipping=self._skipping, **settings)

    @contextmanager
    def _skipping(self, what: str, total: int) -> Iterator[Any]:
        yield self._advance

    def _advance(self, count: int) -> None:
        self.advanced += count

    def batches(
        self, loader: Any, *, stop: int | None = None, resume: Any = None, epoch: int = 0, loop: str = "batches"
    ) -> tuple[list[Any], dict[str, Any]]:
        """The batches of one pass, all or the first `stop`, and the position after them."""
        opened = self.data.open(loader, PassAddress(loop, 0, epoch), resume, set_epoch=epoch)
        out = []
        for batch in opened:
            out.append(batch)
            if len(out) == stop:
                break
        position = opened.position()
        opened.close()
        return out, position

    def watched(self, loader: Any, *, stops: Container[int], epoch: int) -> tuple[list[Any], dict[int, Any]]:
        """The batches of one whole pass, and the positions after so many of them, as saves on the way take them."""
        opened = self.data.open(loader, PassAddress("batches", 0, epoch), None, set_epoch=epoch)
        out, positions = [], {}
        for batch in opened:
            out.append(batch)
            if len(out) in stops:
                positions[len(out)] = copy.deepcopy(opened.position())
        opened.close()
        return out, positions


def equal(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
