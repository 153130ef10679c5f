"""The states of a loader's samplers, by role. Independent of orders and passes."""

from __future__ import annotations

import collections
import copy
import sys
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader

from resumable.data.user_state import loading_state
from resumable.stateful import Stateful, has_state_dict

SamplerStates: TypeAlias = Mapping[str, Any]  # by role
Samplers: TypeAlias = Mapping[str, Stateful]  # by role


def stateful_samplers(loader: DataLoader[object]) -> dict[str, Stateful]:
    """Return those of the loader's samplers that have `state_dict` and `load_state_dict`, each under one role."""
    batch_sampler = loader.batch_sampler
    parts = {
        "batch_sampler": batch_sampler,
        "batch_sampler.sampler": getattr(batch_sampler, "sampler", None),
        "sampler": loader.sampler,
    }
    stateful: dict[str, Stateful] = {}
    for role, part in parts.items():
        if has_state_dict(part) and not _is_positional(part) and not any(part is other for other in stateful.values()):
            stateful[role] = part
    return stateful


def copied_state(sampler: Stateful) -> dict[str, Any]:
    """Return a copy of what the sampler's `state_dict` returns."""
    return copy.deepcopy(sampler.state_dict())


def copied_states(samplers: Samplers) -> dict[str, Any]:
    """Return the states of samplers by role, as of now."""
    return {role: copied_state(sampler) for role, sampler in samplers.items()}


def load_sampler_state(sampler: Stateful, state: Any, address: object, role: str) -> None:
    """Load a copy of `state` into a sampler; raise `LoopError` where the sampler rejects it."""
    with loading_state(address, role):
        sampler.load_state_dict(copy.deepcopy(state))


def is_same_state(one: Any, other: Any) -> bool:
    """Return whether two states are surely equal in every bit; False also where this cannot be determined."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return _is_same_tensor(one, other) if one.layout is torch.strided else False
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and not one.dtype.hasobject and _bytes_of(one) == _bytes_of(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(is_same_state(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and all(map(is_same_state, one, other))
    if isinstance(one, float | complex):
        return repr(one) == repr(other)  # distinguishes -0.0 from 0.0, and equates NaN with NaN
    return isinstance(one, str | bytes | int | set | frozenset | None) and one == other


def _is_same_tensor(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.dtype, one.shape, one.device, other.layout) != (other.dtype, other.shape, other.device, one.layout):
        return False
    if one.is_quantized or one.is_conj() or one.is_neg() or other.is_conj() or other.is_neg():
        return False
    return torch.equal(*(each.detach().contiguous().reshape(-1).view(torch.uint8) for each in (one, other)))


def _bytes_of(array: np.ndarray[Any, Any] | np.generic) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.tobytes()


def _is_positional(sampler: object) -> bool:
    # torchdata's stores only its progress in the pass before; loading that as of the start skips the whole pass.
    module = sys.modules.get("torchdata.stateful_dataloader.sampler")
    kind = getattr(module, "StatefulDistributedSampler", None)
    methods = ("state_dict", "load_state_dict")
    return kind is not None and all(getattr(type(sampler), name, None) is getattr(kind, name) for name in methods)
