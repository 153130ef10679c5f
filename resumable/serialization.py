"""Save and load tensors, and containers of them, in one safetensors file on any storage. Independent of runs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resumable.errors import CheckpointError, ConfigError, CorruptCheckpointError, FormatVersionError, NoCheckpointError
from resumable.state.codec import document_paths
from resumable.state.codec.document_paths import Part
from resumable.state.files.header_locations import read_head
from resumable.state.files.tensor_reader import read_placed
from resumable.state.files.tree_file import Contents, contents_of, file_of
from resumable.store.storage.user_file import File
from resumable.utils import pickles
from resumable.utils.events import size
from resumable.utils.memory import memory_bytes
from resumable.utils.messages import quoted
from resumable.utils.reread import UnsteadyError

# Attempts to read a file that another program replaces meanwhile.
TRIES = 5


@dataclass(frozen=True)
class SavedFile:
    """The content of a new file; a tensor that the object holds several times counts once."""

    tensors: int
    elements: int
    size_bytes: int


def save(obj: object, url: str | os.PathLike[str], *, storage_options: Mapping[str, object] | None = None) -> None:
    """Save tensors and plain values into one safetensors file, atomically.

    Every safetensors library reads the tensors, under dotted keys (`layer.weight`, `optimizer.state.0.exp_avg`; the key
    of a bare tensor is `tensor`). `load` returns the same types, bits, memory formats and `requires_grad`. A tensor
    that `obj` holds twice is stored once, and a `state_dict` keeps its `_metadata`. Devices are not kept, and tensors
    that share a part of their memory do not share it after loading.

    Args:
        obj: A tensor, or nested lists, tuples and dicts of tensors, scalars, strings and NumPy arrays.
        url: A path or any fsspec URL. Missing folders are created. An existing file is replaced once the new one is
            complete and durable; on this machine the new one has its permissions.
        storage_options: Options for fsspec.

    Raises:
        StateError: A value cannot be stored (a function, an object, a tensor of an autograd graph). It names the path
            of the value; nothing was written.
        StorageError: The storage failed; an existing file is unchanged.
        ConfigError: `url` does not name a file.
    """
    store(obj, url, storage_options=storage_options)


def store(
    obj: object, url: str | os.PathLike[str], *, storage_options: Mapping[str, object] | None = None
) -> SavedFile:
    """Save like `save`, and return the figures of the new file."""
    target = File(url, storage_options)
    content = file_of(obj, where="obj")
    target.write(content, size=content.size)
    elements = sum(math.prod(facts.shape) for facts in content.plan.facts.values())
    return SavedFile(len(content.tensors), elements, content.size)


def load(
    url: str | os.PathLike[str], *, only: str | None = None, storage_options: Mapping[str, object] | None = None
) -> Any:
    """Load what `save` wrote, and verify every byte that is read. Nothing is executed.

    Args:
        url: A path or any fsspec URL.
        only: A dotted path (`model.layer.weight`, `optimizer.state.0`): return the tensor or container at this path,
            and read no other tensor. Dots in keys count as levels: of a `state_dict`, `only="encoder"` returns a dict
            of the entries with the prefix `encoder.`, without that prefix.
        storage_options: Options for fsspec.

    Returns:
        The object that was saved, with its tensors on the CPU. A safetensors file of another library returns a dict of
        its tensors. It has no digests, so damage to its values cannot be found.

    Raises:
        NoCheckpointError: There is no such file, or nothing at `only`.
        CorruptCheckpointError: The file is damaged; it names the tensor.
        FormatVersionError: A newer version of resumable wrote the file.
        CheckpointError: The file is of another kind, such as a pickle, which is never opened.
        StorageError: The storage failed.
    """
    if not isinstance(only, str | None):
        raise ConfigError(
            f"only: expected a dotted path, found {type(only).__name__}", 'write it as only="model.0.weight"'
        )
    for _ in range(TRIES):
        file = File(url, storage_options)
        head = read_head(file)
        try:
            return _load(file, head, only)
        except (CorruptCheckpointError, UnsteadyError):
            if not _replaced(url, storage_options, head):
                raise
    raise CheckpointError(f"{file.name}: replaced by another program {TRIES} times during the load", "load it again")


def _load(file: File, head: bytearray, only: str | None) -> Any:
    contents = _contents(file, head)
    try:
        part = Part(contents.document) if only is None else _part(file, contents, only)
        keys = document_paths.stored_keys(part.document)
        _refuse_more_than_memory(file, contents, keys)
        records = {key: record for key, record in contents.records.items() if key in keys}
        return contents.tree(part, read_placed(file, contents.slices, records))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(file, error) from error


def _replaced(url: str | os.PathLike[str], storage_options: Mapping[str, object] | None, head: bytearray) -> bool:
    """Return whether the file was replaced meanwhile, so that the bytes read may be of two files."""
    return read_head(File(url, storage_options)) != head


def _contents(file: File, head: bytearray) -> Contents:
    try:
        return contents_of(head, size=file.size)
    except FormatVersionError as error:
        raise FormatVersionError(f"{file.name}: {error.message}", error.hint) from error
    except ValueError as error:
        if pickles.is_archive(head) or pickles.is_pickle(head):
            raise pickles.pickle_error(file.name) from error
        raise _corrupt(file, error) from error


def _part(file: File, contents: Contents, only: str) -> Part:
    found = document_paths.part_at(contents.document, only)
    if found is None and only in contents.records:
        found = Part({"$tensor": only})
    if found is None:
        near = ", ".join(quoted(name) for name in document_paths.nearest_paths(contents.document, only))
        raise NoCheckpointError(
            f"{file.name}: nothing at only={only!r}",
            f"the nearest names are {near}" if near else "leave `only` out to load the whole file",
        )
    return found


def _refuse_more_than_memory(file: File, contents: Contents, keys: set[str]) -> None:
    needed = sum(place.end - place.start for key, place in contents.slices.items() if key in keys)
    if needed > memory_bytes():
        raise CheckpointError(
            f"{file.name}: {size(needed)} of tensors, more than the memory of this machine",
            "load a part of it: load(url, only=...)",
        )


def _corrupt(file: File, error: Exception) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"{file.name}: {quoted(error)}", "restore it from a copy, or save it again")
