"""`resumable diff`: whether two checkpoints hold the same bits, and where they differ; knows no storage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resumable.cli import document_diff
from resumable.cli.document_diff import ABSENT, Unequal
from resumable.cli.options import Json, StorageOptions, open_checkpoint
from resumable.cli.terminal import Column, count, print_json, print_table, say
from resumable.run.checkpoint import GRADIENTS, Checkpoint, is_golden
from resumable.store.manifest import ObjectRecord, TensorRecord
from resumable.utils.location import location

if TYPE_CHECKING:
    import torch

TENSORS = (
    Column("where", wrap=True),
    Column("tensor", wrap=True, drop=1),
    Column("largest difference", "right"),
    Column("elements that differ", "right"),
)


@dataclass(frozen=True)
class Difference:
    """One place where two checkpoints differ, and what stands there in each.

    For tensors of equal shape: `max_abs`, the largest absolute difference (NaN where one of the two is), and
    `elements`, how many of the `of` elements differ in a bit.
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
class Comparison:
    """What was found, and how much was looked at."""

    differences: list[Difference]
    tensors: int
    values: int
    notes: list[Unequal] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return not self.differences


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="One checkpoint.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other.", show_default=False)],
    most: Annotated[int, typer.Option(min=0, metavar="N", help="Show at most N differences.")] = 20,
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Compare two checkpoints bit by bit.

    A and B are RUN[@latest|@best|@finite|@STEP]. Compared are objects, random number generators, position, metrics,
    and whether they are finished: tensors by dtype, shape, memory format and digest, and only where they differ are
    they read.
    Not compared, because it says who wrote a checkpoint and not what it holds: run id, attempt, lineage, time, reason,
    folder, host; nor a golden input, whose outputs follow from the model. Config, versions and environment are no state
    either; where they differ that is noted. Exits with 1 on a difference.

    --json: {"a", "b", "exact", "tensors", "values", "count", "differences": [{"path", "a", "b", "max_abs",
    "elements", "of"}], "notes": [{"path", "a", "b"}]}; at most N `differences`, `count` of them in all; `max_abs`,
    `elements` and `of` are null where there are no two tensors of one shape.
    """
    left, right = open_checkpoint(a, storage_options), open_checkpoint(b, storage_options)
    result = examine(left, right)
    if json:
        print_json({"a": left.name, "b": right.name, **as_json(result, most=most)})
    else:
        _print_names(a, left, b, right)
        print_result(result, most=most)
    if not result.exact:
        raise typer.Exit(1)


def compare(a: Checkpoint, b: Checkpoint) -> list[Difference]:
    """Every difference in state between two checkpoints; empty where they are bit-exact. Reads both state files.

    Raises `CorruptCheckpointError` where what has to be read is not what was written.
    """
    return examine(a, b).differences


def examine(a: Checkpoint, b: Checkpoint) -> Comparison:
    """As `compare`, and how many tensors and values were compared, and which circumstances differ."""
    differences = [
        *map(_plain, _progress(a, b)),
        *_objects(a, b),
        *map(_plain, _rng(a, b)),
        *map(_plain, _position(a, b)),
    ]
    tensors = sum(len(record.tensors) for name, record in _compared(a).items() if name != GRADIENTS)
    return Comparison(differences, tensors, _count_values(a), list(_circumstances(a, b)))


def as_json(result: Comparison, *, most: int) -> dict[str, Any]:
    """The stable keys that programs read."""
    return {
        "exact": result.exact,
        "tensors": result.tensors,
        "values": result.values,
        "count": len(result.differences),
        "differences": [asdict(difference) for difference in result.differences[:most]],
        "notes": [asdict(note) for note in result.notes],
    }


# ---- comparing


def _plain(unequal: Unequal) -> Difference:
    return Difference(unequal.path, unequal.a, unequal.b)


def _progress(a: Checkpoint, b: Checkpoint) -> Iterator[Unequal]:
    for name in ("step", "epoch", "finished"):
        yield from document_diff.unequal(getattr(a.manifest, name), getattr(b.manifest, name), name)
    left, right = ({k: repr(v) for k, v in c.manifest.metrics.items()} for c in (a, b))
    for name in [*left, *(right.keys() - left.keys())]:
        if left.get(name) != right.get(name):
            yield Unequal(f"metrics.{name}", left.get(name, ABSENT), right.get(name, ABSENT))


def _objects(a: Checkpoint, b: Checkpoint) -> Iterator[Difference]:
    left, right = _compared(a), _compared(b)
    for name in [*left, *(name for name in right if name not in left)]:
        if name not in left or name not in right:
            if name != GRADIENTS:
                yield Difference(name, _type(left.get(name)), _type(right.get(name)))
            continue
        if left[name].kind != right[name].kind or left[name].type != right[name].type:
            yield Difference(f"{name} (type)", left[name].type, right[name].type)
        yield from _tensors(a, b, name)
        yield from map(_plain, document_diff.unequal(_document(a, name), _document(b, name), name))


def _compared(checkpoint: Checkpoint) -> dict[str, ObjectRecord]:
    """All objects but a golden input, which is no state: its outputs follow from the model."""
    return {name: record for name, record in checkpoint.manifest.objects.items() if not is_golden(name, record)}


def _type(record: ObjectRecord | None) -> str:
    return record.type if record else ABSENT


def _document(checkpoint: Checkpoint, name: str) -> Any:
    document = checkpoint.document["objects"][name]
    if checkpoint.manifest.objects[name].type == "lightning.Trainer" and isinstance(document, dict):
        document = {part: held for part, held in document.items() if part != "beside"}  # where others keep their files
    # Whether the .grads themselves are stored depends on why a checkpoint was taken, not on where the training stands.
    return {"present": document["present"]} if name == GRADIENTS and "present" in document else document


def _tensors(a: Checkpoint, b: Checkpoint, name: str) -> Iterator[Difference]:
    left, right = a.manifest.objects[name], b.manifest.objects[name]
    keys = [*left.tensors, *(key for key in right.tensors if key not in left.tensors)]
    if name == GRADIENTS:
        keys = [key for key in left.tensors if key in right.tensors]
    measure = _Measure(a, b, name)
    for key in keys:
        x, y = left.tensors.get(key), right.tensors.get(key)
        if x is None or y is None or _sort(x) != _sort(y):
            yield Difference(f"{name}.{key}", _sort(x), _sort(y))
        elif x.digest != y.digest:
            yield measure.difference(key, x, y)


def _sort(record: TensorRecord | None) -> str:
    if record is None:
        return ABSENT
    format_ = f" strides {record.strides}" if record.strides is not None else ""
    return f"{record.dtype} {record.shape}{format_}"


class _Measure:
    """Reads the tensors of one object from both checkpoints when the first two differ, and says by how much."""

    def __init__(self, a: Checkpoint, b: Checkpoint, name: str) -> None:
        self._sides = (a, b)
        self._name = name
        self._loaded: tuple[Mapping[str, torch.Tensor], ...] = ()

    def difference(self, key: str, x: TensorRecord, y: TensorRecord) -> Difference:
        if not self._loaded:
            self._loaded = tuple(side.tensors(self._name) for side in self._sides)
        left, right = (tensors[key] for tensors in self._loaded)
        max_abs, elements = _distance(left, right)
        shown_a, shown_b = (f"{_sort(record)} #{record.digest[:8]}" for record in (x, y))
        return Difference(f"{self._name}.{key}", shown_a, shown_b, max_abs, elements, math.prod(x.shape))


def _distance(a: torch.Tensor, b: torch.Tensor) -> tuple[float, int]:
    """The largest absolute difference, and how many elements differ in a bit."""
    import torch

    a, b = a.contiguous().reshape(-1), b.contiguous().reshape(-1)
    bits_a, bits_b = (tensor.view(torch.uint8).reshape(len(tensor), -1) for tensor in (a, b))
    differs = (bits_a != bits_b).any(1)
    wide = torch.complex128 if a.is_complex() else torch.float64
    largest = (a[differs].to(wide) - b[differs].to(wide)).abs().max()
    return float(largest), int(differs.sum())


def _rng(a: Checkpoint, b: Checkpoint) -> Iterator[Unequal]:
    # A stream is in another state or it is not: which of its 624 words differ says nothing to anybody.
    left, right = a.document.get("rng", {}), b.document.get("rng", {})
    for name in sorted(left.keys() | right.keys()):
        states = [_mark(side[name]) if name in side else ABSENT for side in (left, right)]
        if states[0] != states[1]:
            yield Unequal(f"rng.{name}", *states)


def _mark(state: Any) -> str:
    return document_diff.shown({"$state": state})


def _position(a: Checkpoint, b: Checkpoint) -> Iterator[Unequal]:
    told = ("step", "epoch", "finished", "metrics")
    left, right = (
        {key: value for key, value in side.document.get("position", {}).items() if key not in told} for side in (a, b)
    )
    return document_diff.unequal(left, right, "position")


def _count_values(checkpoint: Checkpoint) -> int:
    document = checkpoint.document
    objects = sum(document_diff.values(document["objects"][name]) for name in _compared(checkpoint))
    return objects + len(document.get("rng", {})) + document_diff.values(document.get("position", {}))


def _circumstances(a: Checkpoint, b: Checkpoint) -> Iterator[Unequal]:
    """What is no state, but explains differences in it; where a run lies and on which folder is nobody's business."""
    for part, ignored in (("config", ("run", "storage_options")), ("versions", ()), ("environment", ("folder",))):
        left, right = ({k: v for k, v in getattr(side.manifest, part).items() if k not in ignored} for side in (a, b))
        yield from document_diff.unequal(left, right, part)


