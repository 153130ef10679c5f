"""The states of map-style datasets that have one: captured as of now, like those of samplers.

Without workers reading may change the state. With workers only the state in the main program is known; what becomes of
the copies there is found out by an experiment, and by comparing states from pass to pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from resumable.data.passes.loader_stream import is_plain
from resumable.data.passes.state_trial import is_copyable
from resumable.data.passes.stream_state import size_of
from resumable.data.rng.streams import saved_streams
from resumable.data.sampling.sampler_state import is_same_state
from resumable.data.sampling.set_epoch import has_epoch
from resumable.stateful import Stateful, has_state_dict

ROLE = "dataset"
_MAX_SIZE = 16_384  # items, of which a tensor of 64 bytes is one: 1 MiB


def stateful_map_dataset(loader: DataLoader[Any]) -> Stateful | None:
    """Return the dataset of a loader if it has a state, and is no module."""
    dataset = loader.dataset
    return dataset if has_state_dict(dataset) and not isinstance(dataset, torch.nn.Module) else None


class DatasetStates:
    """Captures the states of datasets, and warns once of what is in no checkpoint."""

    def __init__(self, warn: Callable[[object, str], None]) -> None:
        """`warn(dataset, message)` logs one warning about a dataset."""
        self._warn = warn
        self._at_start: dict[int, Any] = {}  # states that persistent workers began with, by the ids of loaders

    def now(self, dataset: Stateful) -> Any:
        """Return a copy of the state; None where a position cannot hold it."""
        state = dataset.state_dict()
        if is_plain(state) and size_of(state) <= _MAX_SIZE:
            return copy.deepcopy(state)
        self._warn(
            dataset,
            "its state is larger than 1 MiB, or not of plain values, so it is in no checkpoint; pass the dataset to "
            "Trainer(...), too",
        )
        return None

    def look_at_workers(self, loader: DataLoader[Any], dataset: Stateful) -> None:
        """Warn where the copies in workers may have another state than a resume gives them."""
        if not loader.num_workers:
            return
        state = copy.deepcopy(dataset.state_dict())
        began = self._at_start.setdefault(id(loader), state)
        if began is state:
            if not _stays_as_it_is(dataset):
                self._warn(dataset, _READING_CHANGES)
        elif loader.persistent_workers and not has_epoch(dataset) and not is_same_state(state, began):
            self._warn(dataset, _KEPT_BY_WORKERS)


_READING_CHANGES = (
    "reading changes its state, and workers hold copies whose states are in no checkpoint: a resume within a pass "
    "starts from the state in the main program; num_workers=0 is exact"
)
_KEPT_BY_WORKERS = (
    "its state changed, and persistent workers keep the copy that they began with, unlike after a resume: "
    "persistent_workers=False is exact"
)


def _stays_as_it_is(dataset: Any) -> bool:
    """Return whether reading the first sample of a copy surely leaves its state as it is."""
    if not is_copyable(dataset):
        return False
    with saved_streams():
        try:
            copied = copy.deepcopy(dataset)
            before = copy.deepcopy(copied.state_dict())
            copied[0]
            return is_same_state(before, copied.state_dict())
        except Exception:
            return False
