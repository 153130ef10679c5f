"""Passes over map-style datasets, by address: the batches of a DataLoader carry the keys of their randomness.

The loader that runs is one of ours (`keyed_loader.py`), built from the settings of the user's. Its sampler yields
`KeyedBatch`. Its dataset is a proxy that sets the streams from the key, then fetches and collates as torch would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    Sampler,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
)

from resumable.data.pass_base import Opening, Pass, PassPosition
from resumable.data.passes.keyed_loader import KeyedFetch, build_loader, iterate
from resumable.data.rng.streams import Seeds, SeedsAhead, seeds_now
from resumable.data.sampling.open_order import open_order
from resumable.data.sampling.sampler_state import SamplerStates
from resumable.data.sampling.sampling_order import KeyedBatch, Order
from resumable.data.sampling.set_epoch import has_epoch, update_epoch
from resumable.data.workers import end_iterator, end_workers


class KeyedDataset(Dataset[Any]):
    """The user's dataset behind a proxy that maps a keyed batch to the collated batch."""

    def __init__(self, loader: DataLoader[Any], *, rule: int, seeds: Callable[[bytes], Seeds] = seeds_now) -> None:
        self.dataset: Any = loader.dataset
        self._collate = loader.collate_fn
        self._batched = loader.batch_sampler is not None
        self._has_epoch = has_epoch(self.dataset)
        self._fetch = KeyedFetch(self.dataset, self._collate, rule=rule, seeds=seeds)
        self._draws_nothing = draws_nothing(self.dataset) and self._collate in _DRAWING_NOTHING

    def __getitem__(self, batch: KeyedBatch) -> Any:
        key, index, epoch = batch
        if self._has_epoch and epoch is not None:
            # Persistent workers hold a copy of the dataset that the main program's set_epoch does not reach; in the
            # main program another loop over the same dataset may have passed it another epoch since.
            update_epoch(self.dataset, epoch)
        if self._draws_nothing:
            return self._collate(self._read(index))
        return self._fetch(key, lambda: self._collate(self._read(index)))

    def _read(self, index: Any) -> Any:
        dataset = self.dataset
        if not self._batched:
            return dataset[index]
        if getattr(dataset, "__getitems__", None):
            return dataset.__getitems__(index)
        return [dataset[one] for one in index]


def draws_nothing(dataset: object) -> bool:
    """Return whether reading surely draws no random number, so that no stream has to be set: tensors and their parts.

    Of exactly torch's own types only: a subclass may do anything, and so may a tensor of another type.
    """
    if type(dataset) is TensorDataset:
        return all(type(tensor) is torch.Tensor for tensor in dataset.tensors)
    return type(dataset) is Subset and draws_nothing(dataset.dataset)


_DRAWING_NOTHING = (default_collate, default_convert)


class CurrentOrder(Sampler[KeyedBatch]):
    """The sampler of our loader: the order that is set now. A loader requests its iterator more than once a pass."""

    def __init__(self) -> None:
        self.order: Iterator[KeyedBatch] = iter(())

    def __iter__(self) -> Iterator[KeyedBatch]:
        return self.order


class KeyedSource:
    """One of our loaders, kept as long as the user's loader lives, so that persistent workers live across passes."""

    def __init__(self) -> None:
        self._loader: DataLoader[Any] | None = None
        self._order = CurrentOrder()
        self._active: KeyedPass | None = None

    def start(self, loader: DataLoader[object], opening: Opening, order: Order, owner: KeyedPass) -> Iterator[Any]:
        """Return the batches of `order`; close a pass of the same loop that still holds the persistent workers."""
        if not loader.num_workers and not loader.pin_memory:
            # Everything else that torch's own iterator does costs half a fetch: its record for profilers, a count.
            seeds = SeedsAhead(order.following).of
            return map(KeyedDataset(loader, rule=opening.generator_rule, seeds=seeds).__getitem__, order)
        if self._loader is None or not loader.persistent_workers:
            self._order = CurrentOrder()
            self._loader = build_loader(loader, opening, KeyedDataset(loader, rule=opening.generator_rule), self._order)
        elif self._active is not None:
            self._active.close()
        self._active = owner
        self._order.order = order
        return iterate(self._loader, opening.signals)

    def close(self) -> None:
        """Shut down the workers."""
        end_workers(self._loader)
        self._loader = None


class KeyedPass(Pass[Any]):
    """One pass over a map-style dataset."""

    def __init__(self, loader: DataLoader[object], opening: Opening, source: KeyedSource, now: SamplerStates) -> None:
        super().__init__(opening.address)
        self._loader: DataLoader[object] | None = loader  # kept alive: its workers end with it
        self._persistent = bool(loader.persistent_workers)
        self.order = open_order(loader, opening, now)
        self.length = self.order.length
        self._batches: Iterator[Any] | None = source.start(loader, opening, self.order, self)

    def _fetch(self) -> Any:
        assert self._batches is not None
        batch = next(self._batches)
        self.order.consumed()
        return batch

    def _position(self) -> PassPosition:
        return {"kind": "address"} | self.order.position()

    def _release(self) -> None:
        if not self._persistent:
            end_iterator(self._batches)
        self._batches = self._loader = None
