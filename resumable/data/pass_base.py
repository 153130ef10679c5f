"""The base class of passes over data, and what is needed to open one. Independent of the kinds of loaders."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from resumable.data.addresses import PassAddress, batch_keys, pass_key
from resumable.errors import LoopError

# Plain values, and what the user's own `state_dict` returned. All have `kind` ("address", "state" or "replay"),
# `batches` and `finished`; `_PARTS` in loader_kind.py lists what each kind has besides.
PassPosition: TypeAlias = dict[str, Any]
StoredPosition: TypeAlias = Mapping[str, Any]  # a `PassPosition` from a checkpoint
Skipping: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Opening:
    """Everything that opening a pass requires besides the loader."""

    data_seed: int
    address: PassAddress
    epoch: int | None  # the argument of set_epoch
    resume: StoredPosition | None
    signals: tuple[int, ...]  # ignored by loader workers
    warn: Callable[[str], None]
    tolerate: Callable[[str], None] | None  # logs that a resume makes other batches; None where it is refused
    skipping: Skipping
    generator_rule: int

    @property
    def key(self) -> bytes:
        """The key of the pass."""
        return pass_key(self.data_seed, self.address)

    @property
    def batches_done(self) -> int:
        """The number of batches that were consumed before the checkpoint."""
        return int(self.resume["batches"]) if self.resume else 0

    @functools.cached_property
    def batch_key(self) -> Callable[[int], bytes]:
        """The key of a batch, by its number."""
        return batch_keys(self.data_seed, self.address)


class Pass(ABC, Generic[T_co]):
    """The batches of one pass, from its current position; `position()` is a function of the batches consumed."""

    length: int | None = None  # batches of the whole pass, where the loader has a length
    replayed = False  # opening it ran user code that may have drawn from, or changed, what was restored before

    def __init__(self, address: PassAddress) -> None:
        self.address = address
        self._finished = False
        self._closed = False

    def __iter__(self) -> Pass[T_co]:
        return self

    def __next__(self) -> T_co:
        """Return the next batch; a pass that failed is over, and a pass that was closed raises `LoopError`."""
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

    def position(self) -> PassPosition:
        """Return the position of this pass; nothing in it is a copy."""
        return self._position() | {"finished": self._finished}

    def close(self) -> None:
        """Release workers and iterators; the position stays readable. Idempotent."""
        if not self._closed:
            self._closed = True
            self._release()

    @abstractmethod
    def _fetch(self) -> T_co: ...

    @abstractmethod
    def _position(self) -> PassPosition: ...

    @abstractmethod
    def _release(self) -> None: ...


class FinishedPass(Pass[T_co]):
    """A pass that was over at the checkpoint: yields nothing and opens nothing."""

    def __init__(self, address: PassAddress, resume: StoredPosition, length: int | None) -> None:
        super().__init__(address)
        self._resume = dict(resume)
        self._finished = True
        self.length = length

    def _fetch(self) -> T_co:
        raise StopIteration

    def _position(self) -> PassPosition:
        return self._resume

    def _release(self) -> None:
        return


def length_of(loader: object) -> int | None:
    """Return `len(loader)`, or None where it has none."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError, AttributeError):
        return None
