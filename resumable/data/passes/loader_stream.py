"""Loaders with an `__iter__`, a `state_dict` and a `load_state_dict` of their own, as streams of batches.

Independent of what a loader is.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from resumable.data.passes.keyed_loader import as_it_is
from resumable.data.rng.find_generators import FoundOnce
from resumable.stateful import Stateful

_TABLES = (dict, OrderedDict, Counter)
_COLLECTIONS = (list, tuple, set, frozenset)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.Tensor, torch.Size, torch.dtype, torch.device)


class LoaderStream(IterableDataset[Any]):
    """A loader in the place of a dataset, whose items are the batches of the loader."""

    def __init__(self, loader: Any, rule: int) -> None:
        self.loader = loader
        # Found before iterating, for a loader holds its own iterators: more is found once they have begun.
        self.generators = FoundOnce(loader, rule=rule)

    def __iter__(self) -> Iterator[Any]:
        with _not_looking_ahead(self.loader):
            return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> Any:
        """Return the state of the loader, or None where it has none that can be stored."""
        try:
            state = self.loader.state_dict()
        except Exception:
            # Some loaders have one in some settings only. Without a state the pass is replayed, which is exact, too.
            return None
        return state if is_plain(state) else None

    def load_state_dict(self, state: Any) -> None:
        """Load a state of the loader."""
        self.loader.load_state_dict(state)


@contextmanager
def _not_looking_ahead(loader: Any) -> Iterator[None]:
    """Keep a `torchdata.nodes.Loader` from reading its next batch when it begins, under other random streams."""
    kind = getattr(sys.modules.get("torchdata.nodes.loader"), "Loader", None)
    looks = kind is not None and isinstance(loader, kind) and loader.restart_on_stop_iteration
    if looks:
        loader.restart_on_stop_iteration = False
    try:
        yield
    finally:
        if looks:
            loader.restart_on_stop_iteration = True


def stream_of(loader: Stateful, *, rule: int) -> DataLoader[Any]:
    """Return a DataLoader that yields the batches of `loader` as they are."""
    return DataLoader(LoaderStream(loader, rule), batch_size=None, collate_fn=as_it_is)


def named(dataset: object) -> object:
    """Return what the user passed: the loader, where a dataset stands for one."""
    return dataset.loader if isinstance(dataset, LoaderStream) else dataset


def is_plain(tree: object) -> bool:
    """Return whether a checkpoint can store a state."""
    if type(tree) in _TABLES:
        return all(is_plain(key) and is_plain(value) for key, value in tree.items())  # type: ignore[attr-defined]
    if type(tree) in _COLLECTIONS:
        return all(map(is_plain, tree))  # type: ignore[call-overload]
    if isinstance(tree, np.ndarray):
        return not tree.dtype.hasobject
    return type(tree) in _PLAIN or isinstance(tree, np.generic)
