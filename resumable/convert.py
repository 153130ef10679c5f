"""Convert files of `torch.save` into safetensors files, without running their code. Independent of runs."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from resumable.errors import CheckpointError, ConfigError, CorruptCheckpointError
from resumable.serialization import SavedFile, store
from resumable.store.storage.user_file import File
from resumable.utils import pickles
from resumable.utils.events import size
from resumable.utils.memory import memory_bytes
from resumable.utils.messages import quoted

FETCH_PIECE_BYTES = 32 * 2**20  # of a file from elsewhere, on its way to the disk

# torch's messages about a value in a pickle that is neither a tensor nor a plain value.
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
    storage_options: Mapping[str, object] | None = None,
) -> SavedFile:
    """Convert a file of `torch.save` into a safetensors file, as `resumable.save` writes it.

    The source is read with `weights_only=True`, which runs no code of it.

    Args:
        source: A path or fsspec URL.
        target: A path or fsspec URL; an existing file is replaced.
        storage_options: Options for fsspec.

    Returns:
        The figures of the new file.

    Raises:
        CheckpointError: The source holds more than tensors, containers and plain values. Nothing is written.
        StateError: A value cannot be stored; it names the path. Nothing is written.
    """
    file, new = File(source, storage_options), File(target, storage_options)
    if file.url == new.url or (file.local is not None and file.local == new.local):
        raise ConfigError(f"{new.name}: source and target are the same file", "name another file as the target")
    with _fetched(file) as path:
        return store(_loaded(path, file.name), target, storage_options=storage_options)


@contextmanager
def _fetched(file: File) -> Iterator[str]:
    """Return the local path of a file; a remote one is fetched, and exists only inside of the block."""
    total = file.size  # raises where there is no file
    if file.local is not None:
        yield file.local
        return
    with tempfile.NamedTemporaryFile(prefix="resumable-") as fetched:
        buffer = memoryview(bytearray(min(FETCH_PIECE_BYTES, total)))
        for start in range(0, total, FETCH_PIECE_BYTES):
            piece = buffer[: total - start]
            file.read(piece, start)
            fetched.write(piece)
        fetched.flush()
        yield fetched.name


def _loaded(path: str, name: str) -> Any:
    with open(path, "rb") as file:
        mapped = _may_be_mapped(file.read(pickles.HEAD_BYTES), path, name)
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of old formats
                return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # a hostile file may make torch's reader raise anything
            raise _refusal(name, error) from error


def _may_be_mapped(head: bytes, path: str, name: str) -> bool:
    """Return whether the file may be mapped into memory; `CheckpointError` for a file of another kind."""
    if pickles.is_archive(head):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise _damaged(name, error) from error
        needed = sum(entry.file_size for entry in entries)
        # torch would map compressed bytes as if they were values.
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed and needed > memory_bytes():
            raise CheckpointError(f"{name}: {size(needed)} unpacked, more than the memory of this machine")
        return not packed and not path.endswith(".safetensors")  # for this suffix torch chooses another reader
    if pickles.is_pickle(head):
        return False
    raise CheckpointError(f"{name}: expected a file of torch.save", "load a safetensors file with resumable.load")


def _refusal(name: str, error: Exception) -> CheckpointError:
    text = str(error)
    found = next((match[1] for pattern in _REFUSED if (match := pattern.search(text))), None)
    if "TorchScript" in text:
        found = "a TorchScript program"
    if found is None:
        return _damaged(name, error)
    return CheckpointError(
        f"{name}: refused for {quoted(found)}: only tensors, containers and plain values are read; nothing was run",
        "if you trust its author, load it with torch in a program of your own, and resumable.save its tensors",
    )


def _damaged(name: str, error: Exception) -> CorruptCheckpointError:
    reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().splitlines()
    return CorruptCheckpointError(
        f"{name}: torch.load cannot read it: {quoted(reason[0] if reason else type(error).__name__)}",
        "was it written by torch.save, and is the copy complete? nothing of it was run",
    )
