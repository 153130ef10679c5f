"""Map-style datasets by address: a DataLoader whose batches carry the key of their randomness; knows no storage.

The loader that runs is one of ours, built from the settings of the user's. Its sampler yields `KeyedBatch`, its dataset
is a proxy that sets the streams from the key and then fetches and collates as torch would.
"""

from __future__ import annotations

import warnings
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
    get_worker_info,
)

from resumable.data.addresses import loop_key
from resumable.data.pass_base import Opening, Pass, has_epoch, tell_epoch
from resumable.data.rng.find_generators import Finder
from resumable.data.rng.streams import Seeds, SeedsAhead, seed_number, seeds_now
from resumable.data.sampler_state import States
from resumable.data.sampling_order import KeyedBatch, Order
from resumable.data.workers import WorkerStart, end_iterator, end_workers, signals_held, tell_worker_seed


class KeyedFetch:
    """Runs a fetch under the streams of a key, in a worker or in the main program; the latter gets its streams back."""

    def __init__(self, *roots: Any, rule: int, seeds: Callable[[bytes], Seeds] = seeds_now) -> None:
        self._roots = roots
        self._rule = rule
        self._seeds = seeds
        self._finder: Finder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_roots": self._roots, "_rule": self._rule, "_seeds": self._seeds, "_finder": None}

    def __call__(self, key: bytes, fetch: Callable[[], Any], *, again: bool = True) -> Any:
        """The result of `fetch`; `again` allows a second call if a generator came into being during the first."""
        if self._finder is None:
            self._finder = Finder(*self._roots, rule=self._rule)
        before = self._finder.find()
        seeds = self._seeds(key)
        if get_worker_info() is None:
            result = seeds.run(fetch, before)
        else:
            tell_worker_seed(seeds.number)
            seeds.set(before)
            result = fetch()
        # The very same dict is the usual case: then nothing can have come into being.
        if again and (after := self._finder.find()) is not before and after.keys() - before.keys():
            # Made lazily, it was seeded by whatever its maker chose; from the next batch on it would have a key.
            return self(key, fetch, again=False)
        return result


class KeyedDataset(Dataset[Any]):
    """The user's dataset behind a proxy that takes a keyed batch and gives the collated batch."""

    def __init__(self, loader: Any, *, rule: int, seeds: Callable[[bytes], Seeds] = seeds_now) -> None:
        self.dataset = loader.dataset
        self._collate = loader.collate_fn
        self._batched = loader.batch_sampler is not None
        self._has_epoch = has_epoch(self.dataset)
        self._fetch = KeyedFetch(self.dataset, self._collate, rule=rule, seeds=seeds)
        self._draws_nothing = draws_nothing(self.dataset) and self._collate in _DRAWING_NOTHING

    def __getitem__(self, batch: KeyedBatch) -> Any:
        key, index, epoch = batch
        if self._has_epoch and epoch is not None:
            # Persistent workers hold a copy of the dataset that the main program's set_epoch does not reach; in the
            # main program another loop over the same dataset may have told it another epoch since.
            tell_epoch(self.dataset, epoch)
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


def draws_nothing(dataset: Any) -> bool:
    """Whether reading is known to draw no random number, so that no stream needs to be set: tensors, and parts of them.

    Of exactly torch's own types only: a subclass may do anything, and so may a tensor of another type.
    """
    if type(dataset) is TensorDataset:
        return all(type(tensor) is torch.Tensor for tensor in dataset.tensors)
    return type(dataset) is Subset and draws_nothing(dataset.dataset)


_DRAWING_NOTHING = (default_collate, default_convert)


class CurrentOrder(Sampler[KeyedBatch]):
    """The sampler of our loader: whatever order is set now. A loader asks for its iterator more than once a pass."""

    def __init__(self) -> None:
        self.order: Iterator[KeyedBatch] = iter(())

    def __iter__(self) -> Iterator[KeyedBatch]:
        return self.order


def as_it_is(batch: Any) -> Any:
    """The collate function of our loader: the proxy has collated already."""
    return batch


def build_loader(loader: Any, opening: Opening, dataset: Dataset[Any], sampler: Any) -> DataLoader[Any]:
    """A DataLoader with the settings of `loader` over a proxy; its base seed follows from data_seed and the loop."""
    settings: dict[str, Any] = {"pin_memory": loader.pin_memory, "timeout": loader.timeout}
    if loader.pin_memory and loader.pin_memory_device:
        settings["pin_memory_device"] = loader.pin_memory_device
    if loader.num_workers:
        settings |= {
            "num_workers": loader.num_workers,
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "multiprocessing_context": loader.multiprocessing_context,
            "worker_init_fn": WorkerStart(loader.worker_init_fn, opening.signals),
        }
    seed = torch.Generator()
    seed.manual_seed(seed_number(loop_key(opening.data_seed, opening.address.loop)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the worker count: the user's own loader told them already
        return DataLoader(dataset, batch_size=None, sampler=sampler, collate_fn=as_it_is, generator=seed, **settings)


def iterate(loader: DataLoader[Any], signals: tuple[int, ...]) -> Iterator[Any]:
    """Start a pass over one of our loaders, and its workers where none are waiting."""
    with signals_held(signals if loader.num_workers else ()):
        return iter(loader)


class KeyedSource:
    """One of our loaders, kept as long as the user's loader lives, so that persistent workers live across passes."""

    def __init__(self) -> None:
        self._loader: DataLoader[Any] | None = None
        self._order = CurrentOrder()
        self._active: Pass | None = None

    def start(self, loader: Any, opening: Opening, order: Order, owner: Pass) -> Iterator[Any]:
        """The batches of `order`; a pass of the same loop that still holds the persistent workers is closed."""
        if not loader.num_workers and not loader.pin_memory:
            # All that torch's own iterator would do besides costs half a fetch: its record for profilers, a count.
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
        """End the workers."""
        end_workers(self._loader)
        self._loader = None


class KeyedPass(Pass):
    """One pass over a map-style dataset."""

    def __init__(self, loader: Any, opening: Opening, source: KeyedSource, now: States) -> None:
        super().__init__(opening.address)
        self._loader = loader  # kept alive: its workers end with it
        self._persistent = bool(loader.persistent_workers)
        self.order = Order(loader, opening, now)
        self.length = self.order.length
        self._batches: Iterator[Any] | None = source.start(loader, opening, self.order, self)

    def _fetch(self) -> Any:
        assert self._batches is not None
        batch = next(self._batches)
        self.order.consumed()
        return batch

    def _position(self) -> dict[str, Any]:
        return {"kind": "address"} | self.order.position()

    def _release(self) -> None:
        if not self._persistent:
            end_iterator(self._batches)
        self._batches = self._loader = None
