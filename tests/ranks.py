"""Checkpoints of several ranks, written by the real `publish` from objects of this very process; knows no test."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from resumable.checkpointing.position import Position
from resumable.state.codec import Encoded, encode
from resumable.state.objects import global_rng
from resumable.state.objects.choose_adapter import adapt
from resumable.state.tensors.boxes import Box
from resumable.state.tensors.facts import bytes_of, facts_of, tensor_digest
from resumable.state.tensors.file_plan import FilePlan
from resumable.store.attempts import Attempt, begin, create_run
from resumable.store.catalog import Catalog
from resumable.store.dedup import PublishedBlob
from resumable.store.documents.manifest import BlobRecord, Manifest, ObjectRecord
from resumable.store.documents.rank_state import dump_rank_state
from resumable.store.layout import CheckpointName, state_name
from resumable.store.publish import Blob, publish
from resumable.store.storage.local import LocalStorage


class Part(NamedTuple):
    """One piece that a rank writes: the whole tensor, or a box of it; `value` only where it is an own copy.

    `file` is "" or "frozen", or "slabs" with the rows of this box as one slab.
    """

    rank: int
    box: Box | None = None
    value: Tensor | None = None
    file: str = ""


Divide = Callable[[str, str, Tensor], Iterable[Part]]
"""Returns the parts of a tensor, by object and key."""


@dataclass
class RankWriter:
    """One launch of `world` ranks, each of which writes what `divide` gives it.

    `documents` are further documents of objects, by rank and object; `change` may change the columns of a rank before
    they are written; with `inline` small tensors of other objects than modules stand in the documents.
    """

    run: Path
    world: int
    divide: Divide
    documents: Mapping[int, Mapping[str, object]] = field(default_factory=dict)
    change: Callable[[int, dict[str, Any]], object] = lambda rank, state: None
    inline: bool = False

    def __post_init__(self) -> None:
        self.attempt = _launch(self.run)

    def save(self, step: int, **objects: Any) -> CheckpointName:
        """Publish a checkpoint of these objects; the documents are those of rank 0."""
        name = CheckpointName(step, 0, self.attempt.number)
        adapters = adapt(objects)
        encoded = {
            owner: encode(
                each.capture(),
                key_of=each.key_of,
                where=owner,
                advice=each.advice,
                inline=self.inline and each.kind != "module",
            )
            for owner, each in adapters.items()
        }
        files = _files(encoded, self.divide, name)
        records = {owner: ObjectRecord(kind=each.kind, type=each.type) for owner, each in adapters.items()}
        position = Position(loop="steps", step=step)

        def states(published: Mapping[str, PublishedBlob]) -> dict[int, bytes]:
            documents = {owner: each.document for owner, each in encoded.items()}
            return {rank: self._state(rank, documents, encoded, files, published, position) for rank in self._ranks}

        def manifest(blobs: dict[str, BlobRecord]) -> Manifest:
            return _manifest(self.attempt, name, self.world, records, blobs)

        blobs = [file.blob(file_name) for file_name, file in files.items()]
        publish(self.attempt.storage, self.attempt, name, blobs, states, manifest)
        return name

    @property
    def _ranks(self) -> range:
        return range(self.world)

    def _state(
        self,
        rank: int,
        documents: Mapping[str, object],
        encoded: Mapping[str, Encoded],
        files: Mapping[str, File],
        published: Mapping[str, PublishedBlob],
        position: Position,
    ) -> bytes:
        own = {name: file for name, file in files.items() if file.rank == rank}
        state: dict[str, Any] = {
            "objects": dict(documents) if rank == 0 else dict(self.documents.get(rank, {})),
            "rng": encode(global_rng.capture_streams(), key_of=None, where="rng").document,
            "position": encode(position.tree(), key_of=None, where="position").document,
            "ranges": {name: "".join(published[name].digest.ranges) for name in own},
            "tensors": {
                owner: columns_of(each, {name: file for name, file in own.items() if file.owner == owner})
                for owner, each in encoded.items()
                if any(file.owner == owner for file in own.values())
            },
        }
        self.change(rank, state)
        ranges, tensors = state.pop("ranges"), state.pop("tensors")
        return dump_rank_state(state, ranges=ranges, tensors=tensors)


class Placed(NamedTuple):
    """A piece in a file: the key of its tensor, its part, its key in the file, and its value."""

    key: str
    part: Part
    stored: str
    value: Tensor


@dataclass
class File:
    """A blob of tensors that one rank writes."""

    owner: str
    rank: int
    pieces: list[Placed] = field(default_factory=list)

    def plan(self) -> FilePlan:
        """The layout, with what PyTorch's own tool needs to join shards: of each tensor where it begins."""
        starts = {
            placed.stored: {
                "saved_offsets": [0] * placed.value.ndim if placed.part.box is None else placed.part.box.offsets
            }
            for placed in self.pieces
            if placed.part.file != "slabs"
        }
        metadata = {"DCP_SHARDING_INFO": json.dumps(starts)} if starts else {}
        return FilePlan.of(
            {placed.stored: facts_of(placed.value.contiguous()) for placed in self.pieces}, metadata=metadata
        )

    def blob(self, name: str) -> Blob:
        """The file, to publish."""
        layout = self.plan().layout
        image = bytearray(layout.header) + bytearray(layout.size - len(layout.header))
        for placed in self.pieces:
            place = layout.slices[placed.stored]
            image[place.start : place.end] = bytes_of(placed.value)
        return Blob(name, [memoryview(image)], len(image), rank=self.rank)


