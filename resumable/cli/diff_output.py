"""Print the differences of two checkpoints, as tables or JSON. Compares nothing."""

from __future__ import annotations

from dataclasses import asdict

from resumable.cli.checkpoint_diff import CheckpointDiff, CheckpointDifference
from resumable.cli.terminal import Column, count, print_line, print_table

TENSORS = (
    Column("where", wrap=True),
    Column("tensor", wrap=True, drop=1),
    Column("largest difference", "right"),
    Column("elements that differ", "right"),
)


# What the user sees differ because of a note.
EXPLAINS = {"config.data_seed": ": the order of the data and its augmentation follow from it"}


def diff_document(diff: CheckpointDiff, *, most: int) -> dict[str, object]:
    """Return the stable JSON keys of a diff, with at most `most` differences."""
    return {
        "exact": diff.exact,
        "tensors": diff.tensors,
        "values": diff.values,
        "count": len(diff.differences),
        "differences": [asdict(difference) for difference in diff.differences[:most]],
        "notes": [asdict(note) for note in diff.notes],
    }


def print_diff(diff: CheckpointDiff, *, most: int, names: tuple[str, str] = ("A", "B")) -> None:
    """Print the notes, which may explain the rest, then the first differences, and the verdict in the last line."""
    for note in diff.notes:
        print_line((f"note: {note.path} differs: {note.a} / {note.b}{EXPLAINS.get(note.path, '')}", "dim"))
    value_columns = (Column("where", wrap=True), *(Column(name, wrap=True) for name in names))
    first = diff.differences[:most]
    for columns, rows in (
        (value_columns, [[each.path, each.a, each.b] for each in first if each.elements is None]),
        (TENSORS, [_tensor_row(each) for each in first if each.elements is not None]),
    ):
        if rows:
            print_table(columns, rows)
            print_line("")
    if len(diff.differences) > most:
        print_line((f"... and {len(diff.differences) - most} more (--most)", "dim"))
    if diff.exact:
        print_line(("bit-exact", "bold green"), f": {count(diff.tensors, 'tensor')}, {count(diff.values, 'value')}")
    else:
        print_line((count(len(diff.differences), "difference"), "bold red"))


def _tensor_row(difference: CheckpointDifference) -> list[str]:
    facts = difference.a.rpartition(" #")[0]
    return [difference.path, facts, f"{difference.max_abs:.3g}", f"{difference.elements:,} of {difference.of:,}"]
