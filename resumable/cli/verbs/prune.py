"""`resumable prune`: apply retention by hand. Deletes only files of the format."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError

from resumable.checkpointing import prune as pruning
from resumable.checkpointing.prune import PrunePlan
from resumable.cli.options import Json, RunUrl, StorageOptions, open_whole_run
from resumable.cli.terminal import print_json, print_line
from resumable.config.sections import Keep
from resumable.errors import CheckpointError, CorruptCheckpointError
from resumable.policy.retention import Rule
from resumable.run.checkpoint import Checkpoint
from resumable.run.run import Run
from resumable.store.attempts import Attempt, lock_run, read_attempt
from resumable.store.catalog import Catalog
from resumable.store.layout import ATTEMPTS, CheckpointName, parse_attempt
from resumable.store.storage.open import open_storage
from resumable.store.storage.protocol import Storage
from resumable.utils.events import size


def prune(
    run: RunUrl,
    keep_last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep the N newest checkpoints.", show_default=False)
    ] = None,
    keep_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="STEPS",
            help="Keep the first checkpoint at or after each multiple of STEPS.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Delete the checkpoints that retention drops.

    Without options, the run's own config (`keep`) decides. Each option replaces one value of it, so the best
    checkpoints stay. Refused while a job on this machine uses the run. Damaged and unfinished folders of earlier
    attempts are deleted once enough newer checkpoints exist.

    --json: {"run", "dry_run", "kept": [name], "deleted": [{"name", "size_bytes"}], "freed_bytes"}, newest first.
    """
    opened = open_whole_run(run, storage_options)
    rule = _rule(opened, keep_last=keep_last, keep_every=keep_every)
    storage = open_storage(opened.url, storage_options)
    if dry_run:
        plan = pruning.plan(opened.catalog, rule, attempt=_highest(storage).number)
        sizes = _sizes(opened.catalog, plan)
    else:
        unlock = lock_run(storage)
        try:
            owner = _highest(storage)
            plan = pruning.plan(opened.catalog, rule, attempt=owner.number)
            _refuse_damaged(opened.catalog, plan)
            sizes = _sizes(opened.catalog, plan)
            plan = pruning.prune(storage, opened.catalog, owner, rule)
        finally:
            unlock()
    _report(opened.location, plan, sizes, dry_run=dry_run, json=json)


def _rule(run: Run, *, keep_last: int | None, keep_every: int | None) -> Rule:
    latest = run.latest()
    try:
        keep = Keep.model_validate(latest.manifest.config.get("keep", {}))
    except ValidationError as error:
        raise CorruptCheckpointError(
            f"{latest.name}: its config has a `keep` that this version does not understand: {error}",
            "prune with the version of resumable that trains this run",
        ) from error
    values: dict[str, object] = keep.model_dump()
    if keep_last is not None:
        values["last"] = keep_last
    if keep_every is not None:
        values["every"] = {"steps": keep_every}
    return Keep.model_validate(values).rule()


def _highest(storage: Storage) -> Attempt:
    """Return the newest attempt, which may delete. Its job does not run on this machine: we hold its lock."""
    number = max((parse_attempt(entry.name) or 0 for entry in storage.list(ATTEMPTS)), default=0)
    if not number:
        raise CheckpointError(
            f"{storage.url}: no folder {ATTEMPTS}/, which records the attempt that may delete",
            "if this is a copy of a run, copy that folder, too; or launch the training once: it prunes by itself",
        )
    return Attempt(number, read_attempt(storage, number).token, (), storage)


def _refuse_damaged(catalog: Catalog, plan: PrunePlan) -> None:
    # The cheap checks chose what stays. If that is damaged, the checkpoints to delete may be the only good ones.
    newest = plan.keep[0]
    try:
        Checkpoint(catalog, newest, catalog.manifest(newest)).verify()
    except CorruptCheckpointError as error:
        raise CorruptCheckpointError(
            f"{newest}: it would stay as the newest, but it is damaged: {error.message}; nothing was deleted",
            "`resumable verify` lists the good ones; launch the training once: it resumes from the newest good one",
        ) from error


def _sizes(catalog: Catalog, plan: PrunePlan) -> dict[CheckpointName, int]:
    return {name: _size(catalog, name) for name in plan.delete}


def _size(catalog: Catalog, name: CheckpointName) -> int:
    try:
        return sum(blob.size for blob in catalog.manifest(name).blobs.values())
    except CheckpointError:
        return 0  # unfinished or damaged: unknown


def _report(run: str, plan: PrunePlan, sizes: dict[CheckpointName, int], *, dry_run: bool, json: bool) -> None:
    freed_bytes = sum(sizes[name] for name in plan.delete)
    if json:
        deleted = [{"name": str(name), "size_bytes": sizes[name]} for name in plan.delete]
        kept = [str(name) for name in plan.keep]
        print_json({"run": run, "dry_run": dry_run, "kept": kept, "deleted": deleted, "freed_bytes": freed_bytes})
        return
    for name in plan.keep:
        print_line(("keep    ", "green"), str(name))
    for name in plan.delete:
        print_line(("delete  ", "red"), f"{name}  {size(sizes[name]) if sizes[name] else 'unfinished or damaged'}")
    would = "would be " if dry_run else ""
    print_line(f"{len(plan.keep)} {would}kept, {len(plan.delete)} {would}deleted, {size(freed_bytes)} {would}freed")
