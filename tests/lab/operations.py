"""Kills this program at the n-th durable operation of its storage; knows nothing of what is stored.

Counted are the calls of the storage protocol that change something and, inside a module that does the work, every
system call that makes, fills, syncs or names a file. A write that is hit leaves half of its bytes.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from typing import Any

from resumable.store.layout import MANIFEST

PROTOCOL = ("write", "create", "remove", "remove_dir")


class Operations:
    """Counts operations once `armed`, notes each in the file `log`, and dies at number `kill_at`; 0 is never."""

    def __init__(self, *, kill_at: int, log: str, armed: bool) -> None:
        self.armed = armed
        self._kill_at = kill_at
        self._count = 0
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def install(self, storage: type[Any], *modules: Any) -> None:
        """Wrap the calls of a storage class, and the system calls that `modules` make."""
        for name in PROTOCOL:
            setattr(storage, name, self._counted(name, getattr(storage, name)))
        for module in modules:
            module.os = _System(self)
            if hasattr(module, "sync"):
                module.sync = self._synced(module.sync)

    def reached(self, what: str, last_words: Callable[[], object] = lambda: None) -> None:
        """Count one operation that is about to happen."""
        if not self.armed:
            return
        self._count += 1
        os.write(self._log, f"{what}\n".encode())
        if self._count == self._kill_at:
            last_words()
            os.kill(os.getpid(), signal.SIGKILL)

    def _synced(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def synced(file: int) -> None:
            self.reached("fsync")
            sync(file)

        return synced

    def _counted(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(operation)
        def counted(storage: Any, path: str, *arguments: Any) -> Any:
            self.reached(f"{name} {path}")
            result = operation(storage, path, *arguments)
            self.armed = self.armed or path.endswith(MANIFEST)
            return result

        return counted


class _System:
    """The module `os`, with the calls that change files counted."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, *mode: int, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT:
            self._operations.reached("open")
        return os.open(path, flags, *mode, dir_fd=dir_fd)

    def write(self, file: int, data: memoryview) -> int:
        self._operations.reached("fill", lambda: os.write(file, data[: len(data) // 2]))
        return os.write(file, data)

    def replace(self, source: Any, target: Any, **folders: int) -> None:
        self._operations.reached("replace")
        os.replace(source, target, **folders)

    def link(self, source: Any, target: Any, **folders: int) -> None:
        self._operations.reached("link")
        os.link(source, target, **folders)

    def unlink(self, path: Any, **folder: int) -> None:
        self._operations.reached("unlink")
        os.unlink(path, **folder)

    def mkdir(self, path: Any, **folder: int) -> None:
        self._operations.reached("mkdir")
        os.mkdir(path, **folder)
