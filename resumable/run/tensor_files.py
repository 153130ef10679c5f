"""The files of tensors of one checkpoint: which object is in which of them, and reads that verify every byte.

Imports torch only to read tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from resumable.errors import CheckpointError, NoCheckpointError
from resumable.run.checkpoint_documents import CheckpointDocuments
from resumable.run.rank_records import WIDEST_ITEM_BYTES, file_digest
from resumable.state.tensors.boxes import Box, refuse_outside
from resumable.state.tensors.dtypes import item_bytes
from resumable.state.tensors.records import TensorRecord
from resumable.store.blob_reader import BlobReader
from resumable.store.catalog import Catalog
from resumable.store.dedup import PublishedBlob
from resumable.store.digesting import RANGE_BYTES
from resumable.store.documents.manifest import Manifest
from resumable.store.layout import CheckpointName
from resumable.utils.events import size
from resumable.utils.memory import memory_bytes
from resumable.utils.messages import listed

if TYPE_CHECKING:
    import torch


class TensorFiles:
    """The files of tensors of one checkpoint. Every `name` is that of an object in its manifest."""

    def __init__(
        self, catalog: Catalog, name: CheckpointName, manifest: Manifest, documents: CheckpointDocuments
    ) -> None:
        self._catalog = catalog
        self._name = name
        self._manifest = manifest
        self._documents = documents

    def names_of(self, name: str) -> list[str]:
        """Return the names of the files that hold the tensors of an object, each once."""
        if self._documents.earlier is not None:
            return self._documents.earlier.objects[name].blobs
        pieces = (piece.blob for record in self._records(name).values() for piece in record.pieces)
        return list(dict.fromkeys(blob for blob in pieces if blob is not None))

    def published(self) -> dict[str, PublishedBlob]:
        """Return the files with the digests of their ranges; none before version 3."""
        ranges = {name: digests for state in self._documents.states.values() for name, digests in state.ranges.items()}
        return {name: PublishedBlob(self._manifest.blobs[name], file_digest(ranges[name])) for name in ranges}

    def located(self, name: str) -> Mapping[str, TensorRecord]:
        """Return the records of an object with the location of each piece."""
        from resumable.state.files.header_locations import located

        records = self._records(name)
        return records if self._documents.earlier is None else located(list(self._sources(name).values()), records)

    def read(
        self, name: str, *, into: Mapping[str, torch.Tensor], keys: Collection[str] | None
    ) -> dict[str, torch.Tensor]:
        """Read the tensors of an object with these keys, by default all, and verify each in its final place."""
        from resumable.state.files.tensor_reader import read_tensors

        records = self._records(name)
        wanted = records.keys() if keys is None else keys
        self._refuse_more_than_memory(name, [records[key] for key in wanted if key in records])
        with self._documents.reported(self._where(name)):
            located = self.located(name)
            return read_tensors(self._sources(name), located, into=into, keys=wanted)

    def reader(self, name: str) -> Callable[[str], torch.Tensor]:
        """Return a function that reads and verifies one tensor of an object, by its key."""
        from resumable.state.files.tensor_reader import read_tensor

        where = self._where(name)
        with self._documents.reported(where):
            records = self.located(name)
        sources = self._sources(name)

        def read(key: str) -> torch.Tensor:
            with self._documents.reported(where):
                return read_tensor(sources, records[key].alias or key, records[key])

        return read

    def read_box(self, name: str, key: str, box: Box) -> torch.Tensor:
        """Read a part of one tensor, and verify every byte that is used. Raises as `Checkpoint.read_box`."""
        from resumable.state.files.box_reader import FileRanges, read_box

        record = self._records(name).get(key)
        if record is None:
            raise NoCheckpointError(f"{self._name}: {name}: no tensor {key!r}", "`Checkpoint.records` lists the keys")
        refuse_outside(box, record.shape)
        self._refuse_more_than_memory(name, [replace(record, shape=box.shape, alias=None)])
        ranges = {blob: FileRanges(RANGE_BYTES, each.digest.ranges) for blob, each in self.published().items()}
        with self._documents.reported(self._where(name)):
            return read_box(self._sources(name), key, self.located(name)[key], box, ranges)

    def _records(self, name: str) -> Mapping[str, TensorRecord]:
        return self._documents.records[name]

    def _sources(self, name: str) -> dict[str, BlobReader]:
        return {blob: self._catalog.reader(self._manifest, blob) for blob in self.names_of(name)}

    def _where(self, name: str) -> str:
        """Return the name of an object's tensors in messages: that of their files."""
        return listed(self.names_of(name), most=3, separator=" and ") or name

    def _refuse_more_than_memory(self, name: str, records: Iterable[TensorRecord]) -> None:
        # A sparse file of a terabyte costs a forger nothing; reading all of it would cost the reader much.
        needed = sum(record.elements * (item_bytes(record.dtype) or WIDEST_ITEM_BYTES) for record in records)
        if needed > memory_bytes():
            raise CheckpointError(
                f"{self._name}: {name} has {size(needed)}, more than the memory of this machine",
                "load it on a machine with more memory; `resumable verify` verifies it without holding it in memory",
            )
