"""Compare the state in two checkpoints bit by bit. Prints nothing, and is independent of the storage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resumable.cli.document_diff import ABSENT, ValueDifference, count_values, document_differences, value_text
from resumable.cli.rank_diff import SHARED, rank_differences
from resumable.run.checkpoint import Checkpoint
from resumable.run.reserved_objects import GRADIENTS, is_golden
from resumable.state.tensors.inline_records import InlineRecords
from resumable.state.tensors.records import TensorRecord
from resumable.store.documents.manifest import ObjectRecord

if TYPE_CHECKING:
    import torch


_Sides = tuple[Checkpoint, Checkpoint]
_Inline = tuple[InlineRecords, InlineRecords]


@dataclass(frozen=True)
class CheckpointDifference:
    """One path at which two checkpoints differ, and its text in each.

    For tensors of equal shape: `max_abs` is the largest absolute difference (NaN where one of the two is), and
    `elements` counts how many of the `of` elements differ in a bit.
    """

    path: str
    a: str
    b: str
    max_abs: float | None = None
    elements: int | None = None
    of: int | None = None

    def __str__(self) -> str:
        if self.elements is None:
            return f"{self.path}: {self.a} / {self.b}"
        return f"{self.path}: {self.elements} of {self.of} elements differ, by up to {self.max_abs:.3g}"


@dataclass(frozen=True)
class CheckpointDiff:
    """All differences, how many tensors and values were compared, and what differs beside the state."""

    differences: list[CheckpointDifference]
    tensors: int
    values: int
    notes: list[ValueDifference] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return not self.differences


def compare(a: Checkpoint, b: Checkpoint) -> list[CheckpointDifference]:
    """Return every difference in state between two checkpoints, none if they are bit-exact. Reads both state files.

    Raises `CorruptCheckpointError` where a file that has to be read is damaged.
    """
    return diff_checkpoints(a, b).differences


def diff_checkpoints(a: Checkpoint, b: Checkpoint) -> CheckpointDiff:
    """Compare as `compare`, and count tensors and values, and note other configs, versions and environments."""
    differences = [
        *map(_plain, _progress(a, b)),
        *_objects(a, b),
        *map(_plain, _rng(a, b)),
        *map(_plain, _position(a, b)),
        *map(_plain, rank_differences(a, b)),
    ]
    inline = {name: a.inline_records(name) for name in _state_objects(a)}
    tensors = sum(len(a.records[name]) + len(inline[name].records) for name in inline if name != GRADIENTS)
    values = _count_values(a, [each.document for each in inline.values()])
    return CheckpointDiff(differences, tensors, values, list(_circumstances(a, b)))


def _plain(difference: ValueDifference) -> CheckpointDifference:
    return CheckpointDifference(difference.path, difference.a, difference.b)


def _progress(a: Checkpoint, b: Checkpoint) -> Iterator[ValueDifference]:
    for name in ("step", "epoch", "finished"):
        yield from document_differences(getattr(a.manifest, name), getattr(b.manifest, name), name)
    left, right = ({k: repr(v) for k, v in c.manifest.metrics.items()} for c in (a, b))
    for name in [*left, *(right.keys() - left.keys())]:
        if left.get(name) != right.get(name):
            yield ValueDifference(f"metrics.{name}", left.get(name, ABSENT), right.get(name, ABSENT))


def _objects(a: Checkpoint, b: Checkpoint) -> Iterator[CheckpointDifference]:
    left, right = _state_objects(a), _state_objects(b)
    for name in [*left, *(name for name in right if name not in left)]:
        if name not in left or name not in right:
            if name != GRADIENTS:
                yield CheckpointDifference(name, _type(left.get(name)), _type(right.get(name)))
            continue
        if left[name].kind != right[name].kind or left[name].type != right[name].type:
            yield CheckpointDifference(f"{name} (type)", left[name].type, right[name].type)
        inline = a.inline_records(name), b.inline_records(name)
        yield from _tensors((a, b), inline, name)
        left_document, right_document = map(_document, (a, b), (name, name), inline)
        yield from map(_plain, document_differences(left_document, right_document, name))


def _state_objects(checkpoint: Checkpoint) -> dict[str, ObjectRecord]:
    """Return all objects except a golden input, which is not state: its outputs follow from the model."""
    return {name: record for name, record in checkpoint.manifest.objects.items() if not is_golden(name, record)}


def _type(record: ObjectRecord | None) -> str:
    return record.type if record else ABSENT


def _document(checkpoint: Checkpoint, name: str, inline: InlineRecords) -> object:
    document = inline.document
    framework = checkpoint.manifest.objects[name].type
    if framework in ("lightning.Trainer", "transformers.Trainer") and isinstance(document, dict):
        document = {part: held for part, held in document.items() if part != "beside"}  # paths of callbacks' own files
    if framework == "transformers.Trainer":
        document = _timeless(document)
    # Whether the .grads themselves are stored depends on the reason of the save, not on the state of the training.
    return {"present": document["present"]} if name == GRADIENTS and "present" in document else document


def _timeless(document: Any) -> Any:
    """Return a document without how long things took, which the log of Hugging Face records."""
    if isinstance(document, dict):
        return {key: _timeless(held) for key, held in document.items() if not key.endswith(("_runtime", "_per_second"))}
    return [_timeless(held) for held in document] if isinstance(document, list) else document


def _tensors(sides: _Sides, inline: _Inline, name: str) -> Iterator[CheckpointDifference]:
    left, right = ({**side.records[name], **each.records} for side, each in zip(sides, inline, strict=True))
    keys = [*left, *(key for key in right if key not in left)]
    if name == GRADIENTS:
        keys = [key for key in left if key in right]
    measure = _TensorDiff(sides, inline, name)
    for key in keys:
        x, y = left.get(key), right.get(key)
        if x is None or y is None or _facts(x) != _facts(y):
            yield CheckpointDifference(f"{name}.{key}", _facts(x), _facts(y))
        elif x.digest != y.digest and (x.boxes == y.boxes or not measure.are_equal(key)):
            yield measure.difference(key, x, y)


def _facts(record: TensorRecord | None) -> str:
    if record is None:
        return ABSENT
    format_ = f" strides {list(record.strides)}" if record.strides is not None else ""
    return f"{record.dtype} {list(record.shape)}{format_}"


class _TensorDiff:
    """Measures how far tensors of one object differ; reads them from both checkpoints at the first difference."""

    def __init__(self, sides: _Sides, inline: _Inline, name: str) -> None:
        self._sides = sides
        self._inline = inline
        self._name = name
        self._loaded: tuple[Mapping[str, torch.Tensor], ...] = ()

    def difference(self, key: str, x: TensorRecord, y: TensorRecord) -> CheckpointDifference:
        max_abs, elements = _distance(*self._pair(key))
        text_a, text_b = (f"{_facts(record)} #{record.digest[:8]}" for record in (x, y))
        return CheckpointDifference(f"{self._name}.{key}", text_a, text_b, max_abs, elements, math.prod(x.shape))

    def are_equal(self, key: str) -> bool:
        """Return whether the tensors have the same bits; for tensors that were digested in different pieces."""
        a, b = (tensor.contiguous().reshape(-1) for tensor in self._pair(key))
        return not _bits_differ(a, b).any()

    def _pair(self, key: str) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._loaded:
            self._loaded = tuple(map(self._load, self._sides, self._inline))
        left, right = (tensors[key] for tensors in self._loaded)
        return left, right

    def _load(self, side: Checkpoint, inline: InlineRecords) -> dict[str, torch.Tensor]:
        from resumable.state.codec import decode

        here: Any = {key: decode(node, {}) for key, node in inline.nodes.items()}
        return {**side.tensors(self._name), **here}


def _bits_differ(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return, for each element of two flat tensors, whether they differ in a bit."""
    import torch

    bits_a, bits_b = (tensor.view(torch.uint8).reshape(len(tensor), -1) for tensor in (a, b))
    return (bits_a != bits_b).any(1)


