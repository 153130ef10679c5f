"""Join what the state files of all ranks record into one record for each tensor, and check it. Reads no blobs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from resumable.state.tensors.boxes import Box, refuse_unless_grid, whole
from resumable.state.tensors.dtypes import item_bytes
from resumable.state.tensors.records import Piece, TensorRecord
from resumable.store.digesting import RANGE_BYTES, FileDigest
from resumable.store.earlier_versions import EarlierObjectRecord, EarlierObjects
from resumable.store.layout import is_slab_name, is_state_name
from resumable.store.manifest import BlobRecord, Manifest
from resumable.store.rank_state import DIGEST_DIGITS, ObjectColumns, RankState
from resumable.store.strict_record import refuse_more_than
from resumable.utils import strict_json

MAX_PIECES = 4_000_000
MAX_PIECES_OF_TENSOR = 65_536

# The most that a blob takes up besides its tensors: the header.
MAX_OVERHEAD_BYTES = 8 + strict_json.MAX_BYTES
WIDEST_ITEM_BYTES = 16

Records = dict[str, dict[str, TensorRecord]]
"""The record of each tensor, by object and key."""


class _Facts(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    alias: str | None


class _RankPiece(NamedTuple):
    """One piece as a rank recorded it; `own` if other ranks hold the same box with other bytes."""

    rank: int
    piece: Piece
    own: bool


def joined_records(manifest: Manifest, states: Mapping[int, RankState], *, rank: int = 0) -> Records:
    """Return the records of all tensors, for a reader that is `rank`.

    Of a part that ranks hold with different bytes the reader gets its own copy, or else that of the lowest rank.

    Raises:
        ValueError: The records contradict each other or the manifest, or exceed the limits of the format.
    """
    pieces = sum(len(columns.pieces.key) for state in states.values() for columns in state.tensors.values())
    refuse_more_than(MAX_PIECES, "pieces", pieces)
    joined: Records = {}
    for name in manifest.objects:
        columns = {number: state.tensors[name] for number, state in states.items() if name in state.tensors}
        joined[name] = _join_object(name, columns, rank)
    for number, state in states.items():
        if unknown := state.tensors.keys() - manifest.objects.keys():
            raise ValueError(f"tensors of {min(unknown)!r} in the state of rank {number}: no such object")
        _refuse_other_blobs(manifest, number, state)
    return joined


def earlier_records(record: EarlierObjectRecord) -> dict[str, TensorRecord]:
    """Return the records of an object of version 1 or 2, whose locations are in the headers of its blobs."""
    return {
        key: TensorRecord(
            tensor.dtype,
            tuple(tensor.shape),
            None if tensor.strides is None else tuple(tensor.strides),
            tensor.alias,
            (Piece(tensor.digest),),
        )
        for key, tensor in record.tensors.items()
    }


def refuse_other_blobs(manifest: Manifest, found: EarlierObjects) -> None:
    """Raise `ValueError` for objects of version 1 or 2 whose blobs are not in the manifest, or are too large."""
    elements = {file_name: 0 for file_name in manifest.blobs if not is_state_name(file_name)}
    for name, record in found.objects.items():
        for blob in record.blobs:
            if blob not in elements:
                raise ValueError(f"objects.{name}: its blob {blob!r} is not among the blobs")
            elements[blob] += sum(math.prod(each.shape) for each in record.tensors.values() if each.alias is None)
    refuse_larger_blobs({file_name: manifest.blobs[file_name].size for file_name in elements}, elements)


def refuse_larger_blobs(sizes: Mapping[str, int], elements: Mapping[str, int]) -> None:
    """Raise `ValueError` for a blob that is larger than its tensors can be.

    Otherwise a few bytes of JSON beside a sparse file could request a terabyte of memory.
    """
    for file_name, size in sizes.items():
        most = MAX_OVERHEAD_BYTES + WIDEST_ITEM_BYTES * elements[file_name]
        if size > most:
            raise ValueError(f"{file_name}: {size} bytes, expected at most {most} for its tensors")


def _join_object(name: str, ranks: Mapping[int, ObjectColumns], reader: int) -> dict[str, TensorRecord]:
    facts: dict[str, _Facts] = {}
    held: dict[str, dict[Box | None, list[_RankPiece]]] = {}
    for rank, columns in ranks.items():
        for key, found in _facts(columns):
            if facts.setdefault(key, found) != found:
                raise ValueError(f"tensor {name}.{key}: rank {rank} records {found}, another rank {facts[key]}")
        for key, piece in _pieces(rank, columns):
            held.setdefault(key, {}).setdefault(piece.piece.box, []).append(piece)
    for key, boxes in held.items():
        _refuse_bad_tiling(f"{name}.{key}", facts[key], boxes)
    records = {}
    for key, found in facts.items():
        stored = key if found.alias is None else found.alias
        if found.alias is not None and facts.get(stored) != found._replace(alias=None):
            raise ValueError(f"tensor {name}.{key}: an alias of {stored!r}, which is no tensor of its own, or another")
        if found.alias is not None and key in held:
            raise ValueError(f"tensor {name}.{key}: an alias with pieces of its own")
        if stored not in held:
            raise ValueError(f"tensor {name}.{key}: no pieces")
        records[key] = TensorRecord(*found, tuple(_chosen(found, reader) for found in held[stored].values()))
    return records


def _facts(columns: ObjectColumns) -> Iterator[tuple[str, _Facts]]:
    for key, dtype, shape in zip(columns.keys, columns.dtypes, columns.shapes, strict=True):
        strides = columns.strides.get(key)
        yield key, _Facts(dtype, tuple(shape), None if strides is None else tuple(strides), columns.aliases.get(key))


def _pieces(rank: int, columns: ObjectColumns) -> Iterator[tuple[str, _RankPiece]]:
    pieces, own = columns.pieces, set(columns.pieces.own)
    table = zip(pieces.key, pieces.blob, pieces.begin, pieces.offsets, pieces.shape, strict=True)
    for index, (key, blob, begin, offsets, shape) in enumerate(table):
        if (offsets is None) != (shape is None):
            raise ValueError(f"tensor {columns.keys[key]!r}: a piece with offsets or a shape alone")
        box = None if offsets is None or shape is None else Box(tuple(offsets), tuple(shape))
        piece = Piece(pieces.digest_of(index), box, columns.blobs[blob], begin)
        yield columns.keys[key], _RankPiece(rank, piece, index in own)


def _refuse_bad_tiling(where: str, facts: _Facts, boxes: Mapping[Box | None, list[_RankPiece]]) -> None:
    try:
        refuse_more_than(MAX_PIECES_OF_TENSOR, "pieces", sum(map(len, boxes.values())))
        if None in boxes and len(boxes) > 1:
            raise ValueError("a whole tensor and parts of it")
        if facts.strides is not None and None not in boxes:
            raise ValueError("strides of a tensor that is in parts")
        if facts.strides is not None and len(facts.strides) != len(facts.shape):
            raise ValueError("shape and strides differ in length")
        refuse_unless_grid(facts.shape, [box or whole(facts.shape) for box in boxes])
        for copies in boxes.values():
            _refuse_bad_copies(copies)
            for copy in copies:
                _refuse_bad_slab(copy.piece, facts)
    except ValueError as error:
        raise ValueError(f"tensor {where}: {error}") from error


def _refuse_bad_copies(copies: list[_RankPiece]) -> None:
    ranks = {copy.rank for copy in copies}
    if len(ranks) != len(copies):
        raise ValueError(f"rank {copies[0].rank} records one part twice")
    if any(copy.own != (len(copies) > 1) for copy in copies):
        raise ValueError("a part that several ranks hold, and is not the own copy of each; or an own copy of one alone")


def _chosen(copies: list[_RankPiece], reader: int) -> Piece:
    return min(copies, key=lambda copy: (copy.rank != reader, copy.rank)).piece


def _refuse_other_blobs(manifest: Manifest, rank: int, state: RankState) -> None:
    """Compare the pieces of a rank with the blobs that it wrote."""
    named = {blob for columns in state.tensors.values() for blob in columns.blobs}
    for file_name in named:
        blob = manifest.blobs.get(file_name)
        if blob is None or blob.rank != rank:
            raise ValueError(f"{file_name}: named by rank {rank}, and not among the blobs of this rank")
        _refuse_other_ranges(file_name, blob, state.ranges.get(file_name))
    if extra := state.ranges.keys() - named:
        raise ValueError(f"ranges of {min(extra)!r}: no tensor of rank {rank} is in such a blob")
    locations: dict[str, list[tuple[int, int, str]]] = {file_name: [] for file_name in named}
    elements = dict.fromkeys(named, 0)
    for columns in state.tensors.values():
        for file_name, begin, end, key, count in _extents(columns):
            locations[file_name].append((begin, end, key))
            elements[file_name] += count if not is_slab_name(file_name) else 0
        for file_name in filter(is_slab_name, columns.blobs):  # it still holds slabs that were written again since
            elements[file_name] += sum(map(math.prod, columns.shapes))
    for file_name, extents in locations.items():
        _refuse_overlaps(file_name, manifest.blobs[file_name].size, extents)
    refuse_larger_blobs({file_name: manifest.blobs[file_name].size for file_name in named}, elements)


def stored_key(blob: str, key: str, offsets: Sequence[int] | None) -> str:
    """Return the key in a file of a piece that begins at `offsets`: in a file of slabs it names the first row."""
    return f"{key}@{offsets[0]}" if offsets and is_slab_name(blob) else key


def _refuse_bad_slab(piece: Piece, facts: _Facts) -> None:
    is_slab = piece.blob is not None and is_slab_name(piece.blob)
    if is_slab and (piece.box is None or piece.box[0][1:] != (0,) * (len(facts.shape) - 1)):
        raise ValueError("a piece in a file of slabs that is not a run of whole rows")
    if is_slab and piece.box is not None and (not facts.shape or piece.box.shape[1:] != facts.shape[1:]):
        raise ValueError("a piece in a file of slabs that is not a run of whole rows")


def _refuse_other_ranges(file_name: str, blob: BlobRecord, ranges: str | None) -> None:
    found = file_digest(ranges or "")
    if len(found.ranges) != math.ceil(blob.size / RANGE_BYTES) or found.value != blob.digest:
        raise ValueError(f"{file_name}: its ranges are not those of the blob in the manifest")


def file_digest(ranges: str) -> FileDigest:
    """Return the digests of a blob's ranges as a state file holds them."""
    return FileDigest(tuple(ranges[at : at + DIGEST_DIGITS] for at in range(0, len(ranges), DIGEST_DIGITS)))


def _extents(columns: ObjectColumns) -> Iterator[tuple[str, int, int, str, int]]:
    """Yield blob, first byte, end, key and number of elements of each piece."""
    pieces = columns.pieces
    for key, blob, begin, shape in zip(pieces.key, pieces.blob, pieces.begin, pieces.shape, strict=True):
        count = math.prod(columns.shapes[key] if shape is None else shape)
        nbytes = count * (item_bytes(columns.dtypes[key]) or 0)
        yield columns.blobs[blob], begin, begin + nbytes, columns.keys[key], count


def _refuse_overlaps(file_name: str, size: int, extents: Iterable[tuple[int, int, str]]) -> None:
    before = 0
    for begin, end, key in sorted(extents):
        if begin < before or end > size:
            raise ValueError(
                f"{file_name}: tensor {key!r} at byte {begin} to {end} overlaps another, or the file's end"
            )
        before = end
