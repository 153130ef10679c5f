"""The files, state files and manifest of a checkpoint that is made from another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from resumable.checkpointing.derived.earlier_columns import columns_of
from resumable.checkpointing.derived.next_epoch import next_epoch, summary_of
from resumable.checkpointing.position import Position
from resumable.errors import CorruptCheckpointError
from resumable.run.checkpoint import Checkpoint
from resumable.store.attempts import Attempt
from resumable.store.blob_reader import READ_PIECE_BYTES, BlobReader
from resumable.store.catalog import Catalog
from resumable.store.dedup import PublishedBlob
from resumable.store.digesting import RangeDigester
from resumable.store.documents.earlier_versions import is_earlier
from resumable.store.documents.manifest import FORMAT_VERSION, MAX_NAMED, BlobRecord, Manifest
from resumable.store.layout import CheckpointName, state_name
from resumable.store.publish import Blob
from resumable.utils import strict_json

Link = Callable[[str, str], bool]
"""Gives the file at a path of the source a name in the target; returns False without hard links between them."""


@dataclass(frozen=True)
class Derived:
    """A checkpoint to make from `source`, which is verified; `positions` are those of the ranks, if they are others."""

    source: Checkpoint
    catalog: Catalog
    positions: Mapping[int, Position] | None

    @classmethod
    def of(cls, source: Checkpoint, catalog: Catalog, *, to_next_epoch: bool) -> Derived:
        """Verify the source, every byte of it. Raises as that, and `LoopError` where there is no pass to drop."""
        positions = None
        if to_next_epoch:
            from resumable.checkpointing.derived.stored_position import position_of

            positions = {rank: next_epoch(position_of(source, rank), source.name) for rank in source.states}
        source.verify()
        return cls(source, catalog, positions)

    def name(self, attempt: int) -> CheckpointName:
        """Return the name of the new checkpoint."""
        epoch = self.source.epoch if self.positions is None else self.positions[0].epoch
        return CheckpointName(self.source.step, epoch, attempt)

    def blobs(self, *, shares: bool, link: Link | None = None) -> list[Blob]:
        """Return the files of tensors: shared with the source, linked from another run, or copied.

        One of an earlier version of the format, and one that as many checkpoints name as may, is copied.
        """
        manifest = self.source.manifest
        if is_earlier(manifest.format_version):
            named = sorted({blob for name in manifest.objects for blob in self.source.blobs_of(name)})
            return [self._copied(name, manifest.blobs[name]) for name in named]
        published = self.source.published_blobs()
        return [
            self._shared(name, blob)
            if shares and blob.record.named < MAX_NAMED
            else self._copied(name, blob.record, blob, link)
            for name, blob in published.items()
        ]

    def _shared(self, name: str, blob: PublishedBlob) -> Blob:
        record = blob.record
        return Blob(name, self._chunks(name), record.size, rank=record.rank, before=blob, digest=blob.digest)

    def _copied(
        self, name: str, record: BlobRecord, blob: PublishedBlob | None = None, link: Link | None = None
    ) -> Blob:
        linked = None if link is None or blob is None else lambda path: link(record.path, path)
        digest = None if blob is None else blob.digest
        return Blob(name, self._chunks(name), record.size, rank=record.rank, digest=digest, link=linked)

    def _chunks(self, name: str) -> ProvedChunks:
        manifest = self.source.manifest
        in_ranges = not is_earlier(manifest.format_version)
        return ProvedChunks(self.catalog.reader(manifest, name), manifest.blobs[name].digest, in_ranges=in_ranges)

    def states(self, written: Mapping[str, PublishedBlob]) -> Mapping[int, bytes]:
        """Return the state file of each rank; `written` are the files of tensors that it names."""
        return {rank: self._state(rank, written) for rank in self.source.states}

    def _state(self, rank: int, written: Mapping[str, PublishedBlob]) -> bytes:
        data = bytes(self.catalog.read_blob(self.source.manifest, state_name(rank)))
        earlier = is_earlier(self.source.manifest.format_version)
        if self.positions is None and not earlier:
            return data
        document: dict[str, Any] = strict_json.loads(data)
        if self.positions is not None:
            from resumable.checkpointing.derived.stored_position import document_of

            document["position"] = document_of(self.positions[rank])
        if earlier:
            ranges = {name: "".join(blob.digest.ranges) for name, blob in written.items()}
            document |= {"ranges": ranges, "tensors": columns_of(self.source)}
        return strict_json.dumps(document)

    def manifest(self, blobs: Mapping[str, BlobRecord], attempt: Attempt, **changes: object) -> Manifest:
        """Return the manifest for `attempt`, with these further `changes` of fields."""
        before = self.source.manifest
        name = self.name(attempt.number)
        position = None if self.positions is None else self.positions[0]
        moved = {} if position is None else {"finished": False, "position": summary_of(position, before.position)}
        values = {
            "format_version": FORMAT_VERSION,
            "attempt": name.attempt,
            "token": attempt.token,
            "lineage": list(attempt.lineage),
            "epoch": name.epoch,
            "created": time.time(),
            "blobs": dict(blobs),
        }
        return before.model_copy(update=values | moved | changes)


class ProvedChunks:
    """The bytes of a blob in pieces, each time from the storage; the end raises where they have another digest."""

    def __init__(self, reader: BlobReader, digest: str, *, in_ranges: bool) -> None:
        self._reader = reader
        self._expected = digest
        self._in_ranges = in_ranges

    def __iter__(self) -> Iterator[memoryview]:
        size, step = self._reader.size, max(READ_PIECE_BYTES, self._reader.range_bytes)
        digester = RangeDigester() if self._in_ranges else xxhash.xxh3_128()
        for start in range(0, size, step):
            piece = memoryview(bytearray(min(step, size - start)))
            self._reader.read(piece, start)
            digester.update(piece)
            yield piece
        found = digester.digest().value if isinstance(digester, RangeDigester) else digester.hexdigest()
        if found != self._expected:
            raise CorruptCheckpointError(f"{self._reader.name}: digest differs")
