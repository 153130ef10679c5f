"""The interface of a storage, and the errors that all storages raise. Independent of runs and checkpoints.

Paths are relative POSIX paths below the storage's root. Some errors are answers: `FileNotFoundError`,
`FileExistsError`, `BlockingIOError`, and `ValueError` for what no run holds. Every other failure is raised as a
`StorageError` that names the location. Nothing is retried here: `retry` does that.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from resumable.errors import ResumableError, StorageError
from resumable.utils.location import NONE, Secrets, scrubbed, showable

_NUMBERS: dict[type[OSError], int] = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    BlockingIOError: errno.EAGAIN,
}
_HINTS = {
    errno.ENOENT: "its folder was removed meanwhile: check whether another job, or a clean-up, works on this run",
    errno.ENOSPC: "free some space there, or keep fewer checkpoints (keep.last)",
    errno.EDQUOT: "your quota there is used up: free some space, or keep fewer checkpoints (keep.last)",
    errno.EACCES: "check who owns it and who may write there",
    errno.EPERM: "check who owns it and who may write there",
    errno.EROFS: "it is mounted read-only: mount it writable, or name another folder in `run`",
    errno.ELOOP: "a run is read and written without following links: put the folder itself there, or name it in `run`",
}


Seen = Callable[[memoryview, int], None]
"""Called with a part of a file that was just read, and its offset."""


@dataclass(frozen=True, order=True, slots=True)
class Entry:
    """One direct child of a folder."""

    name: str
    is_dir: bool
    size: int | None = field(default=None, compare=False)
    """In bytes; None for a folder, for what is no regular file, and if the listing has no size."""
    file_id: int | None = field(default=None, compare=False)
    """The same for all names (hard links) of one file; None if the storage has no links."""
    links: int = field(default=1, compare=False)
    """How many names the file has: its bytes are free once the last one is removed."""


FileSizes = Mapping[str, int | None]
"""The size of each file in a folder, by name; None where the listing has no size."""


def sizes_of(entries: Iterable[Entry]) -> FileSizes:
    """Return the sizes of listed files."""
    return {entry.name: entry.size for entry in entries}


class AppendedFile(Protocol):
    """A file that one writer appends to. What was written outlives the program, and after `sync` a power cut."""

    def write(self, data: bytes) -> None:
        """Append by one system call; `OSError` if that is not possible, or only in part."""
        ...

    def sync(self) -> None:
        """Make what was written durable."""
        ...

    def close(self) -> None:
        """Close the file; safe to call twice."""
        ...


class Storage(Protocol):
    """Files by relative paths. All calls block; all but `lock` are idempotent, so that they may be retried."""

    url: str
    """Its `location` without secrets, for messages; it cannot be opened."""

    patience_seconds: float
    """How long failing calls are retried before it is an error: networks mostly recover, disks seldom do."""

    locks: bool
    """Whether `lock` excludes the other programs of this machine."""

    parallel: int
    """How many files are best written at once."""

    readers: int
    """How many threads are best used for reading at once."""

    caches_reads: bool
    """Whether the operating system serves a second read of a file out of memory, as it does for folders."""

    range_bytes: int
    """How much a read should request at least, so that the cost of a call is small beside it."""

    removed_at_once: int
    """How many files one request removes."""

    @property
    def exclusive(self) -> bool:
        """Return whether exactly one of several `create` calls for one path succeeds, in any program. May probe."""
        ...

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """Read the whole file.

        Raises:
            FileNotFoundError: There is no such file, or no regular one.
            ValueError: It is larger than `max_bytes`, or reached through a symbolic link.
        """
        ...

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0, seen: Seen | None = None) -> int:
        """Fill `buffer` from `offset` on; return how many bytes there were, at most `len(buffer)`. Raises as `read`.

        `seen` is called with each part right after it was read, in order, while it is in the cache. A retry reads, and
        passes to `seen`, everything again from `offset` on.
        """
        ...

    def size(self, path: str) -> int:
        """Return the size in bytes. Raises as `read`."""
        ...

    def drop_cache(self, path: str) -> None:
        """Make the next read of a file bypass the caches, as far as possible. Never raises."""
        ...

    def list(self, path: str) -> list[Entry]:
        """List the direct children of a folder, never from a cache; none if there is no such folder."""
        ...

    def list_below(self, path: str) -> Mapping[str, Sequence[Entry]] | None:
        """List each folder in a folder, by name, in one go; return None where that takes a request for each."""
        ...

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write a whole file atomically, with the folders it needs. It is durable on return.

        `chunks` is iterated from its start at each try, and yields the same bytes each time. The memory of one may be
        reused once the next one is requested.
        """
        ...

    def link(self, source: str, target: str) -> bool:
        """Give a file a second name, atomically and durably as by `write`; return False without hard links.

        Raises:
            FileNotFoundError: `source` does not exist, or is no regular file.
            ValueError: It is a symbolic link.
        """
        ...

    def create(self, path: str, data: bytes) -> None:
        """Write a new file as by `write`; `FileExistsError` if it exists with other content.

        `data` must hold a token that no other caller writes. If the answer to a request was lost, its retry is refused
        because of itself, and only the content shows that. So a file with this very `data` is no failure.
        """
        ...

    def append(self, path: str) -> AppendedFile | None:
        """Create a file to append to; return None where files cannot grow. `FileExistsError` if it exists."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file durably. A missing one is no failure."""
        ...

    def remove_all(self, paths: Sequence[str]) -> None:
        """Remove several files as by `remove`, in any order, `removed_at_once` by each request.

        After an error any of them may be removed.
        """
        ...

    def remove_dir(self, path: str) -> None:
        """Remove an empty folder. Do nothing if it is not empty, or if the storage has no folders."""
        ...

    def free_bytes(self) -> int | None:
        """Return how many bytes may still be written; None if the storage does not report it."""
        ...

    def lock(self, path: str) -> Callable[[], None]:
        """Take a lock that ends with this program at the latest; return the function that releases it.

        Without locks in the storage this does nothing.

        Raises:
            BlockingIOError: A program of this machine holds it, be it this one.
        """
        ...


