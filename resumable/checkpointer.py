"""Captures, stages, writes, commits and prunes checkpoints, and restores the newest; knows no loop and no loader."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from resumable import killpoints
from resumable.capture import (
    Snapshot,
    empty_objects,
    is_frozen,
    object_record,
    readable,
    snapshot,
    split,
    versions,
)
from resumable.config import Config
from resumable.errors import (
    CheckpointError,
    NoCheckpointError,
    ResumableError,
    StorageError,
)
from resumable.events import duration, emit, size, warn
from resumable.opening import open_run
from resumable.position import Position
from resumable.prune import make_room, prune
from resumable.restore import Restoration
from resumable.run import STATE_BLOB
from resumable.state.gradients import Gradients
from resumable.state.objects import adapt
from resumable.state.overlap import Gate, TornCopyError, Versions
from resumable.state.stager import Image, Stager
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.manifest import BlobRecord, Manifest, ObjectRecord
from resumable.store.sharing import Sharing
from resumable.store.storage import open_storage
from resumable.store.writer import Background, Blob, publish

Blobs = Mapping[str, Mapping[str, Tensor]]
Offered = Mapping[str, BlobRecord | None]

COPY_THREADS = min(2, os.cpu_count() or 1)
MAX_TORN_COPIES = 3  # in a row; then this loop is not one that overlap is for


class Torn(Exception):
    """A save whose copy was worth nothing, because training wrote to the weights meanwhile."""

    def __init__(self, reason: str, cause: TornCopyError) -> None:
        super().__init__(str(cause))
        self.reason = reason


class Checkpointer:
    """Owns one attempt at one run: from discovery until `close`.

    Opening takes the run's lock, verifies the newest checkpoint (`resumed`, None for a fresh run) and claims the next
    attempt number. Raises the error tree; nothing is written into a run that does not fit.
    """

    def __init__(self, config: Config, objects: Mapping[str, Any], *, stager: Stager | None = None) -> None:
        self.config = config
        self._adapters = adapt(objects)
        self._storage = open_storage(config.run, config.storage_options, probe=config.fencing != "off")
        self._catalog = Catalog(self._storage)
        self._stager = stager or Stager()
        self._sharing = Sharing()
        self._background = Background()
        self._digesting = Background()
        self._rule = config.keep.rule()
        self._standing: Sequence[CheckpointName] | None = None  # since the last save, or unknown
        self._failed_saves = self._saves = self._torn = 0
        self._stalled_seconds = 0.0
        self._prepared = False
        self.retake: str | None = None  # the reason of a save that was torn, and is to be made again
        self.saved_at_seconds = time.monotonic()
        self.save_seconds = 0.0
        self._opened = open_run(config, self._storage, self._catalog, self._adapters)
        self.resumed, self.attempt = self._opened.resumed, self._opened.attempt
        # (step, epoch) of the newest checkpoint; None if it failed, or there is none
        self.saved = (self.resumed.step, self.resumed.epoch) if self.resumed else None
        self.data_seed = self._opened.run_file.data_seed
        self.gradients = Gradients(self._adapters)  # hooks only once nothing refuses the run any more
        self._restoration = Restoration(self.resumed, self._adapters, self.gradients) if self.resumed else None
        self._gate = Gate(self._stager.hold) if config.staging.mode == "overlap" else None

    # -- saving -------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a save is still being written, or memory for one made ready."""
        return self._background.busy

    @property
    def stalled_seconds(self) -> float:
        """How long training has waited for saves, all together."""
        return self._stalled_seconds + (self._gate.waited_seconds if self._gate else 0.0)

    def prepare(self) -> None:
        """Make the memory ready that the next save will need, beside the training; once, and later calls do nothing.

        Best called when optimizers have stepped, and so have their state.
        """
        if self._prepared or self._background.busy or not self.gradients.settled:
            return
        self._prepared = True
        blobs = self._snapshot(Position(), reason="").blobs
        if not self._streams(blobs):
            self._background.submit(self._stager.prepare(blobs))

    def save(self, position: Position, *, reason: str, late: bool = False) -> None:
        """Capture and stage now, write behind; blocks only while an earlier save is still being written.

        With `late`, and where the config says so, what only optimizers write is staged while training goes on to its
        next optimizer step. Such a save may turn out to be torn; then `retake` asks for it again. Raises `StateError`
        for a state that cannot be stored, and what an earlier save failed with.
        """
        self.drain()
        killpoints.reach("save.capture", position.step)
        before, started = self.stalled_seconds, time.monotonic()
        self._tell_empty()
        taken = self._snapshot(position, reason=reason)
        offered = {name: self._sharing.before(name, frozen=is_frozen(name)) for name in taken.blobs}
        late = late and self.retake is None and self._torn < MAX_TORN_COPIES
        if self._streams(taken.blobs):
            self._stream(taken, offered, started)
        elif late and self._gate is not None:
            self._stage_late(taken, offered, self._gate, lambda: self.stalled_seconds - before)
        else:
            images = self._stage(taken.blobs, offered)
            stall_seconds = time.monotonic() - started
            self._background.submit(lambda: self._write(taken, images, offered, lambda: stall_seconds))
        self.retake = None
        self._saves += 1
        self.saved = (position.step, position.epoch)
        self.saved_at_seconds = time.monotonic()
        self._stalled_seconds += self.saved_at_seconds - started

    def _snapshot(self, position: Position, *, reason: str) -> Snapshot:
        everything = self.config.gradients == "always"
        return snapshot(self._adapters, self.gradients, position, reason=reason, everything=everything)

    def _tell_empty(self) -> None:
        if self._saves == 0 and self.resumed is None:
            for name in empty_objects(self._adapters):
                warn(f"{name}: its state is empty, so nothing of it will come back ({self._adapters[name].type})")

    def _streams(self, blobs: Blobs) -> bool:
        """Whether the state is larger than the memory that may be kept for it."""
        most = self.config.staging.max_bytes
        with readable("the state"):
            return most is not None and self._stager.needed(blobs) > most

    def _stream(self, taken: Snapshot, offered: Offered, started: float) -> None:
        """Write out of the live tensors, piece by piece, while training stands still."""
        assert self.config.staging.max_bytes is not None
        images = self._stager.stream(taken.blobs, max_bytes=self.config.staging.max_bytes)
        self._background.submit(lambda: self._write(taken, images, offered, lambda: time.monotonic() - started))
        self._background.wait()

    def _stage(self, blobs: Blobs, offered: Offered) -> dict[str, Image]:
        self._stager.begin(blobs)
        with readable("the state"):
            return self._stager.stage(blobs, threads=COPY_THREADS, likely_same=_told(offered))

    def _stage_late(self, taken: Snapshot, offered: Offered, gate: Gate, stalled: Callable[[], float]) -> None:
        blobs, live = split(taken)
        self._stager.begin(blobs)
        versions, copied = Versions(live), gate.shut()

        def stage_and_write() -> None:
            try:
                with readable("the state"):
                    images = self._stager.stage(blobs, threads=1, likely_same=_told(offered), copied=copied.set)
                versions.refuse_torn()
            except TornCopyError as error:
                self._stager.forget()
                raise Torn(taken.reason, error) from error
            finally:
                copied.set()
            self._write(taken, images, offered, stalled)
            self._torn = 0

        self._background.submit(stage_and_write)

    def _write(
        self, taken: Snapshot, images: Mapping[str, Image], offered: Offered, stalled: Callable[[], float]
    ) -> None:
        started = time.monotonic()
        self._storage.renew()
        document = taken.document()
        blobs = [Blob(STATE_BLOB, [memoryview(document)], len(document))]
        blobs += [_blob(name, image, offered[name]) for name, image in images.items()]
        records: dict[str, ObjectRecord] = {}
        self._digesting.submit(lambda: records.update(_object_records(taken, images)))
        try:
            manifest = publish(
                self._storage,
                self.attempt,
                CheckpointName(taken.position.step, taken.position.epoch, self.attempt.number),
                blobs,
                lambda written: self._manifest(taken, self._digested(records), written),
            )
        except BaseException as failure:
            self._forget_failed(failure)
            raise
        self._sharing.published(manifest.blobs, offered=offered)
        self._failed_saves = 0
        kept = self._prune()
        stall_seconds = stalled()
        self.save_seconds = stall_seconds + time.monotonic() - started
        self._tell_saved(manifest, offered, stall_seconds, kept)

    def _digested(self, records: Mapping[str, ObjectRecord]) -> Mapping[str, ObjectRecord]:
        """The records of all objects, once they are there."""
        self._digesting.wait()
        failure = self._digesting.failure()
        if failure is not None:
            raise failure
        return records

    def _forget_failed(self, failure: BaseException) -> None:
        self._digesting.wait()
        self._digesting.failure()
        self._stager.forget()  # what is staged was never published
        if isinstance(failure, StorageError) and failure.errno in (errno.ENOSPC, errno.EDQUOT):
            with suppress(StorageError):  # the failure is the one to tell
                make_room(self._storage, self._catalog, self.attempt)

    def _tell_saved(self, manifest: Manifest, offered: Offered, stall_seconds: float, kept: int | None) -> None:
        total_bytes = sum(blob.size for blob in manifest.blobs.values())
        shared_bytes = sum(blob.size for name, blob in manifest.blobs.items() if _is_shared(blob, offered.get(name)))
        emit(
            "SAVED",
            step=manifest.step,
            stall=duration(stall_seconds),
            total=duration(self.save_seconds),
            size=size(total_bytes),
            written=size(total_bytes - shared_bytes) if shared_bytes else None,
            buffers=size(self._stager.nbytes),
            kept=kept,
            reason=manifest.reason,
        )

    def _prune(self) -> int | None:
        """How many checkpoints stay. One that cannot be deleted now spoils no save: the next one tries again."""
        self._standing = None
        try:
            self._standing = prune(self._storage, self._catalog, self.attempt, self._rule).keep
            return len(self._standing)
        except (StorageError, CheckpointError) as error:
            warn(f"could not delete old checkpoints: {error.message}")
            return None

    def _manifest(
        self, taken: Snapshot, records: Mapping[str, ObjectRecord], written: Mapping[str, BlobRecord]
    ) -> Manifest:
        position = taken.position
        return Manifest(
            run_id=self._opened.run_file.run_id,
            attempt=self.attempt.number,
            token=self.attempt.token,
            lineage=list(self.attempt.lineage),
            step=position.step,
            epoch=position.epoch,
            position=position.summary(),
            metrics=position.metrics,
            config=self.config.public() | {"data_seed": self.data_seed},  # run.json's, which may be damaged one day
            versions=versions(),
            environment=dict(taken.environment),
            world=1,
            finished=position.finished,
            reason=taken.reason,
            created=time.time(),
            objects=dict(records),
            blobs=dict(written),
        )

    def values_of(self, metric: str) -> list[float | None]:
        """The values of `metric` in every checkpoint that stands; none where the storage cannot tell now."""
        try:
            if self._standing is None:
                self._standing = [name for name, _ in self._catalog.history()]
            return [self._catalog.manifest(name).metrics.get(metric) for name in self._standing]
        except (StorageError, CheckpointError):
            return []  # then every value is the best yet, and the save that follows says what is wrong

    def wait(self) -> None:
        """Wait until nothing is in flight; a failure waits to be noticed."""
        self._background.wait()

    def drain(self) -> None:
        """Wait until what is in flight is durable; a failure is counted, or raised when it may not pass.

        Being displaced by a newer attempt, and a state that cannot be stored, are raised at once; a storage that
        fails is raised after `max_failed_saves` saves in a row, and when there is no checkpoint yet.
        """
        self._background.wait()
        self.notice_failure()

    def notice_failure(self) -> None:
        """Raise or count what a save in the background failed with; does not wait."""
        if self._background.busy:
            return
        failure = self._background.failure()
        if failure is None:
            return
        self.saved = None
        if isinstance(failure, Torn):
            self._retake(failure)
            return
        self._failed_saves += 1
        fatal = not isinstance(failure, OSError) or (self._saves == 1 and self.resumed is None)
        if fatal or self._failed_saves >= self.config.max_failed_saves:
            raise failure
        message = failure.message if isinstance(failure, ResumableError) else str(failure)
        warn(f"save failed ({self._failed_saves} of {self.config.max_failed_saves} before training stops): {message}")

    def _retake(self, torn: Torn) -> None:
        self._torn, self.retake = self._torn + 1, torn.reason
        last = self._torn == MAX_TORN_COPIES
        warn(
            f"a save was torn, and is made again at the next boundary: {torn}: staging.mode: overlap is for loops in "
            f"which optimizers alone write weights{'; from here on saves are staged at once' if last else ''}"
        )

    # -- restoring ----------------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """Where the run stands by the checkpoint that this attempt resumed from; the start for a fresh run."""
        return self._restoration.position() if self._restoration else Position()

    def restore(self) -> None:
        """Put every object, the gradients and all RNG streams back to the checkpoint, in place, and prove it.

        Objects that still have exactly that state are left alone. Raises `RunMismatchError` naming what does not fit,
        `StateError` naming what did not come back as it was saved, `FencedError` if a newer attempt pruned it.
        """
        assert self._restoration is not None
        try:
            self._restoration.restore()
        except NoCheckpointError:
            self.attempt.check()
            raise

    def close(self) -> None:
        """Drain, then let go of the run's lock; safe to call twice."""
        try:
            self._background.wait()
            failure = self._background.failure()
            if failure is not None:
                warn(f"the last save failed: {failure}")
        finally:
            self.gradients.close()
            if self._gate is not None:
                self._gate.close()
            self._opened.unlock()


def _object_records(taken: Snapshot, images: Mapping[str, Image]) -> dict[str, ObjectRecord]:
    return {name: object_record(captured, images) for name, captured in taken.objects.items()}


def _blob(name: str, image: Image, before: BlobRecord | None) -> Blob:
    known = before.digest if before is not None and image.unchanged else None
    return Blob(name, image.chunks, image.size, before=before, digest=known)


def _told(offered: Offered) -> set[str]:
    return {name for name, before in offered.items() if before is not None}


def _is_shared(blob: BlobRecord, before: BlobRecord | None) -> bool:
    return before is not None and before.digest == blob.digest
