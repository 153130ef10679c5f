"""Find out by an experiment on copies whether a sampler reads, between two indices, numbers that a loop may change.

Independent of passes. Nothing of the sampler itself is iterated or changed.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, MutableSequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from resumable.data.rng.find_generators import find_generators
from resumable.data.rng.streams import PrivateStreams, saved_streams
from resumable.data.sampling.index_encoding import encode_index

_COMPARED = 64  # indices, or batches of them, after the first
_MAX_BYTES, _MAX_ITEMS = 64 * 2**20, 200_000
_MAX_DEPTH = 8


def follows_as_it_goes(sampler: Iterable[object], dataset: object, *, key: bytes, rule: int) -> bool:
    """Return whether other numbers in the sampler's attributes change the rest of an order that has begun.

    False also where this cannot be found out: the sampler cannot be copied, is too large, or draws another order each
    time.
    """
    if not _is_small(sampler, dataset):
        return False
    with saved_streams():
        try:
            plain, same, other = (_copied(sampler, dataset) for _ in range(3))
            expected = [*_drawn(plain, dataset, key, rule)]
            if [*_drawn(same, dataset, key, rule)] != expected:
                return False  # such as one that is seeded by the clock
            begun = _drawn(other, dataset, key, rule)
            first = [*islice(begun, 1)]
        except Exception:
            return False
        try:
            with torch.no_grad():
                _change_numbers(other, {id(dataset)}, _MAX_DEPTH)
            return [*first, *begun] != expected
        except Exception:
            return True  # it read what it could not use


def _copied(sampler: Iterable[object], dataset: object) -> Iterable[object]:
    return copy.deepcopy(sampler, {id(dataset): dataset})


def _drawn(sampler: Iterable[object], dataset: object, key: bytes, rule: int) -> Iterator[bytes]:
    streams = PrivateStreams(key, find_generators(sampler, leave_out=(dataset,), rule=rule))
    with streams:
        indices = iter(sampler)
    for _ in range(1 + _COMPARED):
        with streams:
            index = next(indices, streams)
        if index is streams:
            return
        yield encode_index(index)


def _parts(value: object) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple | deque):
        return value
    return vars(value).values() if hasattr(value, "__dict__") and not isinstance(value, type) else ()


def _is_small(sampler: object, dataset: object) -> bool:
    """Return whether a copy of the sampler without its dataset takes little time and memory."""
    seen, waiting, items, size = {id(dataset)}, [sampler], 0, 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor | np.ndarray):
            size += value.nbytes
        if id(value) in seen or isinstance(value, str | bytes | int | float | torch.Tensor | np.ndarray | None):
            continue
        seen.add(id(value))
        parts = _parts(value)
        items += len(parts)  # type: ignore[arg-type]
        if items > _MAX_ITEMS or size > _MAX_BYTES:
            return False
        waiting.extend(parts)
    return True


def _change_numbers(value: Any, seen: set[int], depth: int) -> None:
    """Change, in place, floats and repeated integers: weights, losses and counts, but not the indices to draw from."""
    if id(value) in seen or depth < 0 or isinstance(value, str | bytes | type):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor | np.ndarray):
        if value.size if isinstance(value, np.ndarray) else value.numel():
            _change_array(value)
        return
    if isinstance(value, MutableSequence) and value and {*map(type, value)} <= {int, float}:
        if {*map(type, value)} != {int} or len({*value}) < len(value):
            value[:] = [each + number + 1 for number, each in enumerate(value)]
        return
    table = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    for number, (name, each) in enumerate([*(table or {}).items()]):
        if type(each) is float or (type(each) is int and table is value):
            table[name] = each + number + 1  # type: ignore[index]
        else:
            _change_numbers(each, seen, depth - 1)
    for each in value if isinstance(value, list | tuple | deque) else ():
        _change_numbers(each, seen, depth - 1)


def _change_array(values: Any) -> None:
    is_tensor = isinstance(values, torch.Tensor)
    host = values.detach().cpu().to(torch.float64).numpy() if is_tensor else values
    is_floating = values.is_floating_point() if is_tensor else values.dtype.kind == "f"
    if values.dtype in (torch.bool, np.bool_) or (not is_floating and len(np.unique(host)) == host.size):
        return
    ramp = np.arange(1, host.size + 1).reshape(host.shape)
    values += torch.from_numpy(ramp).to(values) if is_tensor else ramp.astype(values.dtype)
