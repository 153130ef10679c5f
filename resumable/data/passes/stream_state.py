"""The state of a stream, and an earlier one that proves it: what follows that one must be what was handed out.

Independent of how batches are made.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from resumable.data.addresses import PassAddress
from resumable.data.libraries import huggingface_datasets
from resumable.data.passes.handed_out import is_digest
from resumable.data.user_state import loading_state
from resumable.stateful import Stateful, has_state_dict

_FIRST = 1  # the batch behind which the first state is kept
_STEP, _MAX_STEP = 4, 1024  # batches from one kept state to the next; the larger a state is, the more
_ITEMS_PER_BATCH = 16


class StreamState:
    """The state of a dataset and of its iterator, and the one kept a few batches before."""

    def __init__(self, dataset: Stateful, owner: object, what: str, address: PassAddress) -> None:
        """`owner` is the user's object: the dataset, or the loader behind it."""
        self._dataset = dataset
        self._what = what
        self._address = address
        self._before = [(each, _attributes(each)) for each in _stateful_in(owner, {})]
        self._loaded: huggingface_datasets.LoadedStates | None = None
        self._next = _FIRST
        self.proof: dict[str, Any] | None = None

    def now(self, iterator: object) -> dict[str, Any]:
        """Return the states of the dataset and of its iterator."""
        own = iterator.state_dict() if iterator is not self._dataset and has_state_dict(iterator) else None
        return {"dataset": self._dataset.state_dict(), "iterator": own}

    def begin_at(self, proof: dict[str, Any]) -> None:
        """Keep the loaded states until the next ones are due."""
        self.proof = proof
        self._next = _next_due(proof["batches"], proof)

    def keep(self, count: int, digest: str, iterator: object) -> None:
        """Keep a copy of the states behind `count` batches."""
        states = copy.deepcopy(self.now(iterator))
        # Without a state of the dataset, a loader has none that can be stored.
        self.proof = None if states["dataset"] is None else {"batches": count, "digest": digest} | states
        self._next = _next_due(count, states)

    def is_due(self, count: int) -> bool:
        """Return whether the states behind `count` batches are to be kept."""
        return count >= self._next

    def load(self, states: Mapping[str, Any]) -> None:
        """Load a copy of the state of the dataset; the next iterator begins there."""
        if states["dataset"] is not None:
            self._loaded = huggingface_datasets.LoadedStates(self._dataset)
            with loading_state(self._address, self._what):
                self._dataset.load_state_dict(copy.deepcopy(states["dataset"]))

    def load_iterator(self, states: Mapping[str, Any], iterator: Any) -> None:
        """Load a copy of the state of the iterator, where it has one."""
        state = states.get("iterator")
        if state is not None and iterator is not self._dataset:
            with loading_state(self._address, type(iterator).__qualname__):
                iterator.load_state_dict(copy.deepcopy(state))

    def drop_used(self) -> None:
        """Drop loaded states from which iteration has started: a later pass would begin there, too."""
        if self._loaded is not None:
            self._loaded.drop_used()

    def unload(self) -> None:
        """Put the attributes back that were there before any state was loaded."""
        self.drop_used()
        self.proof, self._next = None, _FIRST
        for each, attributes in self._before:
            vars(each).clear()
            vars(each).update(attributes)


def is_proof(value: object, *, batches: int) -> bool:
    """Return whether a value from a checkpoint has the form of `StreamState.proof`."""
    if value is None:
        return True
    if not isinstance(value, dict) or not {"batches", "digest", "dataset"} <= value.keys():
        return False
    return type(value["batches"]) is int and 0 < value["batches"] < batches and is_digest(value["digest"])


def _next_due(count: int, states: Mapping[str, Any]) -> int:
    step = min(max(_STEP, size_of(states) // _ITEMS_PER_BATCH), _MAX_STEP)
    return count - count % step + step


def size_of(tree: object) -> int:
    """Return the number of items in a state; a long tensor counts as many."""
    if isinstance(tree, Mapping):
        return 1 + sum(map(size_of, tree.values()))
    if isinstance(tree, list | tuple | set | frozenset):
        return 1 + sum(map(size_of, tree))
    return 1 + (tree.nbytes // 64 if isinstance(tree, torch.Tensor | np.ndarray) else 0)


def _stateful_in(owner: object, found: dict[int, object]) -> list[object]:
    """Return the owner and the objects with a state in its attributes, in theirs, and so on."""
    if hasattr(owner, "__dict__") and id(owner) not in found:
        found[id(owner)] = owner
        for value in vars(owner).values():
            if has_state_dict(value) and not isinstance(value, type | torch.nn.Module):
                _stateful_in(value, found)
    return list(found.values())


def _attributes(owner: object) -> dict[str, Any]:
    """Return the attributes of an object, with copies of its containers."""
    return {n: copy.copy(value) if type(value) in (list, dict, set) else value for n, value in vars(owner).items()}
