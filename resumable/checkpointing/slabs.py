"""Decide which slabs of an object a save writes, and which files of earlier saves it names. Pure functions of data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from resumable.run.rank_records import most_bytes, stored_key
from resumable.run.tensor_records import Records
from resumable.state.tensors.safetensors_layout import Layout
from resumable.state.tensors.slabs import PAGE_BYTES, Slab
from resumable.store.dedup import PublishedBlob
from resumable.store.documents.manifest import MAX_NAMED
from resumable.store.layout import is_slab_name


class StoredSlab(NamedTuple):
    """The location of a stored slab: the XXH3-128 (hex) of its bytes, the name of its file, its first byte there."""

    digest: str
    file: str
    begin: int


@dataclass(frozen=True)
class StoredSlabs:
    """The slabs of one object in a checkpoint, and the files that hold them, by name."""

    slabs: Mapping[Slab, StoredSlab]
    files: Mapping[str, PublishedBlob]


# The files that a checkpoint names may be this many times as large as its slabs. Where little changes they are at most
# 2.3 times as large, so the bound costs no writes there.
MOST_ON_DISK = 3

NOTHING_STORED = StoredSlabs({}, {})


@dataclass(frozen=True)
class SlabPlan:
    """The slabs of an object that one save writes, and the files that it shares.

    Those in `layout`, in the order of `write`, are written into the new file `name`. `slabs` tells of all where they
    lie then, and `shared` are the files of earlier saves among these.
    """

    name: str
    write: tuple[Slab, ...]
    layout: Layout
    slabs: Mapping[Slab, StoredSlab]
    shared: Mapping[str, PublishedBlob]

    def stored(self, published: Mapping[str, PublishedBlob]) -> StoredSlabs:
        """Return how the checkpoint with these blobs stores the slabs."""
        return StoredSlabs(self.slabs, {name: published[name] for name in (self.name, *self.shared)})


def plan(before: StoredSlabs, digests: Mapping[Slab, str], *, name: str, in_turn: bool) -> SlabPlan:
    """Plan a save of slabs with these digests into the file `name`, after a checkpoint that stored them as `before`.

    Written are the slabs that changed, and those of files that may not be named again: no bytes are named by more than
    ten checkpoints. With `in_turn` the oldest ninth of all is written too, so that no save writes all for that reason.
    Files that hold little but replaced slabs are given up where all files would exceed `MOST_ON_DISK`.
    """
    fit = _files_to_share(before, digests, name)
    due = _oldest(before, digests, math.ceil(len(digests) / (MAX_NAMED - 1)) if in_turn else 0)
    kept = {
        slab: at
        for slab, at in before.slabs.items()
        if digests.get(slab) == at.digest and at.file in fit and slab not in due
    }
    kept = _without_waste(kept, fit, sum(slab.facts.nbytes for slab in digests))
    keys = {stored_key(name, slab.key, slab.box.offsets): slab for slab in digests if slab not in kept}
    layout = Layout(((key, *slab.facts.stored_as, slab.facts.nbytes) for key, slab in keys.items()), align=PAGE_BYTES)
    written = {keys[key]: StoredSlab(digests[keys[key]], name, place.start) for key, place in layout.slices.items()}
    shared = {at.file: fit[at.file] for at in kept.values()}
    return SlabPlan(name, tuple(written), layout, {**written, **kept}, shared)


def stored_slabs(records: Records, blobs: Mapping[str, PublishedBlob]) -> dict[str, StoredSlabs]:
    """Return how a checkpoint stores the slabs of each object, by its records and its blobs of tensors."""
    found: dict[str, StoredSlabs] = {}
    for owner, tensors in records.items():
        slabs = {
            Slab(key, tensor.dtype, piece.box): StoredSlab(piece.digest, piece.blob, piece.begin)
            for key, tensor in tensors.items()
            for piece in tensor.pieces
            if tensor.alias is None and piece.box and piece.begin and piece.blob and is_slab_name(piece.blob)
        }
        if slabs:
            found[owner] = StoredSlabs(slabs, {at.file: blobs[at.file] for at in slabs.values()})
    return found


def _files_to_share(before: StoredSlabs, slabs: Iterable[Slab], name: str) -> dict[str, PublishedBlob]:
    """Return the files that a checkpoint with these slabs may name, beside the new file `name`."""
    most = most_bytes(sum(slab.box.elements for slab in slabs))
    return {
        file: blob
        for file, blob in before.files.items()
        if file != name and blob.record.named < MAX_NAMED and blob.record.size <= most
    }


def _without_waste(
    kept: Mapping[Slab, StoredSlab], files: Mapping[str, PublishedBlob], total_bytes: int
) -> dict[Slab, StoredSlab]:
    """Return `kept` without the slabs of those files that would take too much, the least used ones first."""
    used: Counter[str] = Counter()
    for slab, at in kept.items():
        used[at.file] += slab.facts.nbytes
    while total_bytes - used.total() + sum(files[file].record.size for file in used) > MOST_ON_DISK * total_bytes:
        del used[min(used, key=lambda file: used[file] / files[file].record.size)]
    return {slab: at for slab, at in kept.items() if at.file in used}


def _oldest(before: StoredSlabs, slabs: Iterable[Slab], count: int) -> set[Slab]:
    """Return the `count` slabs whose files are named by the most checkpoints; in their order for equal ages."""
    ages = {slab: before.files[at.file].record.named for slab, at in before.slabs.items()}
    return set(sorted(slabs, key=lambda slab: -ages.get(slab, 0))[:count])
