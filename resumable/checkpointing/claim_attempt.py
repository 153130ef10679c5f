"""Claim the next attempt at a run that was found, once nothing refuses it: from then on every earlier one is fenced.

Independent of tensors.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass, replace

from resumable.checkpointing.find_run import FoundRun, Refuse, newest_valid, refuse_a_fresh_start, was_committed
from resumable.config.config import Config
from resumable.errors import NoCheckpointError, StorageError
from resumable.run.checkpoint import Checkpoint
from resumable.store.attempts import Attempt, begin, displaced
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.leftovers import MAX_SEEN_SAVES, see_files, see_saves
from resumable.store.lineage import descend
from resumable.store.storage.protocol import Storage
from resumable.utils.events import emit


@dataclass(frozen=True)
class OpenedRun(FoundRun):
    """A run that this attempt may write to until it calls `unlock`."""

    attempt: Attempt

    @property
    def shareable(self) -> Checkpoint | None:
        """Return the checkpoint that the first save may share files with.

        None while a newer one is damaged: an earlier attempt, whose newest that one is, may delete `resumed`.
        """
        return None if self.rejected else self.resumed


def claim_attempt(
    config: Config, storage: Storage, catalog: Catalog, found: FoundRun, refuse: Refuse = lambda found: None
) -> OpenedRun:
    """Claim the next attempt at a run, which `refuse` must not refuse.

    The newest checkpoint is looked up before the claim, because time has passed since the run was found. It is looked
    up once more after the claim, because the attempt before may have saved meanwhile.

    Raises:
        StorageError: The run cannot be written to.
        CorruptCheckpointError: Checkpoints exist, and none is valid.
        NoCheckpointError: All checkpoints were deleted since the run was found.
    """
    resumed = _newest_before_claim(config, catalog, refuse, found)
    lineage = resumed.manifest.lineage if resumed else []
    name = CheckpointName.parse(resumed.name) if resumed else None
    attempt = begin(storage, resumed_from=name, lineage_before=lineage)
    fresh, rejected = catalog.refreshed(), dict[str, str]()
    newest = _newest_now(config, fresh, refuse, resumed, rejected)
    if newest is not None and (resumed is None or newest.name != resumed.name):
        standing = {name.attempt for name in fresh.names()}
        attempt = replace(attempt, lineage=descend(newest.manifest.lineage, attempt.number, newest.name, standing))
    damaged = frozenset(name for name in rejected if was_committed(fresh, name))
    _see_leftovers(storage, catalog, newest, attempt)
    if newest is None or not newest.manifest.finished:
        _log_displaced(storage, attempt)
    return OpenedRun(found.run_file, newest, damaged, found.unlock, attempt)


def _newest_before_claim(config: Config, catalog: Catalog, refuse: Refuse, found: FoundRun) -> Checkpoint | None:
    """Return the newest checkpoint, which `refuse` accepts. Lists the storage once if nothing else stands there now."""
    newest = resumed = found.resumed
    fresh = catalog.refreshed()
    standing = [str(name) for name in fresh.names() if str(name) not in found.rejected]
    if standing[:1] != ([] if resumed is None else [resumed.name]):
        newest = _newest_now(config, fresh, refuse, resumed, {})
    if newest is resumed and resumed is not None:  # a newer one is accepted already
        refuse(resumed)
    return newest


def _newest_now(
    config: Config, catalog: Catalog, refuse: Refuse, resumed: Checkpoint | None, rejected: dict[str, str]
) -> Checkpoint | None:
    """Look up the newest checkpoint again; fill `rejected`. `resumed` was verified before, and is not read again.

    The storage is listed again: an earlier attempt may have saved and pruned since the last look.
    """
    newest = newest_valid(catalog, rejected, refuse, proven=resumed)
    if newest is None:
        refuse_a_fresh_start(config, catalog, rejected)
        if resumed is not None:
            raise NoCheckpointError(
                f"{config.location}: {resumed.name} and all other checkpoints were deleted during the launch",
                "stop the program that deletes in this run, and restore the run from a copy",
            )
    return newest


def _log_displaced(storage: Storage, attempt: Attempt) -> None:
    """Log which launch this one displaced, if it may still be running on another machine."""
    before = displaced(storage, attempt)
    if before is None or (storage.locks and before.host == socket.gethostname()):
        return  # none, or one whose end the lock of this machine proves
    emit(
        "DISPLACE",
        attempt=before.attempt,
        host=before.host,
        pid=before.pid,
        by=attempt.number,
        note="if it still runs, it stops at its next save",
    )


def _see_leftovers(storage: Storage, catalog: Catalog, resumed: Checkpoint | None, attempt: Attempt) -> None:
    """See what earlier attempts left, now that they are fenced: what stays the same goes at the first commit."""
    if attempt.number == 1 or not storage.exclusive:
        return
    with suppress(StorageError):  # what is not seen stays
        listing = catalog.listing()
        earlier = [name for name in listing.names if name.attempt < attempt.number]
        unknown = [name for name in earlier if resumed is None or str(name) != resumed.name]
        most = len(unknown) if listing.files else MAX_SEEN_SAVES
        attempt.left.saves.update(see_saves(storage, unknown[:most], listing.files))
        attempt.left.files.update(see_files(storage, attempt.number))
