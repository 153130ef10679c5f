"""Join what the state files of all ranks record into one record for each tensor, and check it. Reads no blobs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from resumable.run.rank_records import refuse_larger_blobs
from resumable.state.tensors.boxes import Box, refuse_unless_grid
from resumable.state.tensors.records import Piece, TensorRecord
from resumable.store.documents.earlier_versions import EarlierObjectRecord, EarlierObjects
from resumable.store.documents.manifest import Manifest
from resumable.store.documents.rank_state import ObjectColumns, RankState
from resumable.store.documents.strict_record import refuse_more_than
from resumable.store.layout import is_state_name

MAX_PIECES = 4_000_000
MAX_PIECES_OF_TENSOR = 65_536

Records = dict[str, dict[str, TensorRecord]]
"""The record of each tensor, by object and key."""

_Pieces = Piece | dict[Box, Piece]
"""The pieces of one tensor: one that is the whole tensor, or one for each box."""

_Copies = dict[tuple[str, Box | None], dict[int, Piece]]
"""The copies of boxes that ranks hold with different bytes, by key and box, and by rank."""


class _Facts(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    alias: str | None


def joined_records(manifest: Manifest, states: Mapping[int, RankState], *, rank: int = 0) -> Records:
    """Return the records of all tensors, for a reader that is `rank`; `refuse_bad_records` has passed for each state.

    Of a box that ranks hold with different bytes the reader gets its own copy, or else that of the lowest rank.

    Raises:
        ValueError: The records of several ranks contradict each other, or exceed the limits of the format.
    """
    pieces = sum(len(columns.pieces.key) for state in states.values() for columns in state.tensors.values())
    refuse_more_than(MAX_PIECES, "pieces", pieces)
    columns_of: dict[str, dict[int, ObjectColumns]] = {name: {} for name in manifest.objects}
    for number, state in states.items():
        for name, columns in state.tensors.items():
            columns_of[name][number] = columns
    joined: Records = {}
    for name, ranks in columns_of.items():
        try:
            joined[name] = _joined(ranks, rank)
        except ValueError as error:
            raise ValueError(f"tensors of {name}: {error}") from error
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


def _joined(ranks: Mapping[int, ObjectColumns], reader: int) -> dict[str, TensorRecord]:
    facts = _joined_facts(ranks)
    held = _joined_pieces(ranks, reader)
    tiled = {}
    for key in list(held):
        try:
            tiled[key] = _tiled(facts[key], held.pop(key))
        except ValueError as error:
            raise ValueError(f"{key!r}: {error}") from error
    return {
        key: TensorRecord(*found, tiled[key if found.alias is None else found.alias]) for key, found in facts.items()
    }


def _joined_facts(ranks: Mapping[int, ObjectColumns]) -> dict[str, _Facts]:
    facts: dict[str, _Facts] = {}
    for rank, columns in ranks.items():
        strides, aliases = columns.strides, columns.aliases
        for key, dtype, shape in zip(columns.keys, columns.dtypes, columns.shapes, strict=True):
            found = _Facts(dtype, shape, strides.get(key), aliases.get(key))
            if facts.setdefault(key, found) != found:
                raise ValueError(f"{key!r}: rank {rank} records {found}, a lower rank {facts[key]}")
    return facts


def _joined_pieces(ranks: Mapping[int, ObjectColumns], reader: int) -> dict[str, _Pieces]:
    held: dict[str, _Pieces] = {}
    copies: _Copies = {}
    counts: Counter[str] = Counter()
    for rank, columns in ranks.items():
        own = set(columns.pieces.own)
        counts.update(map(columns.keys.__getitem__, columns.pieces.key))
        for index, key, piece in _pieces(columns):
            if index not in own:
                _hold(held, key, piece)
            elif copies.setdefault((key, piece.box), {}).setdefault(rank, piece) is not piece:
                raise ValueError(f"{key!r}: a box of which rank {rank} records two own copies")
    for (key, _), by_rank in copies.items():
        if len(by_rank) == 1:
            raise ValueError(f"{key!r}: the own copy of one rank alone")
        _hold(held, key, by_rank[reader if reader in by_rank else min(by_rank)])
    refuse_more_than(MAX_PIECES_OF_TENSOR, "pieces of one tensor", max(counts.values(), default=0))
    return held


def _hold(held: dict[str, _Pieces], key: str, piece: Piece) -> None:
    if piece.box is None:
        is_new = held.setdefault(key, piece) is piece
    else:
        boxes = held.setdefault(key, {})
        is_new = isinstance(boxes, dict) and boxes.setdefault(piece.box, piece) is piece
    if not is_new:
        raise ValueError(f"{key!r}: a box that is recorded twice, or in a tensor that is whole, and is no own copy")


def _pieces(columns: ObjectColumns) -> Iterator[tuple[int, str, Piece]]:
    pieces = columns.pieces
    table = zip(pieces.key, pieces.blob, pieces.begin, pieces.offsets, pieces.shape, strict=True)
    for index, (key, blob, begin, offsets, shape) in enumerate(table):
        box = None if offsets is None or shape is None else Box(offsets, shape)
        yield index, columns.keys[key], Piece(pieces.digest_of(index), box, columns.blobs[blob], begin)


def _tiled(facts: _Facts, pieces: _Pieces) -> tuple[Piece, ...]:
    """Return the pieces of one tensor in the order of their offsets."""
    if isinstance(pieces, Piece):
        return (pieces,)
    refuse_unless_grid(facts.shape, pieces.keys())
    return tuple(pieces[box] for box in sorted(pieces))
