"""`resumable verify`: whether checkpoints, or an exported model, are what was written; repairs nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from resumable.cli.options import Json, StorageOptions
from resumable.cli.proof_output import prove
from resumable.cli.terminal import Column, Styled, count, meanwhile, print_json, print_table, say
from resumable.errors import CheckpointError, FormatVersionError, NoCheckpointError
from resumable.export.proof.artifact import is_artifact
from resumable.run.run import Run
from resumable.run.target import parse_target
from resumable.run.verification import verify as verify_checkpoint
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.utils.events import size

STYLES = {"ok": "green", "bad": "red", "unfinished": "yellow"}
COLUMNS = (Column("checkpoint"), Column("size", "right", drop=1), Column("verdict"), Column("reason", wrap=True))


@dataclass(frozen=True)
class Verdict:
    """What was found out about one folder; `unfinished` is a save that never committed: no checkpoint, no damage."""

    name: str
    verdict: Literal["ok", "bad", "unfinished"]
    reason: str
    size_bytes: int


def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN[@STEP] | DIR",
            help="A run, RUN@latest, RUN@best, RUN@finite or RUN@STEP; or the folder of an exported model.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Of an export of weights: also run the model that this function builds.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Read checkpoints and compare digests, of files and of tensors, or prove an exported model again here.

    Of a run without a selector, every checkpoint. Exits with 1 if any is bad. A save that was cut short before
    its commit is no checkpoint, and not bad.

    --json: {"run", "ok", "checkpoints": [{"name", "verdict", "reason", "size_bytes"}]}; `verdict` is "ok", "bad" or
    "unfinished", `reason` is empty where there is nothing to say.

    The folder that `resumable export` made: every byte is read, and the program in it is run on its golden input, so
    trust whoever made it. Exits with 1 where it is not, within its tolerance, what was trained.

    --json then: {"folder", "ok", "grade", "proved", "weights_identical", "difference": {"absolute", "relative"},
    "tolerance", "runtime"}; `grade` is what was found here, `proved` what the proof says. Or {"folder", "ok": false,
    "error", "hint"}.
    """
    if is_artifact(target):
        prove(target, model=model, json=json)
        return
    if model is not None:
        raise typer.BadParameter(f"--model is for the folder of an exported model, and {target} is none")
    url, selector = parse_target(target)
    run = Run(url, storage_options=storage_options)
    names = _selected(run, selector)
    with meanwhile(f"verifying {count(len(names), 'checkpoint')}"):
        verdicts = judge(run.catalog, names)
    bad = sum(verdict.verdict == "bad" for verdict in verdicts)
    if json:
        print_json({"run": run.location, "ok": not bad, "checkpoints": [vars(verdict) for verdict in verdicts]})
    else:
        _print(verdicts, bad=bad)
    if bad:
        raise typer.Exit(1)


def judge(catalog: Catalog, names: Collection[CheckpointName]) -> list[Verdict]:
    """A verdict on each of `names`; `StorageError` where the storage fails: that says nothing about a checkpoint."""
    try:
        history = {name for name, _ in catalog.history()}
    except FormatVersionError:
        history = set(names)  # what a newer version wrote is told as such below; what lies on which line, it knows
    return [_judge(catalog, name, in_history=name in history) for name in names]


def _judge(catalog: Catalog, name: CheckpointName, *, in_history: bool) -> Verdict:
    size_bytes = 0
    try:
        manifest = catalog.manifest(name)
        size_bytes = sum(blob.size for blob in manifest.blobs.values())
        verify_checkpoint(catalog, manifest, name)
    except NoCheckpointError:
        return Verdict(str(name), "unfinished", "no manifest: this save never finished", 0)
    except CheckpointError as error:
        return Verdict(str(name), "bad", error.message, size_bytes)
    reason = "" if in_history else "written late by a displaced attempt: never resumed from"
    return Verdict(str(name), "ok", reason, size_bytes)


def _selected(run: Run, selector: str | None) -> list[CheckpointName]:
    names = sorted(run.catalog.names(), key=lambda name: name.order)
    if not names:
        run.latest()  # says what is wrong
    if selector is None:
        return names
    if selector in ("latest", "best", "finite"):
        wanted = run.select(selector).name
        return [name for name in names if str(name) == wanted]
    # Not by run.select: it finds what can be read, and here the others are asked about.
    found = [name for name in names if str(name) == selector or str(name.step) == selector.lstrip("0").zfill(1)]
    if not found:
        raise NoCheckpointError(
            f"{run.location}: no checkpoint {selector}", f"`resumable ls {run.location}` lists them"
        )
    return found


def _print(verdicts: Sequence[Verdict], *, bad: int) -> None:
    rows: list[list[Styled]] = [
        [each.name, size(each.size_bytes), (each.verdict, STYLES[each.verdict]), each.reason] for each in verdicts
    ]
    print_table(COLUMNS, rows)
    checked = sum(verdict.verdict != "unfinished" for verdict in verdicts)
    if bad:
        say((f"bad: {bad} of {count(checked, 'checkpoint')}", "bold red"))
    else:
        say((f"{count(checked, 'checkpoint')}, every byte as it was written", "green"))
