"""Read a file again before wrong bytes count as damage. Independent of the file's content and storage.

A bit flipped by memory, a network card or a proxy makes one read wrong, although the file is right. So after wrong
bytes the file is read again, past the caches, and only two reads that agree decide.
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
        """Return its name in messages."""

    def drop_cache(self) -> None:
        """Make the next read bypass the caches, as far as possible. Never raises."""


class UnsteadyError(StorageError):
    """Every read of one file returned other bytes, so it is unknown whether the file is damaged."""


def reread(files: Sequence[Cached], read: Callable[[], E], judge: Callable[[E], T]) -> T:
    """Return the result of `judge` for what `read` returned, once it raises no error.

    The result of `read` is equal for equal bytes, such as the bytes or their digest. An error of `judge` counts once
    two reads agree; until then the files are read again. One WARN line reports a read that was wrong.

    Args:
        files: The files that `read` reads, to drop their caches and to name them.
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
        f"a read of {where} returned other bytes than the next read, which were right: the file is right, and the "
        "memory, the network or a cache of this machine may be faulty"
    )


def _unsteady(where: str) -> UnsteadyError:
    return UnsteadyError(
        f"cannot read {where}: {READS} reads returned other bytes each, and none the right ones",
        "check the memory and the network of this machine; the file itself may be right, and was left alone",
    )
