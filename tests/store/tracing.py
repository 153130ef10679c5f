"""Watches the calls that make files durable, and knows what a power cut right now would take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


class Trace:
    """From its making on, every name that is made or synced through `os` and `pathlib`, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.named: list[Path] = []
        self.synced_folders: list[Path] = []
        self._synced_files: set[int] = set()
        self._durable: set[Path] = set()
        self._real = {name: getattr(os, name) for name in ("fsync", "replace", "link", "mkdir")}
        for name in self._real:
            monkeypatch.setattr(os, name, getattr(self, f"_{name}"))

    def volatile(self) -> list[Path]:
        """What has a name, or a content, that a power cut would take."""
        return [path for path in self.named if path not in self._durable]

    def _fsync(self, file: int) -> None:
        self._real["fsync"](file)
        path = _of(file)
        if path.is_dir():
            self.synced_folders.append(path)
            self._durable |= {name for name in self.named if name.parent == path and self._has_content(name)}
        else:
            self._synced_files.add(os.fstat(file).st_ino)

    def _has_content(self, path: Path) -> bool:
        return path.is_dir() or path.stat().st_ino in self._synced_files

    def _replace(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._real["replace"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self.named = [path for path in self.named if path != _of(src_dir_fd) / source]
        self.named.append(_of(dst_dir_fd) / target)

    def _link(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int, **options: bool) -> None:
        self._real["link"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, **options)
        self.named.append(_of(dst_dir_fd) / target)

    def _mkdir(self, path: str | Path, *arguments: Any, dir_fd: int | None = None) -> None:
        self._real["mkdir"](path, *arguments, dir_fd=dir_fd)
        self.named.append(Path(path) if dir_fd is None else _of(dir_fd) / path)


def _of(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
