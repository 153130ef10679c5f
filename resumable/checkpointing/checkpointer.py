"""One attempt at one run: stages snapshots, has them committed behind the training, restores; knows no loop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from resumable.checkpointing.commit import Commits, Offered
from resumable.checkpointing.golden_input import Known, known
from resumable.checkpointing.open_run import late_objects, open_run, refuse_other_objects
from resumable.checkpointing.position import Position
from resumable.checkpointing.restore import Restoration
from resumable.checkpointing.snapshot import Snapshot, blob_name, readable, snapshot, split
from resumable.config.config import Config
from resumable.errors import NoCheckpointError, ResumableError, StateError
from resumable.policy.suspicion import State
from resumable.run.checkpoint import GRADIENTS
from resumable.state.objects.adapt import adapt
from resumable.state.objects.gradients import Gradients
from resumable.state.objects.modules import ModuleAdapter
from resumable.state.staging.late_copy import Gate, LateCopy, TornCopyError
from resumable.state.staging.stager import Image, Stager
from resumable.store.catalog import Catalog
from resumable.store.publish import Background
from resumable.store.storage.open import open_storage
from resumable.utils import failpoints
from resumable.utils.events import duration, emit, size, warn

Blobs = Mapping[str, Mapping[str, Tensor]]

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
        catalog = Catalog(self._storage)
        self._stager = stager or Stager()
        self._background = Background()
        self._failed_saves = self._saves = self._torn = 0
        self._stalled_seconds = 0.0
        self._prepared = False
        self._golden: Known | None = None
        self.retake: str | None = None  # the reason of a save that was torn, and is to be made again
        self.saved_at_seconds = time.monotonic()
        self.save_seconds = 0.0
        self._opened = open_run(config, self._storage, catalog, self._adapters)
        self._commits = Commits(config, self._storage, catalog, self._opened)
        self.witnesses = self._commits.witnesses.metrics  # by the checkpoint that this attempt resumed from
        self.resumed, self.attempt = self._opened.resumed, self._opened.attempt
        # (step, epoch) of the newest checkpoint; None if it failed, or there is none
        self.saved = (self.resumed.step, self.resumed.epoch) if self.resumed else None
        self.data_seed = self._opened.run_file.data_seed
        self.generator_rule = self._opened.generator_rule
        self.gradients = Gradients(self._adapters)  # hooks only once nothing refuses the run any more
        self._restoration = Restoration(self.resumed) if self.resumed else None
        self._late: Collection[str] = ()
        self._gate = Gate(self._stager.hold) if config.staging.mode == "overlap" else None

    # -- the objects --------------------------------------------------------------------------------------------------

    @property
    def late(self) -> frozenset[str]:
        """The names of what the checkpoint holds and no launch begins with; it is restored once it was held."""
        return late_objects(self.resumed.manifest) if self.resumed else frozenset()

    def hold(self, objects: Mapping[str, Any], *, late: Collection[str]) -> None:
        """From here on save these objects, and say of those named in `late` that no launch begins with them."""
        self._adapters = adapt(objects)
        self._late = late
        self.gradients.follow(self._adapters)

    # -- saving -------------------------------------------------------------------------------------------------------

    def know(self, batch: Any, *, model: str | None = None) -> None:
        """From here on every checkpoint carries this input of a module, and what the live module gives for it then.

        Tried out at once. Raises `ConfigError` where it is not clear which module, and `StateError` where the module
        does not take it.
        """
        self.drain()  # a copy in flight counts writes, and putting back what the module wrote is one
        modules = {name: each.target for name, each in self._adapters.items() if isinstance(each, ModuleAdapter)}
        self._golden = known(modules, batch, model=model)

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
        if self._prepared or not self._background.idle or not self.gradients.settled:
            return
        self._prepared = True
        with suppress(StateError, OSError, MemoryError):  # a save is owed an error, this is not
            blobs = {**self._snapshot(Position(), reason="", golden=None).blobs}
            if self.config.gradients == "auto":  # which most saves find used, and do not store
                blobs.pop(blob_name(GRADIENTS), None)
            if not self._streams(blobs):
                self._background.submit(self._stager.prepare(blobs))

    def save(
        self, position: Position, *, reason: str, late: bool = False, metrics: Mapping[str, State] | None = None
    ) -> None:
        """Capture and stage now, write behind; blocks only while an earlier save is still being written.

        With `late`, and where the config says so, what only optimizers write is staged while training goes on to its
        next optimizer step. Such a save may turn out to be torn; then `retake` asks for it again. `metrics` is what
        the metrics are as witnesses. Raises `StateError` for a state that cannot be stored, and what an earlier save
        failed with.
        """
        self.drain()
        failpoints.reach("save.capture", position.step)
        before, started = self.stalled_seconds, time.monotonic()
        taken = replace(self._snapshot(position, reason=reason, golden=self._golden), metrics=metrics or {})
        self._tell_empty(taken)
        offered = self._commits.offered(taken.blobs)
        late = late and self.retake is None and self._torn < MAX_TORN_COPIES
        if self._streams(taken.blobs):
            self._stream(taken, offered, started)
        elif late and self._gate is not None:
            self._stage_late(taken, offered, self._gate, started, lambda: self.stalled_seconds - before)
        else:
            images = self._stage(taken.blobs, offered)
            stall_seconds = time.monotonic() - started
            self._background.submit(lambda: self._write(taken, images, offered, started, lambda: stall_seconds))
        self.retake = None
        self._saves += 1
        self.saved = (position.step, position.epoch)
        self.saved_at_seconds = time.monotonic()
        self._stalled_seconds += self.saved_at_seconds - started

    def _snapshot(self, position: Position, *, reason: str, golden: Known | None) -> Snapshot:
        everything = self.config.gradients == "always"
        return snapshot(
            self._adapters,
            self.gradients,
            position,
            reason=reason,
            everything=everything,
            golden=golden,
            late=self._late,
        )

    def _tell_empty(self, taken: Snapshot) -> None:
        if self._saves == 0 and self.resumed is None:
            for name, captured in taken.objects.items():
                if captured.emptiness:
                    warn(f"{name}: {captured.emptiness}")

    def _streams(self, blobs: Blobs) -> bool:
        """Whether the state is larger than the memory that may be kept for it."""
        most = self.config.staging.max_bytes
        with readable("the state"):
            return most is not None and self._stager.needed(blobs) > most

    def _stream(self, taken: Snapshot, offered: Offered, started: float) -> None:
        """Write out of the live tensors, piece by piece, while training stands still."""
        assert self.config.staging.max_bytes is not None
        images = self._stager.stream(taken.blobs, max_bytes=self.config.staging.max_bytes)
        stalled = partial(_seconds_since, started)
        self._background.submit(lambda: self._write(taken, images, offered, started, stalled))
        self._background.wait()

    def _stage(self, blobs: Blobs, offered: Offered) -> dict[str, Image]:
        self._stager.begin(blobs)
        with readable("the state"):
            return self._stager.stage(blobs, threads=COPY_THREADS, likely_same=_told(offered))

    def _stage_late(
        self, taken: Snapshot, offered: Offered, gate: Gate, started: float, stalled: Callable[[], float]
    ) -> None:
        blobs, live = split(taken)
        self._stager.begin(blobs)
        late = LateCopy(live)
        gate.shut(late)

        def stage_and_write() -> None:
            try:
                with readable("the state"):
                    images = self._stager.stage(blobs, threads=1, likely_same=_told(offered), copied=late.copied.set)
            finally:
                late.copied.set()
            try:
                self._write(taken, images, offered, started, stalled, agreed=late.refuse_torn)
            except TornCopyError as error:
                raise Torn(taken.reason, error) from error
            self._torn = 0

        self._background.submit(stage_and_write)

    def _write(
        self,
        taken: Snapshot,
        images: Mapping[str, Image],
        offered: Offered,
        started: float,
        stalled: Callable[[], float],
        *,
        agreed: Callable[[], None] = lambda: None,
    ) -> None:
        try:
            committed = self._commits.commit(taken, images, offered, agreed=agreed)
        except BaseException:
            self._stager.forget()  # what is staged was never published
            raise
        self._failed_saves = 0
        stall_seconds, self.save_seconds = stalled(), _seconds_since(started)
        shared = committed.written_bytes < committed.total_bytes
        emit(
            "SAVED",
            step=taken.position.step,
            stall=duration(stall_seconds),
            total=duration(self.save_seconds),
            size=size(committed.total_bytes),
            written=size(committed.written_bytes) if shared else None,
            buffers=size(self._stager.nbytes),
            kept=committed.kept,
            reason=taken.reason,
        )

    @property
    def newest_step(self) -> int | None:
        """Return the step of the newest durable checkpoint; None where there is none."""
        published = [name.step for name in self.attempt.published]
        return max(published, default=self.resumed.step if self.resumed else None)

    def best_values(self) -> tuple[float, ...]:
        """Return the durable values of `keep.best.metric` that stand for being best; seldom reads the storage."""
        if not self._commits.knows_best:
            self.drain()
        return self._commits.best_values()

    def wait(self) -> None:
        """Wait until nothing is in flight; a failure waits to be noticed."""
        if self._gate is not None:
            self._gate.settle()
        self._background.wait()

    def drain(self) -> None:
        """Wait until what is in flight is durable; a failure is counted, or raised when it may not pass.

        Being displaced by a newer attempt, and a state that cannot be stored, are raised at once; a storage that
        fails is raised after `max_failed_saves` saves in a row, and when there is no checkpoint yet.
        """
        before, started = self.stalled_seconds, time.monotonic()
        self.wait()
        self._stalled_seconds += time.monotonic() - started - (self.stalled_seconds - before)
        self.notice_failure()

    def notice_failure(self) -> None:
        """Raise or count what a save in the background failed with; does not wait."""
        if self._gate is not None:
            self._gate.settle_if_copied()
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

    def restore(self, *, without: Collection[str] = ()) -> None:
        """Put every object, the gradients and all RNG streams back to the checkpoint, in place, and prove it.

        Objects that still have exactly that state are left alone, and so are those named in `without`. Raises
        `RunMismatchError` naming what does not fit, `StateError` naming what did not come back as it was saved,
        `FencedError` if a newer attempt pruned it.
        """
        assert self._restoration is not None
        assert self.resumed is not None
        if not without and (self.late or self._late):
            refuse_other_objects(self.config.location, self._adapters, self.resumed.manifest, whole=True)
        adapters = {name: adapter for name, adapter in self._adapters.items() if name not in without}
        try:
            self._restoration.restore(adapters, self.gradients)
        except NoCheckpointError:
            self.attempt.check()
            raise

    def close(self) -> None:
        """Drain, then let go of the run's lock; safe to call twice."""
        try:
            self.wait()
            failure = self._background.failure()
            if failure is not None:
                warn(f"the last save failed: {failure}")
        finally:
            self.gradients.close()
            if self._gate is not None:
                self._gate.close()
            self._opened.unlock()


def _seconds_since(started: float) -> float:
    return time.monotonic() - started


def _told(offered: Offered) -> set[str]:
    return {name for name, before in offered.items() if before is not None}
