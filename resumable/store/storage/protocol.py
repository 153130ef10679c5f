"""What the rest of the store asks of a place that keeps bytes; knows nothing of runs and checkpoints.

Paths are relative POSIX paths below the storage's root. Every failure that is not an answer (`FileNotFoundError`,
`FileExistsError`, `BlockingIOError`, and `ValueError` for what no run holds) leaves as a `StorageError` that names the
place. Nothing here is asked twice: `patience` does that.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from resumable.errors import ResumableError, StorageError
from resumable.utils.location import NONE, Secrets, scrubbed, tellable

_NUMBERS: dict[type[OSError], int] = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    BlockingIOError: errno.EAGAIN,
}
_HINTS = {
    errno.ENOENT: "its folder was removed meanwhile: does another job, or a clean-up, work on this run?",
    errno.ENOSPC: "free some space there, or keep fewer checkpoints (keep.last)",
    errno.EDQUOT: "your quota there is used up: free some space, or keep fewer checkpoints (keep.last)",
    errno.EACCES: "check who owns it and who may write there",
    errno.EPERM: "check who owns it and who may write there",
    errno.EROFS: "it is mounted read-only: mount it writable, or name another folder in `run`",
    errno.ELOOP: "a run is read and written without following links: put the folder itself there, or name it in `run`",
}


Seen = Callable[[memoryview, int], None]
"""Looks at a part of a file that was just read, and where it begins."""


@dataclass(frozen=True, order=True, slots=True)
class Entry:
    """One direct child of a folder."""

    name: str
    is_dir: bool
    size: int | None = field(default=None, compare=False)
    """Of a file, in bytes; None of a folder, of what is no regular file, and where a listing does not tell."""


class Storage(Protocol):
    """A place that keeps bytes. All calls block; all but `lock` may be repeated without harm."""

    url: str
    """Its `location`, for messages; nothing can be opened by it."""

    patience_seconds: float
    """How long failing may go on before it is told: disks that fail seldom recover, networks mostly do."""

    locks: bool
    """Whether `lock` keeps the other programs of this machine away."""

    parallel: int
    """How many files may be written at once to advantage."""

    readers: int
    """How many threads may read at once to advantage."""

    range_bytes: int
    """How much a read should ask for at least, where there is a choice: what a call costs is then little beside it."""

    @property
    def exclusive(self) -> bool:
        """Whether of several `create` calls for one path exactly one succeeds, whoever makes them. May probe."""
        ...

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """The whole file.

        `FileNotFoundError`, also for what is not a regular file; `ValueError` when it is larger than `max_bytes`, or
        reached through a symbolic link.
        """
        ...

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0, seen: Seen | None = None) -> int:
        """Fill `buffer` from `offset` on; how many bytes there were, at most `len(buffer)`. Raises as `read`.

        `seen` is shown each part right after it was read, in order, while it is in the cache. A call that is repeated
        reads, and shows, everything once more from `offset` on.
        """
        ...

    def size(self, path: str) -> int:
        """In bytes. Raises as `read`."""
        ...

    def drop_cache(self, path: str) -> None:
        """Make the next read of a file come past the caches, as far as that goes. Never raises."""
        ...

    def list(self, path: str) -> list[Entry]:
        """The direct children of a folder, never from a cache; empty where there is no such folder."""
        ...

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Put a whole file there, with the folders it needs. Durable on return, never half visible.

        `chunks` is iterated from its start at each try, and gives the same bytes each time. The memory of one may be
        used again as soon as the next one is asked for.
        """
        ...

    def link(self, source: str, target: str) -> bool:
        """Give a file a second name, durably, as `write` would put it there; False where there are no such names.

        `FileNotFoundError` where `source` is none, or no regular file; `ValueError` where it is a symbolic link.
        """
        ...

    def create(self, path: str, data: bytes) -> None:
        """As `write`, but `FileExistsError` if the file is there.

        `data` must hold something that no other caller writes (a token): a request whose answer was lost is repeated,
        and then refused because of itself; only the content tells. So of what is there already, this very `data` is
        no failure.
        """
        ...

    def remove(self, path: str) -> None:
        """Remove a file, durably; one that is not there is fine."""
        ...

    def remove_dir(self, path: str) -> None:
        """Remove an empty folder; nothing happens where it is not empty, or where there are no folders."""
        ...

    def free_bytes(self) -> int | None:
        """How much may still be written; None where the storage cannot tell."""
        ...

    def lock(self, path: str) -> Callable[[], None]:
        """Hold a lock that ends with this program at the latest; returns what releases it.

        `BlockingIOError` while anyone on this machine, also this very program, holds it. Where the storage has no
        such locks this does nothing.
        """
        ...


def checked(path: str) -> str:
    """`path`, if it stays below the root: relative, canonical, printable; otherwise `ValueError`."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable():
        raise ValueError(f"{path!r} is not a path inside a run")
    return path


@contextmanager
def reported(action: str, where: str, caught: type[Exception] = OSError, *, hide: Secrets = NONE) -> Iterator[None]:
    """Let answers pass, and turn every other failure into a `StorageError`: "cannot ACTION WHERE: REASON"."""
    try:
        yield
    except ResumableError:
        raise
    except (FileNotFoundError, FileExistsError, BlockingIOError) as error:
        if tellable(error, hide) is not None:
            raise
        number = _NUMBERS[next(kind for kind in _NUMBERS if isinstance(error, kind))]
        raise OSError(number, os.strerror(number)) from None  # Python makes the same kind of it
    except caught as error:
        raise storage_error(action, where, error, hide=hide) from tellable(error, hide)


@contextmanager
def looked_up(action: str, where: str, caught: type[Exception] = OSError, *, hide: Secrets = NONE) -> Iterator[None]:
    """As `reported`, around reading: what is found instead of a file is an answer too.

    A folder where a file was expected, or the reverse, is a `FileNotFoundError`; a symbolic link a `ValueError`.
    """
    with reported(action, where, caught, hide=hide):
        try:
            yield
        except ResumableError:
            raise
        except (IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ValueError("a symbolic link, and a run holds none") from error
            raise


def storage_error(action: str, where: str, error: Exception, *, hide: Secrets = NONE) -> StorageError:
    """Return "cannot ACTION WHERE: REASON", with what `error` says for the reason, without the secrets in it."""
    number = getattr(error, "errno", None)
    reason = scrubbed(getattr(error, "strerror", None) or str(error), hide) or type(error).__name__
    result = StorageError(f"cannot {action} {where}: {reason}", _HINTS.get(number) if number else None)
    result.errno = number
    result.misused = type(error) in (TypeError, ValueError)
    return result
