"""The states of samplers and map-style datasets, by the pass in which they appear. Independent of passes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch.utils.data import DataLoader

from resumable.data.addresses import PassAddress
from resumable.data.dataset_state import ROLE as DATASET
from resumable.data.dataset_state import DatasetStates, stateful_map_dataset
from resumable.data.sampling.sampler_state import (
    Samplers,
    SamplerStates,
    copied_state,
    copied_states,
    load_sampler_state,
    stateful_samplers,
)
from resumable.stateful import Stateful


class LoaderStates:
    """Captures and loads these states; a slot is the name of a pass, or of all passes of a cycle.

    Args:
        warn: `warn(dataset, message)` logs one warning about a dataset.
        restored_elsewhere: Objects whose state is restored before `load` is called.
    """

    def __init__(self, warn: Callable[[object, str], None], *, restored_elsewhere: Collection[object]) -> None:
        self._carried: dict[str, Any] = {}  # states of the checkpoint, by slot, until their samplers appear
        self._samplers: dict[str, Samplers] = {}  # by the slot in which they appeared
        self._current = weakref.WeakValueDictionary[int, Stateful]()  # samplers whose own state is right
        self._objects = tuple(restored_elsewhere)  # kept alive for the sake of their ids
        self._restored_elsewhere = frozenset(map(id, self._objects))
        self._datasets: dict[str, Stateful] = {}  # map-style ones with a state, by the slot in which they appeared
        self._dataset_states = DatasetStates(warn)

    def now(self) -> dict[str, Any]:
        """Return all states, as of now; for `load` in a later attempt."""
        states = self._carried | {slot: copied_states(samplers) for slot, samplers in self._samplers.items()}
        for slot, dataset in self._datasets.items():
            state = self._dataset_states.now(dataset)
            if state is not None:
                states[slot] = {**states.get(slot, {}), DATASET: state}
        return states

    def load(self, states: Mapping[str, Any]) -> None:
        """Load what `now()` returned: into samplers of this attempt at once, into others when they appear."""
        self._carried = dict(states)
        self._current.clear()
        for slot, samplers in self._samplers.items():
            self._load_into(samplers, self._carried.get(slot, {}), slot)
        for slot, dataset in self._datasets.items():
            self._load_into({DATASET: dataset}, self._carried.get(slot, {}), slot)

    def begin(self, loader: DataLoader[Any], address: PassAddress, *, resumes: bool) -> SamplerStates:
        """Load the states of the start of a pass. Return those that its samplers have once its order is drawn again."""
        samplers, slot = stateful_samplers(loader), address.slot
        self._restore_dataset(loader, slot)
        if not resumes:
            now: SamplerStates = {}
        else:  # the order is drawn again before its samplers get the states of the checkpoint
            current = {role: copied_state(sampler) for role, sampler in samplers.items() if self._is_current(sampler)}
            now = self._carried.pop(slot, {}) | current
        self._restore(samplers, slot)
        return now

    def passed(self, loader: DataLoader[Any], address: PassAddress) -> None:
        """Load the states at the checkpoint of a pass that was over before."""
        self._restore_dataset(loader, address.slot)
        self._restore(stateful_samplers(loader), address.slot)

    def _restore_dataset(self, loader: DataLoader[Any], slot: str) -> None:
        dataset = stateful_map_dataset(loader)
        if dataset is None or id(dataset) in self._restored_elsewhere:
            return
        self._load_into({DATASET: dataset}, self._carried.get(slot, {}), slot)
        self._datasets[slot] = dataset
        self._dataset_states.look_at_workers(loader, dataset)

    def _restore(self, samplers: Samplers, slot: str) -> None:
        self._load_into(samplers, self._carried.pop(slot, {}), slot)
        if samplers:
            self._samplers[slot] = samplers

    def _load_into(self, samplers: Samplers, states: SamplerStates, slot: str) -> None:
        for role, sampler in samplers.items():
            if role in states and not self._is_current(sampler):
                load_sampler_state(sampler, states[role], slot, role)
        self._current.update({id(sampler): sampler for sampler in samplers.values()})

    def _is_current(self, sampler: Stateful) -> bool:
        # Restored with the objects, or used by another pass since: its own state is the right one.
        return id(sampler) in self._restored_elsewhere or self._current.get(id(sampler)) is sampler
