"""A file system that passes everything on to a folder and writes down every change, with its data, in order.

It runs in a process of its own (`python -m tests.faults.recording ROOT MOUNT LOG [FAULT]`). A FAULT, as `short:write:2`
or `EIO:fsync:3`, makes the second write take half of its bytes, or the third fsync fail; it is written down too. With
`flip:read:NAME` the first read of a file whose path ends so brings one bit wrong, which the kernel then keeps in its
cache. Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

REPOSITORY = Path(__file__).parents[2]
MOUNT_SECONDS = 30.0


@dataclass(frozen=True)
class Mutation:
    """One change: `operation` at `path`, which is absolute within the file system.

    `other` is the new name of a rename or link, `offset` that of a write or the length of a truncation. A `failed` one
    was answered with an error and did nothing.
    """

    operation: str
    path: str
    other: str = ""
    offset: int = 0
    data: bytes = b""
    failed: bool = False


class Recorder:
    """A mount of `folder / "mount"` over `folder / "root"`, for the length of a `with` block."""

    def __init__(self, folder: Path, fault: str | None = None) -> None:
        self.root, self.mount, self._log = folder / "root", folder / "mount", folder / "mutations"
        self._fault = [fault] if fault else []

    def __enter__(self) -> Self:
        self.root.mkdir(exist_ok=True)
        self.mount.mkdir(exist_ok=True)
        places = [str(self.root), str(self.mount), str(self._log)]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.recording", *places, *self._fault],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout
        line = self._server.stdout.readline()
        assert line == "mounted\n", "the recording file system did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["fusermount3", "-u", str(self.mount)], check=True)
        self._server.communicate(timeout=MOUNT_SECONDS)

    def mutations(self) -> list[Mutation]:
        """Everything until now."""
        return list(_parsed(self._log.read_bytes()))


def _parsed(log: bytes) -> Iterator[Mutation]:
    start = 0
    while start < len(log):
        end = log.index(b"\n", start)
        facts = json.loads(log[start:end])
        start = end + 1 + facts.pop("size")
        yield Mutation(**facts, data=log[end + 1 : start])


# -- the file system --------------------------------------------------------------------------------------------------


class Passing:
    """The operations of FUSE, on another folder. An `OSError` of that folder becomes the answer.

    One thread: an answer is given after the change was made and written down, so that the log has the order in which
    the writer saw them happen.
    """

    use_ns = True

    def __init__(self, root: str, log: str, fault: str | None) -> None:
        self._root = root
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._counts: Counter[str] = Counter()
        self._fault = fault

    def init(self, path: str) -> None:
        print("mounted", flush=True)

    def _at(self, path: str) -> str:
        return self._root + path

    def _due(self, operation: str) -> str | None:
        """The fault that this call is to suffer. Counts it."""
        self._counts[operation] += 1
        kind, _, rest = (self._fault or "").partition(":")
        return kind if rest == f"{operation}:{self._counts[operation]}" else None

    def _note(self, operation: str, path: str, data: bytes = b"", **facts: Any) -> None:
        facts |= {"operation": operation, "path": path, "size": len(data)}
        os.write(self._log, json.dumps(facts).encode() + b"\n" + data)

    def _change(self, operation: str, path: str, **facts: Any) -> None:
        """Write a change down, and fail it if that is due."""
        kind = self._due(operation)
        self._note(operation, path, **facts, failed=kind is not None)
        if kind is not None:
            raise OSError(getattr(errno, kind), "injected")

    # -- changes

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self._change("create", path)
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_TRUNC:
            self._change("truncate", path)
        return os.open(self._at(path), os.O_RDWR | flags & os.O_TRUNC)

    def write(self, path: str, data: bytes, offset: int, file: int) -> int:
        kind = self._due("write")
        if kind == "short":
            data, kind = data[: max(1, len(data) // 2)], None
        self._note("write", path, bytes(data), offset=offset, failed=kind is not None)
        if kind is not None:
            raise OSError(getattr(errno, kind), "injected")
        return os.pwrite(file, data, offset)

    def truncate(self, path: str, length: int, file: int | None = None) -> None:
        self._change("truncate", path, offset=length)
        os.truncate(self._at(path), length)

    def fsync(self, path: str, only_data: int, file: int) -> None:
        self._change("fsync", path)

    def fsyncdir(self, path: str, only_data: int, file: int) -> None:
        self._change("fsyncdir", path)

    def rename(self, old: str, new: str) -> None:
        self._change("rename", old, other=new)
        os.rename(self._at(old), self._at(new))

    def link(self, target: str, source: str) -> None:
        self._change("link", source, other=target)
        os.link(self._at(source), self._at(target))

    def unlink(self, path: str) -> None:
        os.stat(self._at(path))
        self._change("unlink", path)
        os.unlink(self._at(path))

    def mkdir(self, path: str, mode: int) -> None:
        self._change("mkdir", path)
        os.mkdir(self._at(path), mode)

    def rmdir(self, path: str) -> None:
        if os.listdir(self._at(path)):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        self._change("rmdir", path)
        os.rmdir(self._at(path))

    def utimens(self, path: str, times: Any = None) -> None:
        pass

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    # -- the rest

    def getattr(self, path: str, file: int | None = None) -> dict[str, int]:
        found = os.lstat(self._at(path))
        names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
        times = {name: getattr(found, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
        return {name: getattr(found, name) for name in names} | times

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_") and name != "f_fsid"}

    def opendir(self, path: str) -> int:
        return 0

    def readdir(self, path: str, file: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def read(self, path: str, size: int, offset: int, file: int) -> bytes:
        data = bytearray(os.pread(file, size, offset))
        if self._fault and self._fault.startswith("flip:read:") and path.endswith(self._fault.rpartition(":")[2]):
            self._fault = None
            self._note("flip", path, offset=offset)
            data[len(data) // 2] ^= 4
        return bytes(data)

    def release(self, path: str, file: int) -> None:
        os.close(file)


def _mount(root: str, mount: str, log: str, fault: str | None = None) -> None:
    import mfusepy

    operations = type("Recording", (Passing, mfusepy.Operations), {})(root, log, fault)
    kept = {"kernel_cache": True} if fault and fault.startswith("flip") else {}
    mfusepy.FUSE(operations, mount, foreground=True, nothreads=True, hard_remove=True, fsname="recording", **kept)


if __name__ == "__main__":
    _mount(*sys.argv[1:])
