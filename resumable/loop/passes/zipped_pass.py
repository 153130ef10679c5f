"""One pass over one or several loaders, side by side as `zip`. Independent of boundaries and storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resumable.data.addresses import PassAddress
from resumable.data.open_pass import Data, Pass
from resumable.data.pass_base import length_of
from resumable.errors import LoopError


def pass_over(data: Data, loaders: Sequence[Iterable[object]], *, number: int, epoch: int) -> None:
    """Register the samplers of a pass that was over before the checkpoint, and is not opened again."""
    for loader, address in zip(loaders, _addresses(len(loaders), number, epoch), strict=True):
        data.passed(loader, address)


def _addresses(count: int, number: int, epoch: int) -> list[PassAddress]:
    loops = ["batches"] if count == 1 else [f"batches:{i}" for i in range(count)]
    return [PassAddress(loop=loop, number=number, epoch=epoch) for loop in loops]


class ZippedPass:
    """An iterator of batches, or of tuples of batches for several loaders.

    `resume` holds what `positions()` returned, or nothing. `batches` counts those handed out since the start of the
    pass.
    """

    def __init__(
        self,
        data: Data,
        loaders: Sequence[Iterable[object]],
        resume: Sequence[Mapping[str, Any]],
        *,
        number: int,
        epoch: int,
    ) -> None:
        if resume and len(resume) != len(loaders):
            raise LoopError(
                f"batches(): given {len(loaders)} loaders; the checkpoint was taken in a pass over {len(resume)}",
                "pass the same loaders in the same order",
            )
        self.batches: int = resume[0]["batches"] if resume else 0
        self._passes: list[Pass[Any]] = []
        try:
            for i, address in enumerate(_addresses(len(loaders), number, epoch)):
                position = resume[i] if resume else None
                self._passes.append(data.open(loaders[i], address, position, set_epoch=epoch))
        except BaseException:
            self.close()
            raise
        self.length = _shortest([opened.length for opened in self._passes])
        self.replayed = any(opened.replayed for opened in self._passes)

    def __iter__(self) -> ZippedPass:
        return self

    def __next__(self) -> Any:
        passes = self._passes
        batch = next(passes[0]) if len(passes) == 1 else tuple([next(opened) for opened in passes])
        self.batches += 1
        return batch

    @property
    def left(self) -> int | None:
        """Batches to come; None unless every loader has a length."""
        return _less(self.length, self.batches)

    def positions(self) -> list[dict[str, Any]]:
        """Return where each loader stands, as plain values."""
        return [opened.position() | {"length": opened.length} for opened in self._passes]

    def close(self) -> None:
        """Release workers and iterators. Safe to call again."""
        while self._passes:
            self._passes.pop().close()


def remaining(loaders: Sequence[Iterable[object]], batches: int) -> int | None:
    """Return how many batches are left of a pass after `batches` of them; None unless every loader has a length."""
    return _less(_shortest([length_of(loader) for loader in loaders]), batches)


def _less(length: int | None, batches: int) -> int | None:
    return None if length is None else max(length - batches, 0)


def _shortest(lengths: Sequence[int | None]) -> int | None:
    finite = [length for length in lengths if length is not None]
    return min(finite) if len(finite) == len(lengths) else None
