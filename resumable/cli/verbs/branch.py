"""`resumable branch`: begin a run of its own from a checkpoint of another one."""

from __future__ import annotations

from typing import Annotated

import typer

from resumable.checkpointing.derived.branch import branch as begin_run
from resumable.checkpointing.derived.content import Derived
from resumable.cli.options import Json, NextEpoch, OptionalStorageOptions, StorageOptions, Target, open_at
from resumable.cli.terminal import print_json, print_line, spinner
from resumable.store.storage.hard_links import links_between
from resumable.store.storage.open import open_storage
from resumable.utils.location import location


def branch(
    target: Target,
    new_run: Annotated[
        str, typer.Argument(metavar="NEW_RUN", help="The folder or fsspec URL of the new run.", show_default=False)
    ],
    next_epoch: NextEpoch = False,
    json: Json = False,
    storage_options: StorageOptions = "{}",
    new_storage_options: OptionalStorageOptions = None,
) -> None:
    """Begin a run of its own from a checkpoint, which then goes on differently.

    NEW_RUN has an identity of its own and the same `data_seed`. Every byte is verified. On one file system the files
    are hard links, elsewhere copies. RUN is only read, and may be trained meanwhile. A branch that was interrupted
    cannot be launched: run the command again.

    --next-epoch: the rest of the epoch in progress is dropped, with the code behind its batches.

    --json: {"run", "name", "run_id", "from": {"run", "name"}}.
    """
    run, checkpoint = open_at(target, storage_options)
    options = storage_options if new_storage_options is None else new_storage_options
    with spinner(f"verifying {checkpoint.name}"):
        derived = Derived.of(checkpoint, run.catalog, to_next_epoch=next_epoch)
    where = location(new_run)
    with spinner(f"writing {where}"):
        made = begin_run(
            run, derived, open_storage(new_run, options), location=where, link=links_between(run.url, new_run)
        )
    if json:
        origin = {"run": run.location, "name": checkpoint.name}
        print_json({"run": where, "name": made.name, "run_id": made.run_id, "from": origin})
    else:
        print_line(("branched ", "green"), f"{run.location}@{checkpoint.name} into {where}, as {made.name}")
