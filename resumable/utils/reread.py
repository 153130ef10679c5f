"""Reads a file again before wrong bytes are taken for damage; knows neither what is in a file nor where it lies.

One bit that memory, a network card or a proxy flips makes one read wrong, and the file is right all the same. So what
was read and is wrong is read again, past the caches, and only two reads that agree decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from resumable.errors import ResumableError, StorageError
from resumable.utils.events import warn

E = TypeVar("E")
T = TypeVar("T")

READS = 3


class Cached(Protocol):
    """A file that may be read from a cache."""

    @property
    def where(self) -> str:
        """What messages call it."""

    def drop_cache(self) -> None:
        """Make the next read come past the caches, as far as that goes. Never raises."""


class UnsteadyError(StorageError):
    """Every read of one file gave other bytes, so none of them says anything about the file."""


def reread(files: Sequence[Cached], read: Callable[[], E], judge: Callable[[E], T]) -> T:
    """Return what `judge` makes of what `read` found in `files`, once it raises nothing.

    What `read` returns is equal for equal bytes, such as the bytes or their digest. An error of `judge` is believed
    when two reads agree; until then the files are read again. One WARN line reports a read that was wrong.

    Args:
        files: What is read, to drop its caches and to name it.
        read: Reads the files. Its own errors pass through.
        judge: Returns a result, or raises `ValueError` or a `ResumableError` for wrong bytes.

    Raises:
        UnsteadyError: `READS` reads were wrong, and no two of them agreed.
    """
    wrong: list[E] = []
    while True:
        found = read()
        try:
            result = judge(found)
        except (ValueError, ResumableError) as error:
            if found in wrong:
                raise
            wrong.append(found)
            if len(wrong) == READS:
                raise _unsteady(_named(files)) from error
        else:
            if wrong:
                _report(_named(files))
            return result
        for file in files:
            file.drop_cache()


def _named(files: Sequence[Cached]) -> str:
    return " and ".join(file.where for file in files)


def _report(where: str) -> None:
    warn(
        f"a read of {where} gave other bytes than the next read, which gave the right ones: the file is right, and the "
        "memory, the network or a cache of this machine may be faulty"
    )


def _unsteady(where: str) -> UnsteadyError:
    return UnsteadyError(
        f"cannot read {where}: {READS} reads gave other bytes each, and none the right ones",
        "check the memory and the network of this machine; the file itself may be right, and was left alone",
    )
