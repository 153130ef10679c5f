"""Check the records in one state file: by themselves, and against the blobs in the manifest. Reads no blobs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from resumable.state.tensors.dtypes import item_bytes
from resumable.store.digesting import RANGE_BYTES, FileDigest
from resumable.store.documents.manifest import BlobRecord, Manifest
from resumable.store.documents.rank_state import DIGEST_DIGITS, ObjectColumns, RankState
from resumable.store.layout import is_slab_name, is_state_name, object_of
from resumable.utils import strict_json

# The most that a blob takes up besides its tensors: the header.
PREFIX_BYTES = 8
MAX_OVERHEAD_BYTES = PREFIX_BYTES + strict_json.MAX_BYTES
WIDEST_ITEM_BYTES = 16


def blobs_by_rank(manifest: Manifest) -> dict[int, set[str]]:
    """Return the names of the blobs of tensors that each rank wrote; none for ranks that wrote no such blob."""
    written: dict[int, set[str]] = {}
    for file_name, blob in manifest.blobs.items():
        if not is_state_name(file_name):
            written.setdefault(blob.rank, set()).add(file_name)
    return written


def refuse_bad_records(manifest: Manifest, written: Collection[str], rank: int, state: RankState) -> None:
    """Raise `ValueError` for records that break a rule of the format which concerns one rank alone.

    `written` are the blobs of tensors that this rank wrote, by the manifest.
    """
    if unknown := (state.objects.keys() | state.tensors.keys()) - manifest.objects.keys():
        raise ValueError(f"{min(unknown)!r}: not an object of this checkpoint")
    for name, columns in state.tensors.items():
        try:
            _refuse_bad_keys(columns)
            _refuse_bad_pieces(columns)
        except ValueError as error:
            raise ValueError(f"tensors of {name}: {error}") from error
    _refuse_other_blobs(manifest, written, rank, state)
    for file_name, extents in _extents(state).items():
        _refuse_overlaps(file_name, manifest.blobs[file_name].size, extents)


def stored_key(blob: str, key: str, offsets: Sequence[int] | None) -> str:
    """Return the key in a file of a piece that begins at `offsets`: in a slab file it names the first row."""
    return f"{key}@{offsets[0] if offsets else 0}" if is_slab_name(blob) else key


def file_digest(ranges: str) -> FileDigest:
    """Return the digests of a blob's ranges as a state file holds them."""
    return FileDigest(tuple(ranges[at : at + DIGEST_DIGITS] for at in range(0, len(ranges), DIGEST_DIGITS)))


def refuse_larger_blobs(sizes: Mapping[str, int], elements: Mapping[str, int]) -> None:
    """Raise `ValueError` for a blob that is larger than its tensors can be.

    Otherwise a few bytes of JSON beside a sparse file could request a terabyte of memory.
    """
    for file_name, size in sizes.items():
        most = most_bytes(elements[file_name])
        if size > most:
            raise ValueError(f"{file_name}: {size} bytes, expected at most {most} for its tensors")


def most_bytes(elements: int) -> int:
    """Return the size that a file of tensors with this many elements may have."""
    return MAX_OVERHEAD_BYTES + WIDEST_ITEM_BYTES * elements


def _refuse_bad_keys(columns: ObjectColumns) -> None:
    facts = {
        key: (dtype, shape, columns.strides.get(key))
        for key, dtype, shape in zip(columns.keys, columns.dtypes, columns.shapes, strict=True)
    }
    for key, strides in columns.strides.items():
        if len(strides) != len(facts[key][1]):
            raise ValueError(f"{key!r}: shape and strides differ in length")
    for key, stored in columns.aliases.items():
        if stored in columns.aliases or facts.get(stored) != facts[key]:
            raise ValueError(f"{key!r}: an alias of {stored!r}, which is not a tensor of its own, or another one")
    held = set(columns.pieces.key)
    for number, key in enumerate(columns.keys):
        if (number in held) == (key in columns.aliases):
            raise ValueError(f"{key!r}: {'an alias, and has pieces' if number in held else 'no piece'}")


