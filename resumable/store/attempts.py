"""Own a run: one numbered attempt per launch, of which only the highest may write. Independent of what is written."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from resumable.errors import CheckpointError, CorruptCheckpointError, FencedError, StorageError
from resumable.store.catalog import Catalog
from resumable.store.documents.json_file import JsonFile
from resumable.store.documents.manifest import MAX_RECORD_BYTES, AttemptFile, RunFile
from resumable.store.documents.parse_documents import parse_attempt_file
from resumable.store.layout import ATTEMPTS, LOCK, MAX_NUMBER, RUN_FILE, CheckpointName, attempt_path, parse_attempt
from resumable.store.leftovers import Leftovers
from resumable.store.lineage import Lineage, descend
from resumable.store.storage.protocol import Storage


@dataclass(frozen=True)
class Attempt:
    """The right to write into a run, until a newer launch takes it."""

    number: int
    token: str
    lineage: Lineage
    storage: Storage = field(repr=False, compare=False)
    published: set[CheckpointName] = field(default_factory=set, repr=False, compare=False)
    """The checkpoints that it has reported as saved; others under its number are of failed saves."""
    left: Leftovers = field(default_factory=Leftovers, repr=False, compare=False)
    """The leftovers of earlier attempts, as this one saw them first."""
    failed: set[CheckpointName] = field(default_factory=set, repr=False, compare=False)
    """The checkpoints of failed saves whose files could not be removed."""

    def check(self) -> None:
        """Read the storage, and return if this attempt still owns the run.

        Raises:
            FencedError: A newer attempt owns it, and is named; or the run was removed.
            StorageError: The storage failed, or the attempt's own file is damaged. Who owns the run is then unknown.
        """
        try:
            own = read_attempt(self.storage, self.number)
        except CorruptCheckpointError as error:
            raise StorageError(
                f"cannot read who owns this run: {error.message}",
                "the next save tries again; check the disk, the network and the memory of this machine",
            ) from error
        except FencedError:  # gone: with the run, or because many newer attempts began since
            self._refuse_newer()
            raise
        if own.token != self.token:
            raise FencedError(f"{describe_attempt(self.storage, self.number)} took the number of this attempt", _LOST)
        self._refuse_newer()  # last: right before the write that it allows

    def _refuse_newer(self) -> None:
        highest = max(_numbers(self.storage), default=0)
        if highest > self.number:
            newer = describe_attempt(self.storage, highest)
            raise FencedError(f"{newer} owns this run now; this is attempt {self.number}", _LOST)


_LOST = "nothing of the newer attempt was touched; stop one of the two jobs, or give each its own run"


def displaced(storage: Storage, attempt: Attempt) -> AttemptFile | None:
    """Return the previous launch, which stops at its next save if it still runs; None if this is the first."""
    before = max((number for number in _numbers(storage) if number < attempt.number), default=0)
    try:
        return read_attempt(storage, before) if before else None
    except (CheckpointError, FencedError):
        return None


def lock_run(storage: Storage) -> Callable[[], None]:
    """Lock the run against other programs of this machine; return the function that releases the lock.

    A no-op if the storage has no locks: then the newer attempt takes over.

    Raises:
        FencedError: Another program uses the run.
    """
    try:
        return storage.lock(LOCK)
    except BlockingIOError as error:
        highest = max(_numbers(storage), default=0)
        who = f" ({describe_attempt(storage, highest)})" if highest else ""
        raise FencedError(
            f"another job is using this run: {storage.url}{who}",
            "wait for it, stop it, or name another folder in `run`",
        ) from error


def create_run(storage: Storage, *, data_seed: int) -> RunFile:
    """Return `run.json`, and write it for a new run. Two launches that begin one run return the same file.

    Raises:
        CorruptCheckpointError: There are checkpoints but no `run.json`: probably a copy that is still arriving.
    """
    catalog = Catalog(storage)
    existing = catalog.run_file()
    if existing is None and catalog.names():
        existing = catalog.run_file()  # another launch may have begun the run meanwhile: run.json comes first
        if existing is None:
            raise CorruptCheckpointError(
                f"{storage.url} has checkpoints but no {RUN_FILE}",
                "if it is being copied, wait; otherwise copy that file too",
            )
    if existing is not None:
        return existing
    run = RunFile.new(data_seed=data_seed)
    try:
        storage.create(RUN_FILE, run.dump())
    except FileExistsError:
        return catalog.run_file() or run
    return run


def begin(
    storage: Storage,
    *,
    resumed_from: CheckpointName | None,
    lineage_before: Sequence[tuple[int, str | None]],
    clock: Callable[[], float] = time.time,
) -> Attempt:
    """Claim the next free number; from here on every earlier attempt is fenced.

    `lineage_before` is the lineage of the checkpoint resumed from; empty if there is none.
    """
    token = secrets.token_hex(16)
    # Names of checkpoints count too: a copy may lack the attempts.
    standing = {name.attempt for name in Catalog(storage).names()}
    number = max([*_numbers(storage), *standing], default=0)
    while True:
        number += 1
        if number > MAX_NUMBER:
            raise CorruptCheckpointError(
                f"{storage.url}: no number is left after attempt {number - 1}",
                "no run has that many attempts: remove the file or folder of that number",
            )
        record = AttemptFile(attempt=number, token=token, host=socket.gethostname(), pid=os.getpid(), started=clock())
        try:
            storage.create(attempt_path(number), record.dump())
        except FileExistsError:
            continue
        parent = str(resumed_from) if resumed_from else None
        return Attempt(number, token, descend(lineage_before, number, parent, standing), storage)


def read_attempt(storage: Storage, number: int) -> AttemptFile:
    """Read the file of an attempt; `FencedError` if it is gone, `CorruptCheckpointError` if it is damaged."""
    path = attempt_path(number)
    try:
        return _read_twice(JsonFile(storage, path, MAX_RECORD_BYTES))
    except FileNotFoundError as error:
        raise FencedError(f"{storage.url}/{path} is gone: this run was removed or replaced", _LOST) from error
    except CorruptCheckpointError as error:
        raise CorruptCheckpointError(f"{path}: {error.message.partition(': ')[2]}") from error


def _read_twice(file: JsonFile) -> AttemptFile:
    """Read the file; a missing one counts only the second time, since it ends a training."""
    with suppress(FileNotFoundError):
        return file.read(parse_attempt_file)
    file.drop_cache()
    return file.read(parse_attempt_file)


def describe_attempt(storage: Storage, number: int) -> str:
    """Describe an attempt, as in "attempt 3 (host gpu7, pid 4711, started 2026-01-31 12:00:00 UTC)"."""
    try:
        record = read_attempt(storage, number)
    except (CheckpointError, FencedError):
        return f"attempt {number}"
    started = datetime.fromtimestamp(record.started, UTC)
    return f"attempt {number} (host {record.host}, pid {record.pid}, started {started:%Y-%m-%d %H:%M:%S} UTC)"


def _numbers(storage: Storage) -> list[int]:
    return [number for entry in storage.list(ATTEMPTS) if (number := parse_attempt(entry.name))]
