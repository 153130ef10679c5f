"""Who may write: one numbered attempt per launch, and the highest owns the run; knows nothing of what is written."""

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
from resumable.store.document import Document
from resumable.store.layout import ATTEMPTS, LOCK, MAX_NUMBER, RUN_FILE, CheckpointName, attempt_path, parse_attempt
from resumable.store.manifest import MAX_RECORD_BYTES, AttemptFile, RunFile
from resumable.store.parse_documents import parse_attempt_file
from resumable.store.storage.protocol import Storage

Lineage = tuple[tuple[int, str | None], ...]


@dataclass(frozen=True)
class Attempt:
    """The right to write into a run, until a newer launch takes it."""

    number: int
    token: str
    lineage: Lineage
    storage: Storage = field(repr=False, compare=False)
    published: set[CheckpointName] = field(default_factory=set, repr=False, compare=False)
    """What this attempt has told to be saved; what else is there under its number is of a save that failed."""

    def check(self) -> None:
        """Return if this attempt still owns the run, by a look at the storage.

        Raises:
            FencedError: A newer attempt owns it, and is named; or the run was removed.
            StorageError: The storage failed, or the own file is damaged, which says nothing about who owns the run.
        """
        try:
            own = read_attempt(self.storage, self.number)
        except CorruptCheckpointError as error:
            raise StorageError(
                f"cannot read who owns this run: {error.message}",
                "the next save tries again; check the disk, the network and the memory of this machine",
            ) from error
        if own.token != self.token:
            raise FencedError(f"{describe(self.storage, self.number)} took the number of this attempt", _LOST)
        highest = max(_numbers(self.storage), default=0)  # last: nothing comes between it and what it allows
        if highest > self.number:
            newer = describe(self.storage, highest)
            raise FencedError(f"{newer} owns this run now; this is attempt {self.number}", _LOST)


_LOST = "nothing of the newer attempt was touched; stop one of the two jobs, or give each its own run"


def displaced(storage: Storage, attempt: Attempt) -> AttemptFile | None:
    """The launch before this one, which stops at its next save if it still lives; None if this is the first."""
    before = max((number for number in _numbers(storage) if number < attempt.number), default=0)
    try:
        return read_attempt(storage, before) if before else None
    except (CheckpointError, FencedError):
        return None


def lock_run(storage: Storage) -> Callable[[], None]:
    """Keep other programs of this machine off the run; returns the release. `FencedError` if one is on it.

    A no-op where the storage has no locks: there the newer attempt takes over.
    """
    try:
        return storage.lock(LOCK)
    except BlockingIOError as error:
        highest = max(_numbers(storage), default=0)
        who = f" ({describe(storage, highest)})" if highest else ""
        raise FencedError(
            f"another job is using this run: {storage.url}{who}",
            "wait for it, stop it, or name another folder in `run`",
        ) from error


def create_run(storage: Storage, *, data_seed: int) -> RunFile:
    """`run.json`: the one that is there, or that of a new run, also where another launch writes one just now.

    `CorruptCheckpointError` where there are checkpoints but no `run.json`: a copy that is still arriving is no new run.
    """
    catalog = Catalog(storage)
    existing = catalog.run_file()
    if existing is None and catalog.names():
        existing = catalog.run_file()  # another launch may have begun the run in between: run.json comes first
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
    """Take the next free number; from here on every earlier attempt is fenced.

    `lineage_before` is that of the checkpoint resumed from, empty for None.
    """
    token = secrets.token_hex(16)
    # Names of checkpoints count too: a copy may have left the attempts behind.
    number = max([*_numbers(storage), *(name.attempt for name in Catalog(storage).names())], default=0)
    while True:
        number += 1
        if number > MAX_NUMBER:
            raise CorruptCheckpointError(
                f"{storage.url}: attempt {number - 1} leaves no number for another one",
                "no run has that many: somebody made that file or folder; remove it",
            )
        record = AttemptFile(attempt=number, token=token, host=socket.gethostname(), pid=os.getpid(), started=clock())
        try:
            storage.create(attempt_path(number), record.dump())
        except FileExistsError:
            continue
        parent = str(resumed_from) if resumed_from else None
        return Attempt(number, token, (*map(_pair, lineage_before), (number, parent)), storage)


def read_attempt(storage: Storage, number: int) -> AttemptFile:
    """The file of an attempt. `FencedError` if it is gone, `CorruptCheckpointError` if it is damaged."""
    path = attempt_path(number)
    try:
        return _looked_at_twice(Document(storage, path, MAX_RECORD_BYTES))
    except FileNotFoundError as error:
        raise FencedError(f"{storage.url}/{path} is gone: this run was removed or replaced", _LOST) from error
    except CorruptCheckpointError as error:
        raise CorruptCheckpointError(f"{path}: {error.message.partition(': ')[2]}") from error


def _looked_at_twice(document: Document) -> AttemptFile:
    """Read it. One answer that it is gone would end a training, so only the second one counts."""
    with suppress(FileNotFoundError):
        return document.read(parse_attempt_file)
    document.drop_cache()
    return document.read(parse_attempt_file)


def describe(storage: Storage, number: int) -> str:
    """An attempt in words: "attempt 3 (host gpu7, pid 4711, started 2026-01-31 12:00:00 UTC)"."""
    try:
        record = read_attempt(storage, number)
    except (CheckpointError, FencedError):
        return f"attempt {number}"
    started = datetime.fromtimestamp(record.started, UTC)
    return f"attempt {number} (host {record.host}, pid {record.pid}, started {started:%Y-%m-%d %H:%M:%S} UTC)"


def _numbers(storage: Storage) -> list[int]:
    return [number for entry in storage.list(ATTEMPTS) if (number := parse_attempt(entry.name))]


def _pair(entry: tuple[int, str | None]) -> tuple[int, str | None]:
    attempt, resumed_from = entry
    return attempt, resumed_from