def _refuse_bad_pieces(columns: ObjectColumns) -> None:
    pieces = columns.pieces
    slabs = [is_slab_name(file_name) for file_name in columns.blobs]
    seen: set[tuple[int, int]] = set()
    for key, blob, offsets, shape in zip(pieces.key, pieces.blob, pieces.offsets, pieces.shape, strict=True):
        fault = _fault_of_slab if slabs[blob] else _fault_of_box
        found = fault(columns.shapes[key], offsets, shape)
        if shape is not None and columns.keys[key] in columns.strides:
            found = "has strides, and is in parts"
        if not slabs[blob] and (key, blob) in seen:
            found = f"two pieces in {columns.blobs[blob]}"
        if found:
            raise ValueError(f"{columns.keys[key]!r}: {found}")
        seen.add((key, blob))


def _fault_of_box(whole: Sequence[int], offsets: Sequence[int] | None, shape: Sequence[int] | None) -> str | None:
    if offsets is None or shape is None:
        return None if offsets is shape else "a piece with offsets or a shape alone"
    return "a box that is the whole tensor, which is written as null" if shape == whole else None


def _fault_of_slab(whole: Sequence[int], offsets: Sequence[int] | None, shape: Sequence[int] | None) -> str | None:
    rows = shape is None or (shape[1:] == whole[1:] and offsets is not None and not any(offsets[1:]))
    return _fault_of_box(whole, offsets, shape) if whole and rows else "a slab that is not a run of whole rows"


def _refuse_other_blobs(manifest: Manifest, written: Collection[str], rank: int, state: RankState) -> None:
    """Compare the blobs that the records name with those of this rank in the manifest."""
    owners: dict[str, str] = {}
    for name, columns in state.tensors.items():
        owners |= dict.fromkeys(columns.blobs, name)
        if unused := set(range(len(columns.blobs))).difference(columns.pieces.blob):
            raise ValueError(f"{columns.blobs[min(unused)]}: no piece of {name} is in it")
    if other := owners.keys() ^ written:
        raise ValueError(f"{min(other)}: named by the manifest or the records of rank {rank}, and not by both")
    if other := state.ranges.keys() ^ owners.keys():
        raise ValueError(f"{min(other)}: no ranges, or no records")
    for file_name, owner in owners.items():
        if object_of(file_name) != owner:
            raise ValueError(f"{file_name}: named by the records of {owner}")
        _refuse_other_ranges(file_name, manifest.blobs[file_name], state.ranges[file_name])
    sizes = {file_name: manifest.blobs[file_name].size for file_name in owners}
    refuse_larger_blobs(sizes, _elements(state))


def _refuse_other_ranges(file_name: str, blob: BlobRecord, ranges: str) -> None:
    found = file_digest(ranges)
    if len(found.ranges) != math.ceil(blob.size / RANGE_BYTES) or found.value != blob.digest:
        raise ValueError(f"{file_name}: its ranges are not those of the blob in the manifest")


def _elements(state: RankState) -> dict[str, int]:
    """Return how many elements are recorded for each blob; for a slab file, which has older slabs, for its object."""
    elements: dict[str, int] = {}
    for columns in state.tensors.values():
        pieces, counts = columns.pieces, [math.prod(shape) for shape in columns.shapes]
        recorded = sum(count for key, count in zip(columns.keys, counts, strict=True) if key not in columns.aliases)
        elements |= {blob: recorded if is_slab_name(blob) else 0 for blob in columns.blobs}
        for key, blob, shape in zip(pieces.key, pieces.blob, pieces.shape, strict=True):
            if not is_slab_name(columns.blobs[blob]):
                elements[columns.blobs[blob]] += counts[key] if shape is None else math.prod(shape)
    return elements


def _extents(state: RankState) -> dict[str, list[tuple[int, int]]]:
    """Return first byte and end of each piece by blob; of a dtype whose size takes torch, the first byte alone."""
    extents: dict[str, list[tuple[int, int]]] = {}
    for columns in state.tensors.values():
        pieces, widths = columns.pieces, [item_bytes(dtype) or 0 for dtype in columns.dtypes]
        for key, blob, begin, shape in zip(pieces.key, pieces.blob, pieces.begin, pieces.shape, strict=True):
            nbytes = widths[key] * math.prod(columns.shapes[key] if shape is None else shape)
            extents.setdefault(columns.blobs[blob], []).append((begin, begin + nbytes))
    return extents


def _refuse_overlaps(file_name: str, size: int, extents: Iterable[tuple[int, int]]) -> None:
    before = PREFIX_BYTES
    for begin, end in sorted(extents):
        if begin < before or end > size:
            raise ValueError(f"{file_name}: a piece at byte {begin} overlaps another, or an end of the file")
        before = end