# ---- printing


def _print_names(a: str, left: Checkpoint, b: str, right: Checkpoint) -> None:
    for letter, target, checkpoint in (("A", a, left), ("B", b, right)):
        say((f"{letter}  ", "bold"), f"{location(target)}  ", (checkpoint.name, "dim"))


def print_result(result: Comparison, *, most: int, names: tuple[str, str] = ("A", "B")) -> None:
    """The first differences, what else is worth knowing, and the verdict in the last line."""
    value_columns = (Column("where", wrap=True), *(Column(name, wrap=True) for name in names))
    first = result.differences[:most]
    for columns, rows in (
        (value_columns, [[each.path, each.a, each.b] for each in first if each.elements is None]),
        (TENSORS, [_tensor_row(each) for each in first if each.elements is not None]),
    ):
        if rows:
            print_table(columns, rows)
            say("")
    if len(result.differences) > most:
        say((f"... and {len(result.differences) - most} more (--most)", "dim"))
    for note in result.notes:
        say((f"note: {note.path} differs: {note.a} / {note.b}", "dim"))
    if result.exact:
        say(("bit-exact", "bold green"), f": {count(result.tensors, 'tensor')}, {count(result.values, 'value')}")
    else:
        say((count(len(result.differences), "difference"), "bold red"))


def _tensor_row(difference: Difference) -> list[str]:
    sort = difference.a.rpartition(" #")[0]
    return [difference.path, sort, f"{difference.max_abs:.3g}", f"{difference.elements:,} of {difference.of:,}"]
