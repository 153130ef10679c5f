"""The loader that runs in place of the user's, and its fetches under the random streams of a key."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from resumable.data.addresses import loop_key
from resumable.data.pass_base import Opening
from resumable.data.rng.find_generators import Finder, FoundOnce
from resumable.data.rng.streams import Seeds, seed_number, seeds_now
from resumable.data.workers import WorkerStart, set_worker_seed, signals_held

T = TypeVar("T")


class KeyedFetch:
    """Runs a fetch under the streams of a key, in a worker or in the main program; the latter's are restored."""

    def __init__(self, *roots: object, rule: int, seeds: Callable[[bytes], Seeds] = seeds_now) -> None:
        self._roots = roots
        self._rule = rule
        self._seeds = seeds
        self._finder: Finder | FoundOnce | None = None

    def find_by(self, finder: FoundOnce) -> None:
        """Use generators that were found before, and search for no others."""
        self._finder = finder

    def __getstate__(self) -> dict[str, object]:
        return {"_roots": self._roots, "_rule": self._rule, "_seeds": self._seeds, "_finder": None}

    def __call__(self, key: bytes, fetch: Callable[[], T], *, again: bool = True) -> T:
        """Return the result of `fetch`; `again` allows a second call if a generator was created during the first."""
        if self._finder is None:
            self._finder = Finder(*self._roots, rule=self._rule)
        before = self._finder.find()
        seeds = self._seeds(key)
        if get_worker_info() is None:
            result = seeds.run(fetch, before)
        else:
            set_worker_seed(seeds.number)
            seeds.set(before)
            result = fetch()
        # The very same dict is the usual case: then no generator can have been created.
        if again and (after := self._finder.find()) is not before and after.keys() - before.keys():
            # Created lazily, its seed came from its maker; from the next batch on it would have a key.
            return self(key, fetch, again=False)
        return result


def as_it_is(batch: T) -> T:
    """Return the batch: the collate function of our loader, whose dataset has collated already."""
    return batch


def build_loader(
    loader: DataLoader[object], opening: Opening, dataset: Dataset[T], sampler: Iterable[object] | None
) -> DataLoader[T]:
    """Build a DataLoader with the settings of `loader` over a proxy; its base seed follows from data_seed and loop."""
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
        warnings.simplefilter("ignore", UserWarning)  # the user's own loader warned about the worker count already
        return DataLoader(dataset, batch_size=None, sampler=sampler, collate_fn=as_it_is, generator=seed, **settings)


def iterate(loader: DataLoader[T], signals: tuple[int, ...]) -> Iterator[T]:
    """Start a pass over one of our loaders, and its workers where none are waiting."""
    with signals_held(signals if loader.num_workers else ()):
        return iter(loader)
