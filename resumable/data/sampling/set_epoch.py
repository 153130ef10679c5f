"""Call `set_epoch` on a loader and its parts, once per epoch. Independent of passes."""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import Protocol, TypeGuard


class HasEpoch(Protocol):
    """A loader, sampler or dataset whose order or content depends on the epoch."""

    def set_epoch(self, epoch: int, /) -> object: ...


def announce_epoch(loader: object, epoch: int | None) -> None:
    """Call `set_epoch` once on the loader and on each of its parts that has one."""
    if epoch is None:
        return
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (batch_sampler, getattr(batch_sampler, "sampler", None), getattr(loader, "sampler", None))
    done: list[HasEpoch] = []
    for part in (loader, *samplers, getattr(loader, "dataset", None)):
        if has_epoch(part) and not any(part is other for other in done):
            done.append(part)
            part.set_epoch(epoch)
            _remember(part, epoch)


def has_epoch(part: object) -> TypeGuard[HasEpoch]:
    """Return whether the part has a method `set_epoch`."""
    return callable(getattr(part, "set_epoch", None))


def update_epoch(part: HasEpoch, epoch: int) -> None:
    """Call `set_epoch` unless the last call, by any loop of the program, passed the same epoch."""
    last = _last_epochs.get(id(part))
    if last is None or last[0]() is not part or last[1] != epoch:
        part.set_epoch(epoch)
        _remember(part, epoch)


# The epoch of the last call, by the id of the part. For all loops of the program: two of them may share a dataset.
_last_epochs: dict[int, tuple[weakref.ref[HasEpoch], int]] = {}


def _remember(part: HasEpoch, epoch: int) -> None:
    key = id(part)
    last = _last_epochs.get(key)
    if last is not None and last[0]() is part:
        _last_epochs[key] = (last[0], epoch)
        return
    with contextlib.suppress(TypeError):  # no weak references: set_epoch is called each time
        _last_epochs[key] = (weakref.ref(part, functools.partial(_forget, key)), epoch)


def _forget(key: int, dead: weakref.ref[HasEpoch]) -> None:
    # Another object may have the id by now.
    if key in _last_epochs and _last_epochs[key][0] is dead:
        del _last_epochs[key]
