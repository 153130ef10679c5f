"""Verify the blobs of a checkpoint: each is undamaged, and is the file that the records describe.

A blob may be undamaged and still be the wrong one: shared by mistake, or from another save. Both are checked in one
pass over the bytes, without torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from resumable.errors import CorruptCheckpointError
from resumable.run.rank_records import stored_key
from resumable.run.tensor_records import Records
from resumable.state.files.stream_digests import DigestedSlice, StreamDigester
from resumable.state.tensors.dtypes import may_hold
from resumable.state.tensors.tensor_locations import locate
from resumable.store.catalog import Catalog
from resumable.store.documents.earlier_versions import EarlierObjects
from resumable.store.documents.manifest import Manifest
from resumable.store.documents.rank_state import ObjectColumns, RankState
from resumable.store.layout import is_slab_name, is_state_name
from resumable.utils.messages import quoted

Held = Mapping[str, Mapping[str, DigestedSlice]]
"""The tensors in the blobs, by file name and key in the file."""


class ExpectedPiece(NamedTuple):
    """A piece that a blob must hold; `begin` is None if only the header says where it lies."""

    dtype: str
    shape: tuple[int, ...]
    digest: str
    begin: int | None


Expected = dict[str, dict[str, ExpectedPiece]]
"""The recorded pieces of the blobs, by file name and key in the file."""


def verify_blobs(catalog: Catalog, manifest: Manifest, states: Mapping[int, RankState]) -> None:
    """Read every blob of tensors once, and compare its digest, and the place, facts and digest of each piece in it.

    Raises:
        CorruptCheckpointError: It names the blob, and the tensor where the blob itself is undamaged.
        NoCheckpointError: The checkpoint was pruned meanwhile.
        StorageError: The storage failed; the checkpoint may be undamaged.
    """
    expected: Expected = {}
    for state in states.values():
        for columns in state.tensors.values():
            for blob, key, piece in _pieces(columns):
                expected.setdefault(blob, {})[key] = piece
    _refuse_others(_read(catalog, manifest, expected.keys()), expected)


def verify_earlier_blobs(catalog: Catalog, manifest: Manifest, objects: EarlierObjects, records: Records) -> None:
    """Verify the blobs of a checkpoint of version 1 or 2 in the same way; raises as `verify_blobs`."""
    named = {blob for name, record in objects.objects.items() if records[name] for blob in record.blobs}
    held = _read(catalog, manifest, named)
    expected: Expected = {blob: {} for blob in held}
    for name, record in objects.objects.items():
        blobs = record.blobs if records[name] else []
        headers = [{key: found.place for key, found in held[blob].items()} for blob in blobs]
        try:
            places = locate(headers, records[name])
        except ValueError as error:
            raise _other(" and ".join(blobs), str(error)) from error
        for key, (number, _) in places.items():
            tensor = records[name][key]
            expected[blobs[number]][key] = ExpectedPiece(tensor.dtype, tensor.shape, tensor.digest, None)
    _refuse_others(held, expected)


def _pieces(columns: ObjectColumns) -> list[tuple[str, str, ExpectedPiece]]:
    """Return blob, key in the file and facts of each piece."""
    pieces = columns.pieces
    table = zip(pieces.key, pieces.blob, pieces.begin, pieces.offsets, pieces.shape, strict=True)
    return [
        (
            columns.blobs[blob],
            stored_key(columns.blobs[blob], columns.keys[key], offsets),
            ExpectedPiece(
                columns.dtypes[key],
                tuple(columns.shapes[key] if shape is None else shape),
                pieces.digest_of(index),
                begin,
            ),
        )
        for index, (key, blob, begin, offsets, shape) in enumerate(table)
    ]


def _read(catalog: Catalog, manifest: Manifest, named: Collection[str]) -> Held:
    """Read and verify every blob but the state files, and return what the named ones hold."""
    passing = {}
    for blob, record in manifest.blobs.items():
        if is_state_name(blob):
            continue
        file = StreamDigester(record.size) if blob in named else None
        catalog.reader(manifest, blob).verify(file.see if file else None)
        if file:
            passing[blob] = file
    return {blob: _held(blob, file) for blob, file in passing.items()}


def _held(blob: str, file: StreamDigester) -> Mapping[str, DigestedSlice]:
    try:
        return file.tensors()
    except ValueError as error:
        raise _other(blob, str(error)) from error


def _refuse_others(held: Held, expected: Expected) -> None:
    for blob, pieces in held.items():
        for key, found in pieces.items():
            if key in expected[blob]:
                _refuse_other(blob, key, found, expected[blob][key])
            elif not is_slab_name(blob):  # which also holds slabs that newer ones have replaced
                raise _other(blob, f"tensor {key!r}: in the file, and not recorded")
        if missing := expected[blob].keys() - pieces.keys():
            raise _other(blob, f"tensor {min(missing)!r}: not in the file")


def _refuse_other(blob: str, key: str, found: DigestedSlice, piece: ExpectedPiece) -> None:
    tag, shape = found.place.dtype_tag, found.place.shape
    if not may_hold(tag, shape, piece.dtype, piece.shape):
        stored = f"{tag}{list(shape)}"
        raise _other(blob, f"tensor {key!r}: the file holds {stored}, expected {piece.dtype}{list(piece.shape)}")
    if piece.begin is not None and found.place.start != piece.begin:
        raise _other(blob, f"tensor {key!r}: begins at byte {found.place.start}, expected {piece.begin}")
    if found.digest != piece.digest:
        raise _other(blob, f"tensor {key!r}: digest differs: {found.digest}, expected {piece.digest}")


def _other(blob: str, what: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"{blob}: whole, but not the file that the records describe: {quoted(what)}")
