"""`resumable prune`: apply retention by hand. Deletes only files of the format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import typer
from pydantic import ValidationError

from resumable.checkpointing import prune as pruning
from resumable.checkpointing.prune import PrunePlan
from resumable.cli.options import Json, RunUrl, StorageOptions, open_whole_run
from resumable.cli.terminal import print_json, print_line
from resumable.config.sections import Journal, Keep
from resumable.errors import CheckpointError, CorruptCheckpointError
from resumable.policy.retention import Rule
from resumable.run.checkpoint import Checkpoint
from resumable.run.run import Run
from resumable.store.attempts import Attempt, lock_run, read_attempt
from resumable.store.catalog import Catalog
from resumable.store.journal.compaction import compact
from resumable.store.layout import ATTEMPTS, CHECKPOINTS, checkpoint_path, parse_attempt
from resumable.store.leftovers import freed_bytes, see_files, see_saves
from resumable.store.publish import is_deletable
from resumable.store.storage.open import open_storage
from resumable.store.storage.protocol import Entry, FileSizes, Storage
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
    checkpoints stay. Refused while a job on this machine uses the run. Damaged folders of earlier attempts are deleted
    once enough newer checkpoints exist, unfinished ones once a newer attempt has saved. So are temporary files of
    earlier attempts, and what crashed attempts logged, if it is much. A file that keeps another name (a hard link in
    another checkpoint) frees no bytes.

    --json: {"run", "dry_run", "kept": [name], "deleted": [{"name", "size_bytes"}], "files": [path], "freed_bytes"},
    newest first.
    """
    opened = open_whole_run(run, storage_options)
    rule = _rule(opened, keep_last=keep_last, keep_every=keep_every)
    storage = open_storage(opened.url, storage_options)
    if dry_run:
        owner, planned = _planned(opened.catalog, storage, rule)
        plan, removed = planned, _files(opened.catalog, storage, planned, owner.left.files)
    else:
        unlock = lock_run(storage)
        try:
            owner, planned = _planned(opened.catalog, storage, rule)
            stale = owner.left.files
            _refuse_damaged(opened.catalog, planned)
            going = _files(opened.catalog, storage, planned, stale)
            plan = pruning.prune(storage, opened.catalog, owner, rule)
            _bound_journal(storage, owner, plan)
            left = _files(opened.catalog, storage, planned, stale)
            removed = {path: entry for path, entry in going.items() if path not in left}
        finally:
            unlock()
    plan = replace(plan, standing=planned.standing)  # which of those that went were unfinished
    _report(opened.location, plan, removed, dry_run=dry_run, json=json)


def _bound_journal(storage: Storage, owner: Attempt, plan: PrunePlan) -> None:
    """Remove from the journal what attempts off the line logged, if it is large, and sum up old steps."""
    if plan.standing.history:
        newest, manifest = plan.standing.history[0]
        compact(storage, owner, manifest.lineage, exact_after=newest.place, max_bytes=Journal().max_bytes)


def _planned(catalog: Catalog, storage: Storage, rule: Rule) -> tuple[Attempt, PrunePlan]:
    """Return the attempt that may delete, with what it sees of earlier ones, and what it would delete."""
    owner = _highest(storage)
    listing = catalog.listing()
    earlier = [name for name in listing.names if name.attempt < owner.number]
    owner.left.saves.update(see_saves(storage, earlier, listing.files))
    owner.left.files.update(see_files(storage, owner.number))
    return owner, pruning.plan(catalog, rule, attempt=owner.number, seen=owner.left.saves)


def _files(catalog: Catalog, storage: Storage, plan: PrunePlan, stale: Mapping[str, FileSizes]) -> dict[str, Entry]:
    """Return by path the files that stand of those to delete: of checkpoints, and the `stale` ones of other folders."""
    listed = catalog.listing().files  # of all folders, where one request lists them
    going = {
        checkpoint_path(name, entry.name): entry
        for name in plan.delete
        for entry in (listed.get(name, ()) if listed else storage.list(checkpoint_path(name)))
        if not entry.is_dir and is_deletable(entry.name)
    }
    for folder, files in stale.items():
        found = [entry for entry in storage.list(folder) if entry.name in files]
        going |= {f"{folder}/{entry.name}" if folder else entry.name: entry for entry in found}
    return going


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


def _report(run: str, plan: PrunePlan, removed: Mapping[str, Entry], *, dry_run: bool, json: bool) -> None:
    size_bytes = {str(name): _bytes_in(f"{checkpoint_path(name)}/", removed) for name in plan.delete}
    others, freed = [path for path in removed if not path.startswith(f"{CHECKPOINTS}/")], freed_bytes(removed.values())
    if json:
        deleted = [{"name": name, "size_bytes": figure} for name, figure in size_bytes.items()]
        facts = {"kept": [str(name) for name in plan.keep], "deleted": deleted, "files": others}
        print_json({"run": run, "dry_run": dry_run, **facts, "freed_bytes": freed})
        return
    for name in plan.keep:
        print_line(("keep    ", "green"), str(name))
    for name in plan.delete:
        unfinished = "  unfinished" if name in plan.standing.unfinished else ""
        print_line(("delete  ", "red"), f"{name}  {size(size_bytes[str(name)])}{unfinished}")
    for path in others:
        print_line(("delete  ", "red"), path)
    would = "would be " if dry_run else ""
    print_line(f"{len(plan.keep)} {would}kept, {len(plan.delete)} {would}deleted, {size(freed)} {would}freed")


def _bytes_in(folder: str, files: Mapping[str, Entry]) -> int:
    return sum(entry.size or 0 for path, entry in files.items() if path.startswith(folder))
