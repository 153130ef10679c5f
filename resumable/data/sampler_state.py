"""The samplers of a loader that have a state of their own, by role; knows no order and no pass."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from resumable.data.pass_base import taking

States: TypeAlias = Mapping[str, Any]  # by role

_METHODS = ("state_dict", "load_state_dict")


def stateful_parts(loader: Any) -> dict[str, Any]:
    """Those of the loader's samplers that have `state_dict` and `load_state_dict`, each under one role."""
    batch_sampler = loader.batch_sampler
    parts = {
        "batch_sampler": batch_sampler,
        "batch_sampler.sampler": getattr(batch_sampler, "sampler", None),
        "sampler": loader.sampler,
    }
    stateful: dict[str, Any] = {}
    for role, part in parts.items():
        both = all(callable(getattr(part, name, None)) for name in _METHODS)
        if both and not _is_positional(part) and not any(part is other for other in stateful.values()):
            stateful[role] = part
    return stateful


def state_of(part: Any) -> Any:
    """What a sampler's `state_dict` returns, as a copy of its own."""
    return copy.deepcopy(part.state_dict())


def states_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The states of samplers by role, as of now."""
    return {role: state_of(part) for role, part in parts.items()}


def load(part: Any, state: Any, address: object, role: str) -> None:
    """Give a sampler a copy of `state`; `LoopError` where it does not take it."""
    with taking(address, role):
        part.load_state_dict(copy.deepcopy(state))


def same(one: Any, other: Any) -> bool:
    """Whether two states are surely equal in every bit; False also where this cannot be known."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return _same_array(one, other) if one.layout is torch.strided else False
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and not one.dtype.hasobject and _bytes_of(one) == _bytes_of(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float | complex):
        return repr(one) == repr(other)  # tells -0.0 from 0.0, and takes NaN for NaN
    return isinstance(one, str | bytes | int | set | frozenset | None) and one == other


def _same_array(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.dtype, one.shape, one.device, other.layout) != (other.dtype, other.shape, other.device, one.layout):
        return False
    if one.is_quantized or one.is_conj() or one.is_neg() or other.is_conj() or other.is_neg():
        return False
    return torch.equal(*(each.detach().contiguous().reshape(-1).view(torch.uint8) for each in (one, other)))


def _bytes_of(array: Any) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.tobytes()


def _is_positional(sampler: Any) -> bool:
    # torchdata's keeps only how far it came in the pass before; loading that as of the start skips the whole pass.
    module = sys.modules.get("torchdata.stateful_dataloader.sampler")
    kind = getattr(module, "StatefulDistributedSampler", None)
    return kind is not None and all(getattr(type(sampler), name, None) is getattr(kind, name) for name in _METHODS)
