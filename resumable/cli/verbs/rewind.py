"""`resumable rewind`: put a run back to one of its checkpoints. Deletes nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from resumable.checkpointing.derived.rewind import rewind as put_back
from resumable.cli.options import Json, NextEpoch, StorageOptions, Target, open_at
from resumable.cli.terminal import print_json, print_line, spinner
from resumable.store.storage.open import open_storage


def rewind(
    target: Target,
    discard: Annotated[
        bool, typer.Option("--discard", help="Do not pin what goes off the line: later saves delete it.")
    ] = False,
    next_epoch: NextEpoch = False,
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Put a run back to a checkpoint: every later launch resumes from there.

    Run it once, while nobody trains. It claims an attempt and publishes the checkpoint once more under it, with the
    same bytes, every one of which is verified; the files are shared. What is newer is no part of the run's history any
    more. It is pinned, and RUN@step-NAME goes back to it. Refused while a job on this machine uses the run; a job on
    another machine stops at its next save.

    --next-epoch: the rest of the epoch in progress is dropped, with the code behind its batches.

    --json: {"run", "name", "from", "off_line": [name], "pinned": true or false}, newest first; `name` is null where the
    run stands there already.
    """
    run, checkpoint = open_at(target, storage_options)
    with spinner(f"verifying {checkpoint.name}"):
        found = put_back(
            open_storage(run.url, storage_options), run.catalog, checkpoint, discard=discard, to_next_epoch=next_epoch
        )
    off_line = [] if found is None else [str(name) for name in found.off_line]
    if json:
        name = None if found is None else str(found.name)
        facts = {"name": name, "from": checkpoint.name, "off_line": off_line, "pinned": not discard}
        print_json({"run": run.location, **facts})
        return
    if found is None:
        print_line(f"{run.location} stands at {checkpoint.name} already")
        return
    for name in off_line:
        print_line(("off the line  ", "yellow"), f"{name}{'' if discard else '  pinned'}")
    print_line(("rewound to ", "green"), f"{checkpoint.name}, as {found.name}")
