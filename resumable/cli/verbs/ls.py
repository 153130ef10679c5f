"""`resumable ls`: list the checkpoints of a run. Reads manifests only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from resumable.cli.formatting import batch_text, metrics_text
from resumable.cli.options import Json, RunUrl, StorageOptions, open_whole_run
from resumable.cli.terminal import Column, Styled, print_json, print_line, print_table
from resumable.policy.retention import best
from resumable.run.checkpoint import Checkpoint
from resumable.run.run import best_rule, suspects
from resumable.store.layout import CheckpointName
from resumable.utils.events import duration, size

COLUMNS = (
    Column("step", "right"),
    Column("epoch", "right"),
    Column("batch", "right", drop=3),
    Column("metrics", drop=1, wrap=True),
    Column("size", "right", drop=4),
    Column("age", "right", drop=2),
    Column("attempt", "right", drop=5),
    Column("resumed from", drop=6),
    Column(""),
)


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint of the list; the fields are the keys of `--json`."""

    name: str
    step: int
    epoch: int
    position: Mapping[str, object]
    metrics: Mapping[str, float]
    size_bytes: int
    created: float
    age_seconds: float
    attempt: int
    resumed_from: str | None
    reason: str
    flags: list[str]


def ls(run: RunUrl, json: Json = False, storage_options: StorageOptions = "{}") -> None:
    """List the checkpoints of a run, oldest first.

    Rejected checkpoints follow, with the reason. Reads manifests and sizes, not contents: see `verify`. A size counts
    all files of a checkpoint, also those that it shares with others: of a large buffer up to three times its bytes.

    --json: {"run", "checkpoints": [{"name", "step", "epoch", "position", "metrics", "size_bytes", "created",
    "age_seconds", "attempt", "resumed_from", "reason", "flags"}], "rejected": [{"name", "reason"}]}; `flags` are some
    of "latest", "best", "pinned", "suspect" (a metric that was finite before is NaN or infinite) and "finished".
    `resumed_from` is the checkpoint that its attempt resumed from, or null.
    """
    opened = open_whole_run(run, storage_options)
    rejected: dict[str, str] = {}
    checkpoints = opened.checkpoints(rejected.__setitem__)
    if not checkpoints:
        opened.latest()  # raises what is wrong: there is no run, or no readable checkpoint
    rows = _rows(checkpoints, pinned=opened.catalog.pinned(), now=time.time())
    if json:
        rejects = [{"name": name, "reason": reason} for name, reason in rejected.items()]
        print_json({"run": opened.location, "checkpoints": list(map(vars, rows)), "rejected": rejects})
        return
    print_table(COLUMNS, _cells(rows))
    for name, reason in rejected.items():
        print_line(("rejected ", "yellow"), f"{name}: {reason}")


def _rows(checkpoints: Sequence[Checkpoint], *, pinned: Set[CheckpointName], now: float) -> list[CheckpointRow]:
    winner = _best(checkpoints)
    marked = {"pinned": {str(name) for name in pinned}, "suspect": suspects(checkpoints)}
    return [
        CheckpointRow(
            name=checkpoint.name,
            step=checkpoint.step,
            epoch=checkpoint.epoch,
            position=checkpoint.manifest.position,
            metrics=dict(checkpoint.manifest.metrics),
            size_bytes=checkpoint.size_bytes,
            created=checkpoint.manifest.created,
            age_seconds=round(now - checkpoint.manifest.created, 3),
            attempt=checkpoint.manifest.attempt,
            resumed_from=checkpoint.manifest.lineage[-1][1] if checkpoint.manifest.lineage else None,
            reason=checkpoint.manifest.reason,
            flags=_flags(checkpoint, latest=checkpoints[-1], winner=winner, marked=marked),
        )
        for checkpoint in checkpoints
    ]


def _best(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return the checkpoint that @best names, without reading the run again."""
    wanted = best_rule(checkpoints[-1].manifest)
    names = best([checkpoint.candidate(wanted.best_metric) for checkpoint in reversed(checkpoints)], wanted)
    return next((checkpoint for checkpoint in checkpoints if checkpoint.name in names), None)


def _flags(
    checkpoint: Checkpoint, *, latest: Checkpoint, winner: Checkpoint | None, marked: Mapping[str, Set[str]]
) -> list[str]:
    facts = {
        "latest": checkpoint is latest,
        "best": checkpoint is winner,
        **{mark: checkpoint.name in names for mark, names in marked.items()},
        "finished": checkpoint.manifest.finished,
    }
    return [flag for flag, true in facts.items() if true]


def _cells(rows: Sequence[CheckpointRow]) -> list[list[Styled]]:
    cells: list[list[Styled]] = []
    attempt = None
    for row in rows:
        begins = row.attempt != attempt  # only the first checkpoint of an attempt shows what it resumed from
        attempt = row.attempt
        cells.append(
            [
                str(row.step),
                str(row.epoch),
                batch_text(row.position),
                metrics_text(row.metrics),
                size(row.size_bytes),
                duration(max(row.age_seconds, 0)),
                str(attempt),
                _parent(row.resumed_from) if begins else "",
                (" ".join(row.flags), "yellow" if "suspect" in row.flags else "green"),
            ]
        )
    return cells


def _parent(name: str | None) -> str:
    parent = CheckpointName.parse(name) if name else None
    return f"{parent.step} of attempt {parent.attempt}" if parent else ""
