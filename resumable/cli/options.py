"""What several verbs are given: runs, checkpoints of runs, and how storage is reached; knows no verb."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from resumable.run.checkpoint import Checkpoint
from resumable.run.run import Run
from resumable.run.target import parse_target


def _options(text: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(text, dict):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, and brackets without end
        raise typer.BadParameter("JSON that is too long or too deep") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f'expected a JSON object such as {{"anon": true}}, found a {type(value).__name__}')
    return value


RunUrl = Annotated[str, typer.Argument(metavar="RUN", help="A folder or any fsspec URL.", show_default=False)]
Target = Annotated[
    str,
    typer.Argument(
        metavar="RUN[@STEP]", help="A run, or RUN@latest, RUN@best, RUN@finite, RUN@STEP.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
StorageOptions = Annotated[
    Any,
    typer.Option(
        "--storage-options",
        metavar="JSON",
        parser=_options,
        help="Handed to fsspec, as in the config: a JSON object.",
        show_default=False,
    ),
]


def open_run(url: str, storage_options: Mapping[str, Any] | None) -> Run:
    """The run at `url`; a selector is a usage error, because this verb is about the whole run."""
    run_url, selector = parse_target(url)
    if selector is not None:
        raise typer.BadParameter(f"expected a run without @{selector}: this verb is about the whole run")
    return Run(run_url, storage_options=storage_options)


def open_checkpoint(target: str, storage_options: Mapping[str, Any] | None) -> Checkpoint:
    """The checkpoint that `RUN[@latest|@best|@finite|@STEP]` names."""
    url, selector = parse_target(target)
    return Run(url, storage_options=storage_options).select(selector)