def _distance(a: torch.Tensor, b: torch.Tensor) -> tuple[float, int]:
    """Return the largest absolute difference, and the number of elements that differ in a bit."""
    import torch

    a, b = a.contiguous().reshape(-1), b.contiguous().reshape(-1)
    differs = _bits_differ(a, b)
    wide = torch.complex128 if a.is_complex() else torch.float64
    largest = (a[differs].to(wide) - b[differs].to(wide)).abs().max()
    return float(largest), int(differs.sum())


def _rng(a: Checkpoint, b: Checkpoint) -> Iterator[ValueDifference]:
    # One difference per stream: which of its 624 words differ means nothing to a user.
    left, right = a.document.get("rng", {}), b.document.get("rng", {})
    for name in sorted(left.keys() | right.keys()):
        states = [value_text({"$state": side[name]}) if name in side else ABSENT for side in (left, right)]
        if states[0] != states[1]:
            yield ValueDifference(f"rng.{name}", *states)


def _position(a: Checkpoint, b: Checkpoint) -> Iterator[ValueDifference]:
    left, right = (
        {key: value for key, value in side.document.get("position", {}).items() if key not in SHARED} for side in (a, b)
    )
    return document_differences(left, right, "position")


def _count_values(checkpoint: Checkpoint, objects: Iterable[object]) -> int:
    document = checkpoint.document
    return sum(map(count_values, objects)) + len(document.get("rng", {})) + count_values(document.get("position", {}))


def _circumstances(a: Checkpoint, b: Checkpoint) -> Iterator[ValueDifference]:
    """Yield what is not state but may explain a difference in it, without the places of run and folder."""
    yield from document_differences(a.manifest.world, b.manifest.world, "world")
    for part, ignored in (("config", ("run", "storage_options")), ("versions", ()), ("environment", ("folder",))):
        left, right = ({k: v for k, v in getattr(side.manifest, part).items() if k not in ignored} for side in (a, b))
        yield from document_differences(left, right, part)
