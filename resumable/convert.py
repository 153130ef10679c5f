"""Other people's files of `torch.save` into files of our own; runs nothing that is in them and knows no run."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from resumable.errors import ConfigError
from resumable.files import Written, store
from resumable.store.file import File

PIECE_BYTES = 32 * 2**20

# What torch says of a name in a pickle that is no tensor and no plain value.
_REFUSED = (
    re.compile(r"GLOBAL (\S+) was not an allowed global"),
    re.compile(r"unsupported GLOBAL (\S+) whose module"),
    re.compile(r"unrecognized function (.+)"),
    re.compile(r"but got <class '([^']+)'>"),
    re.compile(r"``(torch\.\S+)`` must be imported"),
)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Written:
    """Write what `torch.save` put into the file `source` into the file `target`, as `resumable.save` would.

    Both are paths or fsspec URLs. Read with `weights_only=True` alone, which runs nothing: tensors, containers and plain
    values. Raises `CheckpointError` that names what else there is, and `StateError` with the path of what no file of
    ours can hold; then nothing is written.
    """
    if os.path.realpath(source) == os.path.realpath(target):
        raise ConfigError(f"{target}: the file itself, which would be replaced", "give the new file another name")
    file = File(source, storage_options)
    with _fetched(file) as path:
        return store(_loaded(path, file.name), target, storage_options=storage_options)


@contextmanager
def _fetched(file: File) -> Iterator[str]:
    """Where a file is on this machine; one from elsewhere only for as long as the block lasts."""
    if file.local is not None and file.size >= 0:
        yield file.local
        return
    with tempfile.NamedTemporaryFile(prefix="resumable-") as fetched:
        buffer = memoryview(bytearray(min(PIECE_BYTES, file.size)))
        for start in range(0, file.size, PIECE_BYTES):
            piece = buffer[: file.size - start]
            file.read(piece, start)
            fetched.write(piece)
        fetched.flush()
        yield fetched.name


def _loaded(path: str, name: str) -> Any:
    stored = _is_mappable(path, name)
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # torch's own, about what it reads
            if stored:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file may make of torch's reader
        raise _unreadable(name, error) from error
