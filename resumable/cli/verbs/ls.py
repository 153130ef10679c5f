"""`resumable ls`: the checkpoints of a run, oldest first; reads manifests only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from typing import Any

from resumable.cli.options import Json, RunUrl, StorageOptions, open_run
from resumable.cli.terminal import Column, Styled, print_json, print_table, say
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


def ls(run: RunUrl, json: Json = False, storage_options: StorageOptions = "{}") -> None:
    """List checkpoints, oldest first.

    And below them those that were rejected, with the reason.

    Manifests and sizes are looked at, contents are not: see `verify`.

    --json: {"run", "checkpoints": [{"name", "step", "epoch", "position", "metrics", "size_bytes", "created",
    "age_seconds", "attempt", "resumed_from", "reason", "flags"}], "rejected": [{"name", "reason"}]}; `flags` are among
    "latest", "best", "pinned", "suspect" (a metric that was finite before is NaN or infinite) and "finished";
    `resumed_from` is what the attempt that wrote it resumed from, or null.
    """
    opened = open_run(run, storage_options)
    rejected: dict[str, str] = {}
    checkpoints = opened.checkpoints(rejected.__setitem__)
    if not checkpoints:
        opened.latest()  # says what is wrong: no run, or none that can be read
    rows = describe(checkpoints, pinned=opened.catalog.pinned(), now=time.time())
    if json:
        rejects = [{"name": name, "reason": reason} for name, reason in rejected.items()]
        print_json({"run": opened.location, "checkpoints": rows, "rejected": rejects})
        return
    print_table(COLUMNS, _cells(rows))
    for name, reason in rejected.items():
        say(("rejected ", "yellow"), f"{name}: {reason}")


def describe(checkpoints: Sequence[Checkpoint], *, pinned: Set[CheckpointName], now: float) -> list[dict[str, Any]]:
    """What there is to say about each checkpoint, given the whole history, oldest first."""
    winner = best_of(checkpoints)
    marked = {"pinned": {str(name) for name in pinned}, "suspect": suspects(checkpoints)}
    return [
        {
            "name": checkpoint.name,
            "step": checkpoint.step,
            "epoch": checkpoint.epoch,
            "position": checkpoint.manifest.position,
            "metrics": dict(checkpoint.manifest.metrics),
            "size_bytes": checkpoint.size_bytes,
            "created": checkpoint.manifest.created,
            "age_seconds": round(now - checkpoint.manifest.created, 3),
            "attempt": checkpoint.manifest.attempt,
            "resumed_from": checkpoint.manifest.lineage[-1][1] if checkpoint.manifest.lineage else None,
            "reason": checkpoint.manifest.reason,
            "flags": _flags(checkpoint, latest=checkpoints[-1], winner=winner, marked=marked),
        }
        for checkpoint in checkpoints
    ]


def best_of(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The one that @best names, found in the history at hand instead of by reading it once more."""
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


def _cells(rows: Sequence[dict[str, Any]]) -> list[list[Styled]]:
    cells: list[list[Styled]] = []
    attempt = None
    for row in rows:
        begins = row["attempt"] != attempt  # where an attempt started is said once, at its first checkpoint
        attempt = row["attempt"]
        cells.append(
            [
                str(row["step"]),
                str(row["epoch"]),
                batch(row["position"]),
                metrics(row["metrics"]),
                size(row["size_bytes"]),
                duration(max(row["age_seconds"], 0)),
                str(attempt),
                _parent(row["resumed_from"]) if begins else "",
                (" ".join(row["flags"]), "yellow" if "suspect" in row["flags"] else "green"),
            ]
        )
    return cells


def _parent(name: str | None) -> str:
    parent = CheckpointName.parse(name) if name else None
    return f"{parent.step} of attempt {parent.attempt}" if parent else ""


def batch(position: dict[str, Any]) -> str:
    """`417/1800` inside an epoch, nothing between two."""
    if position.get("batch") is None:
        return ""
    length = position.get("length")
    return f"{position['batch']}/{'?' if length is None else length}"


def metrics(values: dict[str, float], *, digits: int = 4) -> str:
    """`loss=0.02890 accuracy=0.9832`."""
    return " ".join(f"{name}={value:.{digits}g}" for name, value in values.items())
