"""Sources of weights: an object of a checkpoint, and safetensors files of any program. Independent of storages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from resumable.errors import FormatVersionError
from resumable.state.codec import Document, decode, document_paths
from resumable.state.files.header_locations import read_head
from resumable.state.files.tensor_reader import MaybeDigested, Readable, read_placed
from resumable.state.files.tree_file import contents_of
from resumable.state.objects import modules
from resumable.state.tensors.facts import DigestedRecords, TensorFacts
from resumable.state.tensors.inline_records import InlineRecords
from resumable.state.tensors.record_checks import checked_locations
from resumable.state.tensors.safetensors_layout import Slice, parse_head
from resumable.utils.reread import reread

_DIGEST_BUFFER_BYTES = 8 * 2**20  # for digesting a tensor without holding all of it

ReadTensors = Callable[[Mapping[str, Tensor], Collection[str]], Mapping[str, Tensor]]
"""Reads an object's tensors, with the arguments `into` and `keys` of `tensor_reader.read_tensors`."""


class StoredModule:
    """A module's weights and persistent buffers, under the names of its `state_dict`, with its extra states."""

    is_mixed = False
    aliases: Mapping[str, str] = {}

    def __init__(self, where: str, document: Document, records: DigestedRecords, read: ReadTensors) -> None:
        self.where = where
        self._records = records
        self._read = read
        self._keys = modules.tensor_keys(document)
        if unrecorded := [key for key in self._keys.values() if key not in records]:
            raise ValueError(f"tensor {unrecorded[0]!r}: not recorded")
        self._unread = dict.fromkeys(records, torch.empty(0))
        extra: set[str] = set()
        for name, node in modules.encoded_state(document):
            if name not in self._keys:
                extra |= document_paths.stored_keys(node)
        tensors = read(self._unread, extra) if extra else self._unread
        self._state = modules.loadable_state_dict(decode(document, tensors))
        self.facts = {
            name: TensorFacts.recorded(records[self._keys[name]]) if name in self._keys else None
            for name in self._state
        }

    @property
    def metadata(self) -> Mapping[str, object] | None:
        return getattr(self._state, "_metadata", None)

    def identity(self, key: str) -> object:
        return _identity(self._records, self._keys[key])

    def read(self, keys: Collection[str], into: Mapping[str, Tensor]) -> Mapping[str, Any]:
        wanted = {self._keys[key] for key in keys if key in self._keys}
        places = {self._keys[key]: tensor for key, tensor in into.items()}
        tensors = self._read({**self._unread, **places}, wanted) if wanted else {}
        return {key: tensors[self._keys[key]] if key in self._keys else self._state[key] for key in keys}


class StoredTensors:
    """The tensors of any other object, under their keys, such as averages that a user's class keeps."""

    is_mixed = True
    metadata = None
    aliases: Mapping[str, str] = {}

    def __init__(self, where: str, records: DigestedRecords, inline: InlineRecords, read: ReadTensors) -> None:
        self.where = where
        self._stored = records
        self._inline = inline
        self._records: DigestedRecords = {**records, **inline.records}
        self._read = read
        self.facts = {key: TensorFacts.recorded(record) for key, record in self._records.items()}

    def identity(self, key: str) -> object:
        return _identity(self._records, key)

    def read(self, keys: Collection[str], into: Mapping[str, Tensor]) -> Mapping[str, Any]:
        here = {key: decode(self._inline.nodes[key], {}) for key in keys if key in self._inline.nodes}
        unread = dict.fromkeys(self._stored, torch.empty(0))
        stored = {getattr(self._stored[key], "alias", None) or key for key in keys if key not in here}
        places = {key: tensor for key, tensor in into.items() if key not in here}
        return {**(self._read({**unread, **places}, stored) if stored else {}), **here}


