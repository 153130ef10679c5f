"""What a pass over data is for the loops above; knows nothing of the kinds of loaders."""

from __future__ import annotations

import contextlib
import functools
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from resumable.data.addresses import PassAddress, batch_keys, pass_key
from resumable.errors import LoopError
from resumable.utils.rejected_state import rejected_state

Position = Mapping[str, Any]
Skipping = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Opening:
    """Everything that opening a pass needs to know besides the loader."""

    data_seed: int
    address: PassAddress
    epoch: int | None  # what set_epoch is called with
    resume: Position | None
    signals: tuple[int, ...]
    warn: Callable[[str], None]
    skipping: Skipping
    generator_rule: int

    @property
    def key(self) -> bytes:
        return pass_key(self.data_seed, self.address)

    @property
    def batches_done(self) -> int:
        return int(self.resume["batches"]) if self.resume else 0

    @functools.cached_property
    def batch_key(self) -> Callable[[int], bytes]:
        """The key of a batch, by its number."""
        return batch_keys(self.data_seed, self.address)


def taking(address: object, what: str) -> contextlib.AbstractContextManager[None]:
    """Turn whatever a user's `load_state_dict` raises for a foreign state into a `LoopError`."""

    def refusal(reason: str) -> LoopError:
        return LoopError(
            f"{address}: {what} did not take its state from the checkpoint: {reason}",
            "load_state_dict must take what state_dict gave before",
        )

    return rejected_state(refusal, passing=torch.OutOfMemoryError)


class Pass(ABC):
    """The batches of one pass, from where it stands; `position()` is a function of the batches consumed."""

    length: int | None = None  # batches of the whole pass, where the loader knows
    replayed = False  # opening it ran user code that may have drawn from, or changed, what was restored before

    def __init__(self, address: PassAddress) -> None:
        self.address = address
        self._finished = False
        self._closed = False

    def __iter__(self) -> Pass:
        return self

    def __next__(self) -> Any:
        """The next batch; a pass that failed is over, a pass that was closed is an error."""
        if self._finished:
            raise StopIteration
        if self._closed:
            raise LoopError(
                f"{self.address}: this pass was closed, or left when a later pass of the same loop took its workers",
                "finish or leave one pass before the next over the same loader begins in the same loop",
            )
        try:
            return self._fetch()
        except StopIteration:
            self._finished = True
            self.close()
            raise
        except BaseException:
            self.close()
            raise

    def position(self) -> dict[str, Any]:
        """Where this pass stands, as plain values and what the user's own `state_dict` returned; nothing is copied."""
        return self._position() | {"finished": self._finished}

    def close(self) -> None:
        """Let go of workers and iterators; the position stays readable. Safe to call again."""
        if not self._closed:
            self._closed = True
            self._release()

    @abstractmethod
    def _fetch(self) -> Any: ...

    @abstractmethod
    def _position(self) -> dict[str, Any]: ...

    @abstractmethod
    def _release(self) -> None: ...


class FinishedPass(Pass):
    """A pass that a checkpoint says is over: yields nothing and opens nothing."""

    def __init__(self, address: PassAddress, resume: Position, length: int | None) -> None:
        super().__init__(address)
        self._resume = dict(resume)
        self._finished = True
        self.length = length

    def _fetch(self) -> Any:
        raise StopIteration

    def _position(self) -> dict[str, Any]:
        return self._resume

    def _release(self) -> None:
        return


def length_of(loader: Any) -> int | None:
    """`len(loader)`, or None where it has none."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def announce_epoch(loader: Any, epoch: int | None) -> None:
    """Call `set_epoch` once on the loader and on each of its parts that has one."""
    if epoch is None:
        return
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (batch_sampler, getattr(batch_sampler, "sampler", None), getattr(loader, "sampler", None))
    parts: tuple[Any, ...] = (loader, *samplers, getattr(loader, "dataset", None))
    told: list[Any] = []
    for part in parts:
        if has_epoch(part) and not any(part is other for other in told):
            told.append(part)
            part.set_epoch(epoch)
            _remember(part, epoch)


def has_epoch(part: Any) -> bool:
    """Whether the part wants to be told the epoch."""
    return callable(getattr(part, "set_epoch", None))


def tell_epoch(part: Any, epoch: int) -> None:
    """Call `set_epoch` unless this is what the part was told last, by whichever loop."""
    last = _told.get(id(part))
    if last is None or last[0]() is not part or last[1] != epoch:
        part.set_epoch(epoch)
        _remember(part, epoch)


_told: dict[int, tuple[weakref.ref[Any], int]] = {}


def _remember(part: Any, epoch: int) -> None:
    place = id(part)
    known = _told.get(place)
    if known is not None and known[0]() is part:
        _told[place] = (known[0], epoch)
        return
    with contextlib.suppress(TypeError):  # what cannot be weakly referred to is told each time
        _told[place] = (weakref.ref(part, functools.partial(_forget, place)), epoch)


def _forget(place: int, gone: weakref.ref[Any]) -> None:
    # Its id may be another's by now.
    if place in _told and _told[place][0] is gone:
        del _told[place]
