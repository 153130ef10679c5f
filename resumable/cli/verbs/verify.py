"""`resumable verify`: check the bytes of checkpoints, or prove an exported model again. Repairs nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from resumable.cli.options import Json, StorageOptions
from resumable.cli.proof_output import prove
from resumable.cli.terminal import Column, Styled, count, print_json, print_line, print_table, spinner
from resumable.errors import CheckpointError, FormatVersionError, NoCheckpointError
from resumable.export.proof.artifact import is_artifact
from resumable.run.checkpoint import Checkpoint
from resumable.run.run import Run
from resumable.run.target import parse_target_or_folder
from resumable.store.catalog import Catalog, Listed, Listing
from resumable.store.layout import CheckpointName
from resumable.utils.events import size
from resumable.weights.proof import PROOF

STYLES = {"ok": "green", "bad": "red", "unfinished": "yellow"}
COLUMNS = (Column("checkpoint"), Column("size", "right", drop=1), Column("verdict"), Column("reason", wrap=True))


@dataclass(frozen=True)
class Verdict:
    """The result for one folder; `unfinished` is a save that never committed: neither a checkpoint nor damage."""

    name: str
    verdict: Literal["ok", "bad", "unfinished"]
    reason: str
    size_bytes: int


def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN[@STEP] | DIR",
            help="RUN (all its checkpoints), RUN@latest, RUN@best, RUN@finite, RUN@STEP or a checkpoint's folder; or "
            "an exported model.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="For exported weights: also run the model that this function builds.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Check checkpoints byte by byte, or prove an exported model again.

    RUN: reads checkpoints and compares the digests of files and tensors; without a selector, every checkpoint of the
    run. Exits with 1 if any is bad. A save that ended before its commit is not a checkpoint, and not bad.

    --json: {"run", "ok", "checkpoints": [{"name", "verdict", "reason", "size_bytes"}]}; `verdict` is "ok", "bad" or
    "unfinished", `reason` may be empty.

    DIR, which `resumable export` made: reads every byte, and runs the program in it, if it is one, on its golden input.
    So verify only programs that you trust. Exits with 1 if it is not, within its tolerance, the model that was trained.

    --json: {"folder", "ok", "grade", "proved", "weights_identical", "difference": {"absolute", "relative"},
    "tolerance", "runtime"}; `grade` was reached here, `proved` when it was exported. On failure {"folder", "ok": false,
    "error", "hint"}.
    """
    if is_artifact(target):
        prove(target, model=model, json=json)
        return
    if model is not None:
        raise typer.BadParameter(f"expected the folder of an exported model, found {target}", param_hint="'--model'")
    url, selector = parse_target_or_folder(target)
    run = Run(url, storage_options=storage_options)
    names, on_line = _selected(run, selector)
    with spinner(f"verifying {count(len(names), 'checkpoint')}"):
        verdicts = [_verify(run.catalog, name, in_history=name in on_line) for name in names]
    bad = sum(verdict.verdict == "bad" for verdict in verdicts)
    if json:
        print_json({"run": run.location, "ok": not bad, "checkpoints": [vars(verdict) for verdict in verdicts]})
    else:
        _print(verdicts, bad=bad)
    if bad:
        raise typer.Exit(1)


def _verify(catalog: Catalog, name: CheckpointName, *, in_history: bool) -> Verdict:
    """Verify one checkpoint; `StorageError` where the storage fails, which is no verdict on it."""
    size_bytes = 0
    try:
        manifest = catalog.manifest(name)
        size_bytes = sum(blob.size for blob in manifest.blobs.values())
        Checkpoint(catalog, name, manifest).verify()
    except NoCheckpointError:
        return Verdict(
            str(name), "unfinished", "no manifest: this save did not finish, which is normal after a kill", 0
        )
    except CheckpointError as error:
        return Verdict(str(name), "bad", error.message, size_bytes)
    reason = "" if in_history else "off the line: from before a rewind, or written late by a displaced attempt"
    return Verdict(str(name), "ok", reason, size_bytes)


def _selected(run: Run, selector: str | None) -> tuple[list[CheckpointName], Collection[CheckpointName]]:
    """Return the names of the selected checkpoints, oldest first, and those of them that are in the run's history."""
    if selector in ("latest", "best", "finite"):
        found = [_named(run, selector)]
        return found, found
    listing = Listing(run.catalog.names())
    names = sorted(listing.names, key=lambda name: name.order)
    if not names:
        _refuse_empty(run)
    if selector is None:
        return names, _on_line(names, run.catalog.history)
    # Not by run.select, which finds only readable checkpoints: this verb is about the others, too.
    found = [name for name in names if str(name) == selector or str(name.step) == selector.lstrip("0").zfill(1)]
    if not found:
        raise NoCheckpointError(
            f"{run.location}: no checkpoint {selector}", f"`resumable ls {run.location}` lists them"
        )
    return found, _on_line(found, lambda: run.catalog.line(wanted=found.__contains__, listing=listing))


def _named(run: Run, selector: str) -> CheckpointName:
    try:
        name = CheckpointName.parse(run.select(selector).name)
    except NoCheckpointError:
        if not run.catalog.names():
            _refuse_empty(run)
        raise
    assert name is not None
    return name


def _on_line(names: Collection[CheckpointName], read: Callable[[], Iterable[Listed]]) -> Collection[CheckpointName]:
    try:
        return {name for name, _ in read()}
    except FormatVersionError:
        return names  # only the newer version can tell; its checkpoints are reported


def _refuse_empty(run: Run) -> None:
    """Raise what is wrong with a location without checkpoints. A folder of files may be an export without its proof."""
    try:
        run.latest()
    except NoCheckpointError as error:
        if "://" in run.url or not any(path.is_file() for path in Path(run.url).expanduser().glob("*")):
            raise
        hint = f"{error.hint} An exported model is proved only beside its {PROOF}."
        raise NoCheckpointError(error.message, hint) from error


def _print(verdicts: Sequence[Verdict], *, bad: int) -> None:
    rows: list[list[Styled]] = [
        [each.name, size(each.size_bytes), (each.verdict, STYLES[each.verdict]), each.reason] for each in verdicts
    ]
    print_table(COLUMNS, rows)
    checked = sum(verdict.verdict != "unfinished" for verdict in verdicts)
    if bad:
        print_line((f"bad: {bad} of {count(checked, 'checkpoint')}", "bold red"))
    else:
        print_line((f"{count(checked, 'checkpoint')}, every byte as it was written", "green"))
