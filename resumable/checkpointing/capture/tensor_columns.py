"""Put the records of an object's tensors into the columns of a state file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from resumable.checkpointing.slabs import StoredSlab
from resumable.state.codec import Encoded
from resumable.state.staging.file_images import FileImage
from resumable.state.tensors.boxes import Box
from resumable.state.tensors.facts import TensorFacts
from resumable.state.tensors.slabs import Slab


class _Placed(NamedTuple):
    key: str
    blob: str
    begin: int
    box: Box | None
    digest: str


def tensor_columns(
    encoded: Encoded,
    blobs: Mapping[str, Mapping[str, Tensor]],
    images: Mapping[str, FileImage],
    slabs: Mapping[Slab, StoredSlab],
) -> dict[str, object]:
    """Return the records of one object's tensors, as the state file holds them.

    Args:
        encoded: The object's tensors and aliases.
        blobs: The tensors that are stored whole, by file name and key.
        images: The files of these.
        slabs: Where each slab of the other tensors lies.
    """
    keys = [*encoded.tensors, *encoded.aliases]
    facts = {key: fact for name in blobs for key, fact in images[name].facts.items()} | _facts_of_cut(slabs)
    held = [facts[encoded.aliases.get(key, key)] for key in keys]
    pieces = [*_whole(blobs, images), *_in_slabs(slabs)]
    files = list(dict.fromkeys(piece.blob for piece in pieces))
    return {
        "keys": keys,
        "dtypes": [fact.dtype for fact in held],
        "shapes": [fact.shape for fact in held],
        "strides": {key: fact.strides for key, fact in zip(keys, held, strict=True) if fact.strides is not None},
        "aliases": encoded.aliases,
        "blobs": files,
        "pieces": _piece_columns(pieces, keys, files),
    }


def _piece_columns(pieces: Sequence[_Placed], keys: Iterable[str], files: Iterable[str]) -> dict[str, object]:
    key_index = {key: index for index, key in enumerate(keys)}
    file_index = {name: index for index, name in enumerate(files)}
    return {
        "key": [key_index[piece.key] for piece in pieces],
        "blob": [file_index[piece.blob] for piece in pieces],
        "begin": [piece.begin for piece in pieces],
        "offsets": [piece.box and piece.box.offsets for piece in pieces],
        "shape": [piece.box and piece.box.shape for piece in pieces],
        "own": [],
        "digest": "".join(piece.digest for piece in pieces),
    }


def _facts_of_cut(slabs: Iterable[Slab]) -> dict[str, TensorFacts]:
    """Return the facts of the tensors that are in slabs: as many rows as their last slab ends at."""
    last: dict[str, Slab] = {}
    for slab in slabs:
        last[slab.key] = max(slab, last.get(slab.key, slab), key=lambda each: each.box.offsets)
    return {
        key: TensorFacts(slab.dtype, (slab.box.offsets[0] + slab.box.shape[0], *slab.box.shape[1:]))
        for key, slab in last.items()
    }


def _whole(blobs: Mapping[str, Mapping[str, Tensor]], images: Mapping[str, FileImage]) -> Iterator[_Placed]:
    for name, tensors in blobs.items():
        digests, slices = images[name].digests, images[name].slices
        yield from (_Placed(key, name, slices[key].start, None, digests[key]) for key in tensors)


def _in_slabs(slabs: Mapping[Slab, StoredSlab]) -> Iterator[_Placed]:
    for slab, stored in slabs.items():
        yield _Placed(slab.key, stored.file, stored.begin, slab.box, stored.digest)