def columns_of(encoded: Encoded, files: Mapping[str, File]) -> dict[str, Any]:
    """The records of one object's tensors of which a rank wrote pieces into these files."""
    pieces = [(number, file, placed) for number, file in enumerate(files.values()) for placed in file.pieces]
    plans = [file.plan().layout for file in files.values()]
    stored = dict.fromkeys(placed.key for _, _, placed in pieces)
    aliases = {key: target for key, target in encoded.aliases.items() if target in stored}
    keys = [*stored, *aliases]
    facts = [facts_of(encoded.tensors[aliases.get(key, key)]) for key in keys]
    boxes = [placed.part.box for _, _, placed in pieces]
    whole = {placed.key for _, _, placed in pieces if placed.part.box is None}
    return {
        "keys": keys,
        "dtypes": [fact.dtype for fact in facts],
        "shapes": [list(fact.shape) for fact in facts],
        "strides": {
            key: list(fact.strides)
            for key, fact in zip(keys, facts, strict=True)
            if fact.strides is not None and aliases.get(key, key) in whole
        },
        "aliases": aliases,
        "blobs": list(files),
        "pieces": {
            "key": [keys.index(placed.key) for _, _, placed in pieces],
            "blob": [number for number, _, _ in pieces],
            "begin": [plans[number].slices[placed.stored].start for number, _, placed in pieces],
            "offsets": [None if box is None else list(box.offsets) for box in boxes],
            "shape": [None if box is None else list(box.shape) for box in boxes],
            "own": [index for index, (_, _, placed) in enumerate(pieces) if placed.part.value is not None],
            "digest": "".join(tensor_digest(placed.value) for _, _, placed in pieces),
        },
    }


def file_name(owner: str, part: Part, name: CheckpointName) -> str:
    """The name of the blob in which a part lies."""
    rank = f".rank{part.rank:05d}"
    if part.file == "slabs":
        return f"{owner}{rank}.slabs-s{name.step:09d}-e{name.epoch:04d}.safetensors"
    return f"{owner}{'.frozen' if part.file else ''}{rank}.safetensors"


def _files(encoded: Mapping[str, Encoded], divide: Divide, name: CheckpointName) -> dict[str, File]:
    files: dict[str, File] = {}
    for owner, each in encoded.items():
        for key, tensor in each.tensors.items():
            for part in divide(owner, key, tensor):
                value = tensor if part.value is None else part.value
                value = value if part.box is None or part.value is not None else value[part.box.slices]
                row = 0 if part.box is None else part.box.offsets[0] if part.box.offsets else 0
                stored = f"{key}@{row}" if part.file == "slabs" else key
                file = files.setdefault(file_name(owner, part, name), File(owner, part.rank))
                file.pieces.append(Placed(key, part, stored, value))
    return files


def _launch(run: Path) -> Attempt:
    storage = LocalStorage(run)
    create_run(storage, data_seed=7)
    history = Catalog(storage).history()
    before = history[0] if history else None
    return begin(
        storage,
        resumed_from=before[0] if before else None,
        lineage_before=before[1].lineage if before else [],
    )


def _manifest(
    attempt: Attempt,
    name: CheckpointName,
    world: int,
    objects: Mapping[str, ObjectRecord],
    blobs: Mapping[str, BlobRecord],
) -> Manifest:
    run = Catalog(attempt.storage).run_file()
    assert run is not None
    return Manifest(
        features=[],
        notes={},
        run_id=run.run_id,
        attempt=attempt.number,
        token=attempt.token,
        lineage=list(attempt.lineage),
        step=name.step,
        epoch=name.epoch,
        position={},
        metrics={},
        config={"data_seed": run.data_seed},
        versions={},
        environment={},
        world=world,
        mesh=None,
        finished=False,
        reason="steps",
        created=1.5,
        objects=dict(objects),
        blobs=dict(blobs),
    )


# -- how tensors are divided ------------------------------------------------------------------------------------------


def round_robin(world: int) -> Divide:
    """Each tensor whole on one rank, one after the other: replicated weights."""
    seen: dict[tuple[str, str], int] = {}
    return lambda owner, key, tensor: [Part(seen.setdefault((owner, key), len(seen)) % world)]


def along(world: int, dimension: int = 0) -> Divide:
    """Shards along one dimension as `torch.chunk` makes them; ranks behind the last hold nothing of it."""

    def divide(_owner: str, _key: str, tensor: Tensor) -> Iterable[Part]:
        if tensor.ndim <= dimension or tensor.numel() == 0:
            return [Part(0)]
        size = tensor.shape[dimension]
        cuts = range(0, size, math.ceil(size / world))
        return tiling(tensor.shape, {dimension: [*cuts, size]}, range(world))

    return divide


def tiling(shape: Sequence[int], cuts: Mapping[int, Sequence[int]], ranks: Sequence[int]) -> list[Part]:
    """The boxes between these cuts of each dimension, one for each of the ranks in turn."""
    boxes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for dimension, size in enumerate(shape):
        bounds = cuts.get(dimension, (0, size))
        boxes = [
            ((*offsets, start), (*sizes, end - start)) for offsets, sizes in boxes for start, end in pairwise(bounds)
        ]
    if len(boxes) == 1:
        return [Part(ranks[0])]
    return [Part(rank, Box(*box)) for rank, box in zip(cycle(ranks), boxes, strict=False)]


def states_of(run: Path, name: CheckpointName) -> list[Path]:
    """The state files of a checkpoint, by rank."""
    folder = run / "checkpoints" / str(name)
    return [folder / state_name(rank) for rank in range(len(list(folder.glob("state.rank*"))))]