@dataclass(frozen=True)
class SafetensorsFile:
    """One file with its parsed header: the location and record of each tensor, and aliases with their keys.

    Only tensors that `resumable.save` wrote have digests.
    """

    source: Readable
    slices: Mapping[str, Slice]
    records: Mapping[str, MaybeDigested]
    aliases: Mapping[str, str]

    @classmethod
    def opened(cls, source: Readable) -> SafetensorsFile:
        """Read the header of a file.

        Raises:
            ValueError: It is not a safetensors file.
            FormatVersionError: A newer version wrote it.
        """
        return reread([source], lambda: read_head(source), lambda head: cls._parsed(source, head))

    @classmethod
    def _parsed(cls, source: Readable, head: bytearray) -> SafetensorsFile:
        try:
            contents = contents_of(head, size=source.size)
        except FormatVersionError as error:
            raise FormatVersionError(f"{source.name}: {error.message}", error.hint) from error
        aliases = dict(document_paths.named_tensors(contents.document))
        return cls(source, contents.slices, contents.records, parse_head(head, size=source.size).metadata | aliases)


class StoredFiles:
    """The tensors of safetensors files, each key in one of them.

    The metadata holds the names that were dropped for being tied, with the name that was kept, as safetensors'
    `save_model` writes them.
    """

    is_mixed = False
    metadata = None

    def __init__(
        self,
        where: str,
        files: Sequence[SafetensorsFile],
        beside: Mapping[str, str],
        *,
        records: Mapping[str, MaybeDigested] | None = None,
    ) -> None:
        """Locate the tensors of the files.

        Args:
            where: The name of the files in messages.
            files: The files with their headers.
            beside: Metadata that is in none of the files.
            records: The tensors that the files must hold, which reading verifies; None trusts the files.

        Raises:
            ValueError: A key is in two files, or the tensors differ from `records`.
        """
        self.where = where
        self._home = _homes(files)
        in_files = {key: file.records[key] for key, file in self._home.items()}
        self._records: Mapping[str, MaybeDigested] = in_files if records is None else records
        places = checked_locations([file.slices for file in files], self._records)
        if unproved := [key for key in self._home if key not in places]:
            raise ValueError(f"tensor {unproved[0]!r}: in a file, but not in the proof")
        self.facts = {key: places[key][2] for key in self._home}
        metadata = {**beside, **{name: key for file in files for name, key in file.aliases.items()}}
        self.aliases = {name: key for name, key in metadata.items() if key in self._home and name not in self._home}

    def identity(self, key: str) -> object:
        facts = self.facts[key]
        return facts.dtype, facts.shape, self._records[key].digest or self._digest(key)

    def _digest(self, key: str) -> str:
        file = self._home[key]
        place, digest = file.slices[key], xxhash.xxh3_128()
        buffer = memoryview(bytearray(min(_DIGEST_BUFFER_BYTES, place.end - place.start)))
        for start in range(place.start, place.end, _DIGEST_BUFFER_BYTES):
            piece = buffer[: place.end - start]
            file.source.read(piece, start)
            digest.update(piece)
        return digest.hexdigest()

    def read(self, keys: Collection[str], into: Mapping[str, Tensor]) -> Mapping[str, Any]:
        values: dict[str, Tensor] = {}
        for file in {id(file): file for file in map(self._home.__getitem__, keys)}.values():
            held = [key for key in keys if self._home[key] is file]
            records = {key: self._records[key] for key in held}
            here = {key: into[key] for key in held if key in into}
            values |= read_placed(file.source, file.slices, records, into=here)
        return values


def _homes(files: Sequence[SafetensorsFile]) -> dict[str, SafetensorsFile]:
    homes: dict[str, SafetensorsFile] = {}
    for file in files:
        for key in file.slices:
            if homes.setdefault(key, file) is not file:
                raise ValueError(f"tensor {key!r}: in {homes[key].source.name} and in {file.source.name}")
    return homes


def _identity(records: DigestedRecords, key: str) -> object:
    record = records[key]
    return record.dtype, tuple(record.shape), record.digest
