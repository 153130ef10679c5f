"""`resumable prune`: retention by hand; decides nothing itself and deletes only what the format wrote."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError

from resumable import prune as pruning
from resumable.cli.options import Json, RunUrl, StorageOptions, open_run
from resumable.cli.terminal import print_json, say
from resumable.config import Keep
from resumable.errors import CheckpointError, ConfigError
from resumable.events import size
from resumable.prune import Plan
from resumable.retention import Rule
from resumable.run import Run
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.storage import open_storage


def prune(
    run: RunUrl,
    keep_last: Annotated[int | None, typer.Option(min=1, help="Keep this many of the newest.")] = None,
    keep_every: Annotated[
        int | None, typer.Option(min=1, metavar="STEPS", help="And the first at or after each multiple of STEPS.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Delete checkpoints that need not stay; by default those that the run's own config (`keep`) does not keep.

    The options replace the values of that config one by one, so its best checkpoints stay. Refused while a job on
    this machine uses the run. Damaged and unfinished folders of earlier attempts go once enough newer checkpoints exist.

    --json: {"run", "dry_run", "kept": [name], "deleted": [{"name", "size_bytes"}], "freed_bytes"}, newest first.
    """
    opened = open_run(run, storage_options)
    rule = _rule(opened, keep_last=keep_last, keep_every=keep_every)
    storage = open_storage(opened.url, storage_options)
    ...