def checked(path: str) -> str:
    """Return `path` if it stays below the root: relative, canonical, printable. Raise `ValueError` otherwise."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable():
        raise ValueError(f"{path!r} is not a path inside a run")
    return path


@contextmanager
def reported(action: str, where: str, caught: type[Exception] = OSError, *, hide: Secrets = NONE) -> Iterator[None]:
    """Turn every failure but answers into a `StorageError`: "cannot ACTION WHERE: REASON"."""
    try:
        yield
    except ResumableError:
        raise
    except (FileNotFoundError, FileExistsError, BlockingIOError) as error:
        if showable(error, hide) is not None:
            raise
        number = _NUMBERS[next(kind for kind in _NUMBERS if isinstance(error, kind))]
        raise OSError(number, os.strerror(number)) from None  # Python makes the same kind of it
    except caught as error:
        raise storage_error(action, where, error, hide=hide) from showable(error, hide)


@contextmanager
def looked_up(action: str, where: str, caught: type[Exception] = OSError, *, hide: Secrets = NONE) -> Iterator[None]:
    """Do as `reported` for a read, where anything else in the place of the file is an answer too.

    A folder in the place of a file, or the reverse, is a `FileNotFoundError`; a symbolic link is a `ValueError`.
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
    """Return the error "cannot ACTION WHERE: REASON", with the reason of `error` without its secrets."""
    number = getattr(error, "errno", None)
    reason = scrubbed(getattr(error, "strerror", None) or str(error), hide) or type(error).__name__
    result = StorageError(f"cannot {action} {where}: {reason}", _HINTS.get(number) if number else None)
    result.errno = number
    result.misused = type(error) in (TypeError, ValueError)
    return result
