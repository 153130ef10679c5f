"""The arguments and options that several verbs share, and how they open a run or checkpoint. Independent of verbs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from resumable.cli.terminal import print_line
from resumable.run.checkpoint import Checkpoint
from resumable.run.run import Run
from resumable.run.target import parse_target_or_folder
from resumable.store.layout import CheckpointName
from resumable.version import __version__


def _parse_options(text: str | dict[str, object]) -> dict[str, object]:
    if isinstance(text, dict):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"expected JSON: {error}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, and brackets without end
        raise typer.BadParameter("this JSON is too long or too deep") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f'expected a JSON object such as {{"anon": true}}, found a {type(value).__name__}')
    return value


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"resumable {__version__}")
        raise typer.Exit()


def without_verb(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Accept the options that stand before any verb, or in the place of one."""


RunUrl = Annotated[str, typer.Argument(metavar="RUN", help="A folder or any fsspec URL.", show_default=False)]
Target = Annotated[
    str,
    typer.Argument(
        metavar="RUN[@STEP]",
        help="RUN (its latest), RUN@latest, RUN@best, RUN@finite, RUN@STEP or a checkpoint's folder.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
StorageOptions = Annotated[
    Any,
    typer.Option(
        "--storage-options",
        metavar="JSON",
        parser=_parse_options,
        help="A JSON object that is passed to fsspec, as in the config.",
        show_default=False,
    ),
]
NextEpoch = Annotated[
    bool, typer.Option("--next-epoch", help="Drop the rest of the epoch in progress, so that the next one begins.")
]
OptionalStorageOptions = Annotated[
    Any,
    typer.Option(
        "--new-storage-options",
        metavar="JSON",
        parser=_parse_options,
        help="The same for NEW_RUN; by default that of RUN.",
        show_default=False,
    ),
]


def open_whole_run(url: str, storage_options: Mapping[str, object] | None) -> Run:
    """Open the run at `url`; a selector is a usage error, because the verb is about the whole run."""
    run_url, selector = parse_target_or_folder(url)
    if selector is not None:
        raise typer.BadParameter(
            f"expected a run without @{selector}: this verb is about the whole run", param_hint="'RUN'"
        )
    return Run(run_url, storage_options=storage_options)


def open_checkpoint(target: str, storage_options: Mapping[str, object] | None) -> Checkpoint:
    """Open the checkpoint that `RUN[@latest|@best|@finite|@STEP]` names."""
    [checkpoint] = open_checkpoints([target], storage_options)
    return checkpoint


def open_at(target: str, storage_options: Mapping[str, object] | None) -> tuple[Run, Checkpoint]:
    """Open a run and one of its checkpoints; a full name may be of one that is off the line."""
    url, selector = parse_target_or_folder(target)
    run = Run(url, storage_options=storage_options)
    name = CheckpointName.parse(selector or "")
    return run, run.select(selector) if name is None else run.folder(name)


def open_checkpoints(targets: Sequence[str], storage_options: Mapping[str, object] | None) -> list[Checkpoint]:
    """Open several checkpoints as `open_checkpoint`; of one run nothing is read twice."""
    parsed = [parse_target_or_folder(target) for target in targets]
    runs = {url: Run(url, storage_options=storage_options) for url in dict.fromkeys(url for url, _ in parsed)}
    return [runs[url].select(selector) for url, selector in parsed]
