"""`resumable pin`: exempt one checkpoint from retention. Deletes nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from resumable.cli.options import Json, StorageOptions, Target, open_checkpoint
from resumable.cli.terminal import print_json, print_line
from resumable.errors import NoCheckpointError
from resumable.run.target import parse_target_or_folder
from resumable.store import pins
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.storage.open import open_storage
from resumable.store.storage.protocol import Storage


def pin(
    target: Target,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the pin, so that retention applies again.")] = False,
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Keep one checkpoint forever: no save and no `prune` deletes it.

    Safe while the training runs. A pin is an empty file, named after the checkpoint, in the folder `pins` of the run.

    --json: {"run", "name", "pinned": true or false}.
    """
    url, _ = parse_target_or_folder(target)
    storage = open_storage(url, storage_options)
    name = CheckpointName.parse(open_checkpoint(target, storage_options).name)
    assert name is not None
    if remove:
        pins.unpin(storage, name)
    else:
        _pin(storage, name)
    if json:
        print_json({"run": storage.url, "name": str(name), "pinned": not remove})
    else:
        print_line(("unpinned " if remove else "pinned ", "green"), str(name))


def _pin(storage: Storage, name: CheckpointName) -> None:
    pins.pin(storage, name)
    try:
        Catalog(storage).manifest(name)
    except NoCheckpointError:
        pins.unpin(storage, name)
        raise NoCheckpointError(
            f"{name}: it was pruned at this moment", f"`resumable ls {storage.url}` lists the checkpoints"
        ) from None
