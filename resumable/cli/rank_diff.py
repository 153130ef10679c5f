"""Compare what each rank of two checkpoints has for itself: streams, position, documents, and its own copies."""

from __future__ import annotations

from collections.abc import Iterator

from resumable.cli.document_diff import ABSENT, ValueDifference, document_differences
from resumable.run.checkpoint import Checkpoint
from resumable.store.documents.rank_state import RankState

SHARED = ("step", "epoch", "finished", "metrics")
"""The parts of a position that are compared as parts of the manifest."""


def rank_differences(a: Checkpoint, b: Checkpoint) -> Iterator[ValueDifference]:
    """Yield the differences of the ranks from 1 on, where both checkpoints were written by as many ranks.

    Reads no tensors: the digests of copies show that they differ, and not by how much.
    """
    if a.manifest.world != b.manifest.world:
        return
    for rank in a.states.keys() - {0}:
        for found in _differences(a.states[rank], b.states[rank]):
            yield ValueDifference(f"rank {rank}: {found.path}", found.a, found.b)


def _differences(left: RankState, right: RankState) -> Iterator[ValueDifference]:
    yield from document_differences(left.rng, right.rng, "rng")
    yield from document_differences(_position(left), _position(right), "position")
    yield from document_differences(left.objects, right.objects, "objects")
    copies, others = _own_copies(left), _own_copies(right)
    for name in sorted(copies.keys() | others.keys()):
        if copies.get(name) != others.get(name):
            yield ValueDifference(name, copies.get(name, ABSENT), others.get(name, ABSENT))


def _position(state: RankState) -> object:
    """Return the position of a rank without what is the same on all ranks, and is compared once."""
    position = state.position
    return {key: value for key, value in position.items() if key not in SHARED} if type(position) is dict else position


def _own_copies(state: RankState) -> dict[str, str]:
    """Return the digest of each part of a tensor that this rank holds with other bytes than other ranks."""
    found = {}
    for name, columns in state.tensors.items():
        for index in columns.pieces.own:
            key, offsets = columns.keys[columns.pieces.key[index]], columns.pieces.offsets[index]
            part = "" if offsets is None else f" at {list(offsets)}"
            found[f"{name}.{key}{part}"] = f"#{columns.pieces.digest_of(index)[:8]}"
    return found
