"""The values of carried variables: refuse what cannot be carried, record devices, place tensors on them again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from resumable.loop.carried import carry_errors
from resumable.loop.carried.used_graphs import is_used_up
from resumable.state.codec import encode
from resumable.state.codec.advice import advice
from resumable.state.codec.named_tuples import fields_of
from resumable.state.objects.generators import GENERATOR_TYPES
from resumable.state.objects.plain.live_state_dicts import refuse_live_state_dicts
from resumable.state.objects.stateful import is_stateful
from resumable.state.objects.tree_copies import at, moved, with_tensors
from resumable.state.tensors.number_lists import is_of_numbers

_OBJECTS = (nn.Module, torch.optim.Optimizer, *GENERATOR_TYPES)


def storable(value: object) -> object:
    """Return the value, in which tensors are detached whose graph `backward()` has used up, such as hidden states."""
    if not any(tensor.grad_fn is not None for _, tensor in _tensors(value, "")):
        return value
    return with_tensors(value, lambda tensor: tensor.detach() if is_used_up(tensor) else tensor)


def refuse_value(name: str, value: object) -> None:
    """Raise `StateError` for a value that cannot be carried: an object, a trained tensor, what the codec refuses."""
    if isinstance(value, _OBJECTS) or is_stateful(value):
        raise carry_errors.is_object(name)
    refuse_live_state_dicts(name, value)
    encode(value, key_of=".".join, where=name, advice=partial(_advice, name))
    for path, tensor in _tensors(value, name):
        if tensor.requires_grad:
            raise carry_errors.is_trained(name, path)


def devices_of(values: Mapping[str, object]) -> dict[str, str]:
    """Return the devices of all tensors that are not on the host, by path."""
    found = (each for name, value in values.items() for each in _tensors(value, name))
    return {path: str(tensor.device) for path, tensor in found if not tensor.is_cpu}


def placed(name: str, saved: object, live: object, devices: Mapping[str, str]) -> object:
    """Return a decoded value with its tensors on the devices that `live` has at their paths, or else on `devices`."""
    return moved(saved, _like(name, saved, live, devices))


def _advice(name: str, value: object) -> str:
    if isinstance(value, _OBJECTS) or is_stateful(value):
        return f"pass it to the Trainer under a name of its own, and take it out of {name}"
    return advice(value)


def _parts(value: object) -> Iterator[tuple[object, object]]:
    """Yield the parts of a container with their keys; none of a list of numbers."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple | deque) and not is_of_numbers(value):
        yield from enumerate(value)


def _tensors(value: object, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    for key, part in _parts(value):
        yield from _tensors(part, f"{path}.{key}")


def _like(path: str, saved: object, live: Any, devices: Mapping[str, str]) -> object:
    """Return a tree like `saved` that has at the path of each tensor one on the device where it belongs."""
    if isinstance(saved, Tensor):
        return live if isinstance(live, Tensor) else _empty_on(devices.get(path, "cpu"))
    parts = {key: _like(f"{path}.{key}", part, at(live, key), devices) for key, part in _parts(saved)}
    if isinstance(saved, dict):
        return parts
    kind = type(live) if fields_of(type(live)) is not None else tuple  # a named tuple comes back as the type that it is
    return tuple.__new__(kind, parts.values())


def _empty_on(device: str) -> Tensor:
    """Return a tensor on that device, or on one of its type, or on the host where this machine has neither."""
    for each in (device, device.partition(":")[0]):
        with suppress(RuntimeError, AssertionError):
            return torch.empty(0, device=each)
    return torch.empty(0)
