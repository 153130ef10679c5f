"""What a figure depends on besides the code: cores, memory, file system, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_LIBRARIES = ("torch", "numpy", "safetensors", "xxhash", "pytorch-lightning", "fsspec", "s3fs")


def facts(folder: Path, *, threads: int) -> Mapping[str, Any]:
    """Plain values for JSON; `folder` is where is written to."""
    return {
        "cores": os.cpu_count(),
        "cores_for_this_process": len(os.sched_getaffinity(0)),
        "processor": _first(r"model name\s*:\s*(.*)", "/proc/cpuinfo"),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_average": os.getloadavg(),
        "file_system": _file_system(folder),
        "huge_pages": _first(r"\[(\w+)\]", "/sys/kernel/mm/transparent_hugepage/enabled"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "training_threads": threads,
        "versions": {name: _version(name) for name in _LIBRARIES},
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len((_git("status", "--porcelain") or "").splitlines()),
    }


def _file_system(folder: Path) -> str | None:
    """The type of the mount that holds the folder."""
    best = ("", None)
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, kind, *_ = line.split()
            if folder.resolve().is_relative_to(mount) and len(mount) > len(best[0]):
                best = (mount, kind)
    return best[1]


def _first(pattern: str, path: str) -> str | None:
    with suppress(OSError):
        found = re.search(pattern, Path(path).read_text())
        return found[1] if found else None
    return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    with suppress(OSError, subprocess.CalledProcessError):
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    return None
