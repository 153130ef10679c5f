"""Decide how the order of a sampler is known: by arithmetic, from the key of the pass, or only by drawing it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from resumable.prepared.private import is_seeded_sampler

_FROM_KEY = (RandomSampler, SequentialSampler, DistributedSampler)
_AT_ITER = (SubsetRandomSampler, WeightedRandomSampler, list, tuple, range)
_IN_ORDER = "in order"


@dataclass(frozen=True)
class SequentialOrder:
    """Indices one after the other, alone or in batches: any of them is found by arithmetic."""

    indices: range
    batch_size: int | None
    drop_last: bool

    @classmethod
    def of(cls, sampler: object) -> SequentialOrder | None:
        """Return the order of one of torch's sequential samplers or of a range; None for any other."""
        if type(sampler) is range:
            return cls(sampler, None, False)
        if type(sampler) is SequentialSampler:
            return cls(range(len(sampler.data_source)), None, False)
        if type(sampler) is BatchSampler and type(sampler.batch_size) is int:
            inner = cls.of(sampler.sampler)
            if inner is not None and inner.batch_size is None:
                return cls(inner.indices, sampler.batch_size, bool(sampler.drop_last))
        return None

    @property
    def name(self) -> str:
        """Return what a checkpoint stores of the order."""
        first, step = self.indices.start, self.indices.step
        return f"{_IN_ORDER}: {len(self.indices)} from {first} by {step}, {self.batch_size}, {self.drop_last}"

    def __len__(self) -> int:
        if self.batch_size is None:
            return len(self.indices)
        return len(self.indices) // self.batch_size if self.drop_last else -(-len(self.indices) // self.batch_size)

    def __getitem__(self, number: int) -> object:
        """Return the index, or the batch of indices, of this number from 0."""
        if self.batch_size is None:
            return self.indices[number]
        return [*self.indices[number * self.batch_size : (number + 1) * self.batch_size]]


def is_sequential_name(order: object) -> bool:
    """Return whether a checkpoint holds the name of a sequential order."""
    return isinstance(order, str) and order.startswith(_IN_ORDER)


def index_sampler(loader: DataLoader[Any]) -> Iterable[object]:
    """Return what a loader draws its indices, or its batches of them, from."""
    sampler: Iterable[object] = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    return sampler


def follows_from_key(sampler: object) -> bool:
    """Return whether the key of the pass surely decides the whole order: of torch's own random samplers."""
    return type(_innermost(sampler)) in (*_FROM_KEY, *_of_torchdata()) or is_seeded_sampler(_innermost(sampler))


def is_drawn_at_iter(sampler: object) -> bool:
    """Return whether the whole order is surely decided when iterating begins."""
    return type(_innermost(sampler)) in _AT_ITER


def draws_first_or_never(sampler: object) -> bool:
    """Return whether a sampler surely draws from the global streams before its first index, or never."""
    return type(sampler) in (*_FROM_KEY, *_AT_ITER) or (
        type(sampler) is BatchSampler and draws_first_or_never(sampler.sampler)
    )


def name_of(sampler: object) -> str:
    """Return the name of the type that decides the order."""
    return type(_innermost(sampler)).__qualname__


def _innermost(sampler: object) -> object:
    while type(sampler) in (BatchSampler, *_of_torchdata("BatchSampler")):
        sampler = sampler.sampler  # type: ignore[attr-defined]
    return sampler


def _of_torchdata(*names: str) -> tuple[type, ...]:
    module = sys.modules.get("torchdata.stateful_dataloader.sampler")
    found = (getattr(module, name, None) for name in names or ("RandomSampler", "StatefulDistributedSampler"))
    return tuple(kind for kind in found if isinstance(kind, type))
