"""Other people's files of `torch.save` into files of our own; runs nothing that is in them and knows no run."""

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
from resumable.serialization import Written, store
from resumable.state.files.single_file import memory_bytes
from resumable.store.storage.single_file import File
from resumable.utils import pickles
from resumable.utils.events import size
from resumable.utils.messages import quoted

PIECE_BYTES = 32 * 2**20

# What torch says of that in a pickle which is neither a tensor nor a plain value.
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

    Both are paths or fsspec URLs. Read with `weights_only=True` alone, which runs nothing: tensors, containers and
    plain values. Raises `CheckpointError` that names what else there is, and `StateError` with the path of what no file
    of ours can hold; then nothing is written.
    """
    file, goal = File(source, storage_options), File(target, storage_options)
    if file.url == goal.url or (file.local is not None and file.local == goal.local):
        raise ConfigError(f"{goal.name}: the file itself would be replaced", "give the new file another name")
    with _fetched(file) as path:
        return store(_loaded(path, file.name), target, storage_options=storage_options)


@contextmanager
def _fetched(file: File) -> Iterator[str]:
    """Where the file is on this machine; one from elsewhere only for as long as the block lasts."""
    total = file.size  # where there is no file, this says so
    if file.local is not None:
        yield file.local
        return
    with tempfile.NamedTemporaryFile(prefix="resumable-") as fetched:
        buffer = memoryview(bytearray(min(PIECE_BYTES, total)))
        for start in range(0, total, PIECE_BYTES):
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
                warnings.simplefilter("ignore")  # torch's own, about the age of what it reads
                return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # whatever a file may make of torch's reader
            raise _refusal(name, error) from error


def _may_be_mapped(head: bytes, path: str, name: str) -> bool:
    """Whether tensors may stay in the file until they are written; `CheckpointError` for what is none of torch.save."""
    if pickles.is_archive(head):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise _damaged(name, error) from error
        needed = sum(entry.file_size for entry in entries)
        # Mapped, what is compressed would be taken for values; torch does not look.
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed and needed > memory_bytes():
            raise CheckpointError(f"{name}: {size(needed)} unpacked, more than the memory of this machine")
        return not packed and not path.endswith(".safetensors")  # by such a name torch chooses another reader
    if pickles.is_pickle(head):
        return False
    raise CheckpointError(f"{name}: no file of torch.save", "a safetensors file needs no converting: resumable.load")


def _refusal(name: str, error: Exception) -> CheckpointError:
    text = str(error)
    found = next((match[1] for pattern in _REFUSED if (match := pattern.search(text))), None)
    if "TorchScript" in text:
        found = "a TorchScript program"
    if found is None:
        return _damaged(name, error)
    return CheckpointError(
        f"{name}: refused for {quoted(found)}: only tensors, containers and plain values are read; nothing was run",
        "where it comes from somebody you trust, open it in a program of your own, and resumable.save what is no code",
    )


def _damaged(name: str, error: Exception) -> CorruptCheckpointError:
    reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().splitlines()
    return CorruptCheckpointError(
        f"{name}: torch.load cannot read it: {quoted(reason[0] if reason else type(error).__name__)}",
        "was it written by torch.save, and copied whole? nothing of it was run",
    )
