"""One attempt at one run: open and lock it, snapshot its objects for saves, restore them. Independent of any loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from resumable.checkpointing.capture.golden_input import GoldenInput, golden_input
from resumable.checkpointing.capture.snapshot import Snapshot, blob_name, snapshot
from resumable.checkpointing.capture.state_bounds import growing, refuse_too_many
from resumable.checkpointing.commit import Commits
from resumable.checkpointing.hyperparameters import Hyperparameters
from resumable.checkpointing.image_memory import image_memory
from resumable.checkpointing.object_mismatch import joined_objects, late_objects, refuse_other_objects
from resumable.checkpointing.open_run import OpenedRun, open_run
from resumable.checkpointing.position import Position
from resumable.checkpointing.restore import Restoration
from resumable.checkpointing.save_pipeline import SavePipeline, SaveStatus
from resumable.config.config import Config
from resumable.errors import NoCheckpointError, StateError
from resumable.policy.suspicion import WitnessState
from resumable.run.checkpoint import GRADIENTS, LATE, Checkpoint
from resumable.state.codec.encoding_plan import Encodings
from resumable.state.objects.choose_adapter import Adapter, adapt
from resumable.state.objects.gradients import Gradients
from resumable.state.objects.modules import ModuleAdapter
from resumable.state.staging.stager import Stager
from resumable.state.tensors.slabs import SLAB_SIZES, SlabSizes
from resumable.store.catalog import Catalog
from resumable.store.journal.writer import JournalWriter
from resumable.store.storage.open import open_storage
from resumable.store.storage.retry import PatientStorage
from resumable.store.verified_images import VerifiedImages
from resumable.utils import failpoints
from resumable.utils.events import warn
from resumable.utils.memory import collector_paused


class Checkpointer:
    """Owns one attempt at one run: from discovery until `close`.

    Opening takes the run's lock, verifies the newest checkpoint (`resumed`, None for a fresh run) and claims the next
    attempt number. Raises a `ResumableError`; nothing is written into a run that does not match.

    `notes` has a source for each key of the notes of a checkpoint, called at each capture on the training thread. A
    source returns plain values, small and few, or None for nothing.
    """

    def __init__(
        self,
        config: Config,
        objects: Mapping[str, object],
        *,
        stager: Stager | None = None,
        slab_sizes: SlabSizes = SLAB_SIZES,
    ) -> None:
        started = time.monotonic()
        self.config = config
        self._adapters = adapt(objects)
        storage = open_storage(config.run, config.storage_options, probe=config.fencing != "off")
        stager = stager or Stager()
        # A second read out of the page cache takes no longer than a copy of an image, and needs no fresh memory.
        max_bytes = 0 if storage.caches_reads else config.staging.max_bytes
        self._images = VerifiedImages(image_memory(stager, self._adapters.values(), max_bytes=max_bytes))
        catalog = Catalog(storage, self._images)
        self._opened = open_run(config, storage, catalog, self._adapters)
        self.resumed, self.attempt = self._opened.resumed, self._opened.attempt
        self.run_id, self.data_seed = self._opened.run_file.run_id, self._opened.run_file.data_seed
        self.generator_rule, self.unwraps = self._opened.generator_rule, self._opened.unwraps
        self._joined = _joined(self._adapters, self.resumed)
        self.journal = _journal(config, storage, self._opened)
        self._commits = Commits(config, storage, catalog, self._opened, self.journal)
        self.witnesses = self._commits.witnesses.metrics  # of the checkpoint that this attempt resumed from
        self.gradients = Gradients(self._adapters)  # hooks only once nothing refuses the run any more
        resumed_at = (self.resumed.step, self.resumed.epoch) if self.resumed else None
        self._pipeline = SavePipeline(config, self._commits, resumed_at=resumed_at, stager=stager, started=started)
        self._restoration = Restoration(self.resumed) if self.resumed else None
        self._golden: GoldenInput | None = None
        self._late: Collection[str] = ()
        self._hyperparameters = Hyperparameters(self.resumed.manifest if self.resumed else None)
        self.notes: dict[str, Callable[[], object]] = {}
        self._prepared = False
        self._slab_sizes = slab_sizes
        self._encodings = Encodings()
        self._warned: set[str] = set()  # the objects that grow toward a bound

    # -- the objects --------------------------------------------------------------------------------------------------

    @property
    def late(self) -> frozenset[str]:
        """Return the names of objects in the checkpoint that a program creates only while it trains."""
        return late_objects(self.resumed.manifest) if self.resumed else frozenset()

    def hold(self, objects: Mapping[str, object], *, late: Collection[str]) -> None:
        """Save these objects from now on, and record those named in `late` as created while training."""
        self._adapters = adapt(objects)
        self._late = late
        self._encodings = Encodings()
        self.gradients.follow(self._adapters)

    def set_golden_input(self, batch: object, *, model: str | None = None) -> None:
        """Store this input, and the live module's output for it, in every checkpoint from now on.

        The module is run once at once. Raises `ConfigError` where it is ambiguous which module, and `StateError` where
        the module does not accept the input.
        """
        self.drain()  # a copy in flight counts writes, and putting back what the module wrote is one
        modules = {name: each.target for name, each in self._adapters.items() if isinstance(each, ModuleAdapter)}
        self._golden = golden_input(modules, batch, model=model)

    # -- saving -------------------------------------------------------------------------------------------------------

    @property
    def status(self) -> SaveStatus:
        """Return the saves of this attempt as of now."""
        return self._pipeline.status

    @property
    def newest_step(self) -> int | None:
        """Return the step of the newest durable checkpoint; None where there is none."""
        published = [name.step for name in self.attempt.published]
        return max(published, default=self.resumed.step if self.resumed else None)

    def prepare(self) -> None:
        """Prepare the memory that the next save will need, beside training; later calls do nothing.

        Best called when optimizers have stepped, and so have their state. Raises `StateError` for a state that is
        larger than a checkpoint may be.
        """
        if self._prepared or not self._pipeline.may_prepare or not self.gradients.settled:
            return
        self._prepared = True
        captured: Snapshot | None = None
        # Best effort: the next real save reports such a failure.
        with collector_paused(), suppress(StateError, OSError, MemoryError):
            captured = self._snapshot(Position(), reason="", golden=None, metrics={})
            blobs = dict(captured.blobs)
            if self.config.gradients == "auto":  # most saves find them used, and do not store them
                blobs.pop(blob_name(GRADIENTS), None)
            self._pipeline.prepare(blobs, captured.slabs)
        if captured is not None:  # optimizers of other libraries have their state by now
            refuse_too_many(captured.objects, ())

    def save(
        self, position: Position, *, reason: str, late: bool = False, metrics: Mapping[str, WitnessState] | None = None
    ) -> None:
        """Capture and stage now, write in the background; blocks only while an earlier save is still being written.

        With `late`, and where the config allows it, what only optimizers write is staged while training goes on to its
        next optimizer step. Such a save may be torn; then `status.retake` requests it again. `metrics` are the states
        of the metrics as witnesses. Raises `StateError` for a state that cannot be stored, and the failure of an
        earlier save.
        """
        self._pipeline.drain()
        failpoints.reach("save.capture", position.step)
        started = time.monotonic()

        def capture() -> Snapshot:
            captured = self._snapshot(position, reason=reason, golden=self._golden, metrics=metrics or {})
            if self._pipeline.is_first:
                _warn_of_empty(captured)
                refuse_too_many(captured.objects, self._optimizers().values())
            self._warn_of_growth(captured)
            return captured

        self._images.release()  # its memory is that of the stager
        self._pipeline.submit(capture, started=started, late=late)

    def _snapshot(
        self, position: Position, *, reason: str, golden: GoldenInput | None, metrics: Mapping[str, WitnessState]
    ) -> Snapshot:
        return snapshot(
            self._adapters,
            self.gradients,
            position,
            self._encodings,
            reason=reason,
            everything=self.config.gradients == "always",
            golden=golden,
            facts=self._facts(),
            notes={key: note for key, source in self.notes.items() if (note := source()) is not None},
            metrics=metrics,
            slab_sizes=self._slab_sizes,
        )

    def _warn_of_growth(self, captured: Snapshot) -> None:
        """Log once each object whose values take half of what the format allows."""
        for name, warning in growing(captured.objects).items():
            if name not in self._warned:
                self._warned.add(name)
                warn(warning)

    def _facts(self) -> dict[str, object]:
        created_late = {LATE: sorted(self._late)} if self._late else {}
        return {**created_late, **self._hyperparameters.record(self._optimizers())}

    def _optimizers(self, *, without: Collection[str] = ()) -> dict[str, object]:
        held = self._adapters.items()
        return {name: each.target for name, each in held if each.kind == "optimizer" and name not in without}

    def best_values(self) -> tuple[float, ...]:
        """Return the durable values of `keep.best.metric` that count as best; seldom reads the storage."""
        if not self._commits.has_best:
            self.drain()
        return self._commits.best_values()

    def wait(self) -> None:
        """Wait until no save is in flight; a failure stays until it is noticed."""
        self._pipeline.wait()

    def drain(self) -> SaveStatus:
        """Wait until the save in flight is durable, then notice a failure."""
        return self._pipeline.drain()

    def notice_failure(self) -> SaveStatus:
        """Raise or count the failure of a save in the background; does not wait."""
        return self._pipeline.notice()

    # -- restoring ----------------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """Return the position in the checkpoint that this attempt resumed from; the start for a fresh run."""
        return self._restoration.position() if self._restoration else Position()

    def restore(self, *, without: Collection[str] = ()) -> None:
        """Restore every object, the gradients and all RNG streams to the checkpoint, in place, and verify it.

        Objects that still have exactly that state are left alone, and so are those named in `without`, and those that
        the run began without. Raises `RunMismatchError` naming what does not match, `StateError` naming what did not
        come back as it was saved, `FencedError` if a newer attempt pruned it.
        """
        assert self._restoration is not None
        assert self.resumed is not None
        if not without and (self.late or self._late):
            refuse_other_objects(self.config.location, self._adapters, self.resumed, whole=True)
        left_alone = {*without, *self._joined}
        self._hyperparameters.compare(self._optimizers(without=left_alone))
        adapters = {name: adapter for name, adapter in self._adapters.items() if name not in left_alone}
        try:
            self._restoration.restore(adapters, self.gradients)
        except NoCheckpointError:
            self.attempt.check()
            raise

    def close(self) -> None:
        """Drain, then release the run's lock; safe to call twice."""
        try:
            self._pipeline.close()
        finally:
            if self.journal is not None:
                self.journal.close()
            self._images.release()
            self.gradients.close()
            self._opened.unlock()


def _journal(config: Config, storage: PatientStorage, opened: OpenedRun) -> JournalWriter | None:
    """Return the journal of this attempt, of which nothing is written before its first record; None if it is off."""
    if config.journal.mode == "off":
        return None
    return JournalWriter(
        storage.impatient,
        attempt=opened.attempt.number,
        resumed_from=opened.resumed.name if opened.resumed else None,
        flush_seconds=config.journal.flush_seconds,
        max_bytes=config.journal.max_bytes,
    )


def _joined(adapters: Mapping[str, Adapter], resumed: Checkpoint | None) -> frozenset[str]:
    """Return the names of objects that the checkpoint lacks and the run goes on with. Logs what each one loses."""
    joined = joined_objects(adapters, resumed.manifest) if resumed else frozenset()
    for name in sorted(joined):
        warn(f"{name}: the run was begun without it: {adapters[name].joins}")
    return joined


def _warn_of_empty(captured: Snapshot) -> None:
    """Log each object whose state holds nothing."""
    for name, each in captured.objects.items():
        if each.emptiness:
            warn(f"{name}: {each.emptiness}")
