"""Tensors and containers of them in one safe file on any storage; knows nothing of runs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resumable.errors import CheckpointError, ConfigError, CorruptCheckpointError, FormatVersionError, NoCheckpointError
from resumable.state.codec import document_paths
from resumable.state.codec.document_paths import Part
from resumable.state.files.single_file import Contents, contents_of, file_of, memory_bytes
from resumable.state.files.tensor_reader import read_head, read_placed
from resumable.store.storage.single_file import File
from resumable.utils import pickles
from resumable.utils.events import size
from resumable.utils.messages import quoted
from resumable.utils.reread import UnsteadyError

# How often a file is read anew that another program replaced meanwhile.
TRIES = 5


@dataclass(frozen=True)
class Written:
    """What was written into a file; a tensor that stands in several places counts once."""

    tensors: int
    elements: int
    size_bytes: int


def save(obj: Any, url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> None:
    """Write a tensor, or lists, tuples and dicts of them nested, with scalars, strings and NumPy arrays, into one file.

    `url` is a path or any fsspec URL; `storage_options` are handed to fsspec. What is there is replaced when the new
    file is complete and durable, and folders are made. It is a safetensors file: every library for these reads its
    tensors, under dotted keys (`layer.weight`, `optimizer.state.0.exp_avg`; a bare tensor is called `tensor`).

    `load` gives the same types, bits, memory formats and `requires_grad`; a tensor in two places is stored once, and is
    one afterwards; a `state_dict` keeps its `_metadata`. Tensors that share a part of their memory do not share it
    afterwards, and devices are not kept. Raises `StateError` with the path of what cannot be stored (functions,
    objects, tensors of an autograd graph) before a byte is written, and `StorageError` where the storage fails.
    """
    store(obj, url, storage_options=storage_options)


def store(obj: Any, url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> Written:
    """As `save`, and what was written."""
    target = File(url, storage_options)
    content = file_of(obj, where="obj")
    target.write(content, size=content.size)
    elements = sum(math.prod(facts.shape) for facts in content.plan.facts.values())
    return Written(len(content.tensors), elements, content.size)


def load(
    url: str | os.PathLike[str], *, only: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> Any:
    """What `save` wrote there, tensors on the CPU; every byte that is read is verified, and nothing is executed.

    `only` is a dotted path into it, `model.layer.weight` or `optimizer.state.0`: what stands there is returned, be it a
    tensor or a container, and no other tensor is read. Keys that hold dots are read as if the dots were levels: of a
    `state_dict`, `only="encoder"` is a dict of the entries that begin with `encoder.`, named by what follows.

    A safetensors file that others wrote comes as a dict of its tensors. It has no digests, so damage to its values
    cannot be found. Raises `NoCheckpointError` for no such file or nothing at `only`, `CorruptCheckpointError` that
    names the tensor for damage, and `CheckpointError` for a file of another kind; pickles are never opened.
    """
    if not isinstance(only, str | None):
        raise ConfigError(
            f"only: a {type(only).__name__}, expected a path", 'write it with dots: only="model.0.weight"'
        )
    for _ in range(TRIES):
        file = File(url, storage_options)
        head = read_head(file)
        try:
            return _load(file, head, only)
        except (CorruptCheckpointError, UnsteadyError):
            if not _replaced(url, storage_options, head):
                raise
    raise CheckpointError(f"{file.name}: replaced by another program {TRIES} times while it was read", "load it again")


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


def _replaced(url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None, head: bytearray) -> bool:
    """Whether another file is there by now, so that what was read may be of two."""
    return read_head(File(url, storage_options)) != head


def _contents(file: File, head: bytearray) -> Contents:
    try:
        return contents_of(head, size=file.size)
    except FormatVersionError as error:
        raise FormatVersionError(f"{file.name}: {error.message}", error.hint) from error
    except ValueError as error:
        if pickles.is_archive(head) or pickles.is_pickle(head):
            raise pickles.refusal(file.name) from error
        raise _corrupt(file, error) from error


def _part(file: File, contents: Contents, only: str) -> Part:
    found = document_paths.part_at(contents.document, only)
    if found is None and only in contents.records:
        found = Part({"$tensor": only})
    if found is None:
        near = ", ".join(quoted(name) for name in document_paths.nearest_paths(contents.document, only))
        raise NoCheckpointError(
            f"{file.name}: nothing is called {only!r}",
            f"the nearest names are {near}" if near else "without `only`, all of it is loaded",
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
    return CorruptCheckpointError(f"{file.name}: {quoted(error)}", "restore it from a copy, or write it again")
