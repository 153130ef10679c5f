"""One attempt at one run: open and lock it, snapshot its objects for saves, restore them. Independent of any loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from resumable.checkpointing.begun_attempt import BegunAttempt, counters_of
from resumable.checkpointing.built_with.built_with import NOTE, BuiltWith
from resumable.checkpointing.capture.golden_input import GoldenInput, golden_input
from resumable.checkpointing.capture.snapshot import Snapshot, snapshot
from resumable.checkpointing.capture.state_bounds import GrowthWarnings, refuse_too_many, warn_of_empty
from resumable.checkpointing.claim_attempt import claim_attempt
from resumable.checkpointing.find_run import FoundRun, find_run, refuse_unfit
from resumable.checkpointing.image_memory import image_memory
from resumable.checkpointing.mismatch.accepted_objects import AcceptedObjects
from resumable.checkpointing.mismatch.adoption import Adoption
from resumable.checkpointing.mismatch.carried_state import CarriedNames, CarriedState, carried_names, holds_carried
from resumable.checkpointing.mismatch.object_mismatch import late_objects, refuse_other_content, refuse_other_objects
from resumable.checkpointing.position import Position
from resumable.checkpointing.restore import Restoration
from resumable.checkpointing.save_pipeline import SaveStatus, no_saves
from resumable.config.config import Config
from resumable.errors import NoCheckpointError, StateError
from resumable.policy.suspicion import WitnessState
from resumable.run.checkpoint import Checkpoint
from resumable.run.reserved_objects import CARRIED, GRADIENTS, LATE
from resumable.state.codec.encoding_plan import Encodings
from resumable.state.objects.choose_adapter import adapt
from resumable.state.objects.gradients import Gradients
from resumable.state.objects.modules import ModuleAdapter
from resumable.state.staging.stager import Stager
from resumable.state.tensors.slabs import SLAB_SIZES, SlabSizes
from resumable.store.attempts import Attempt
from resumable.store.catalog import Catalog
from resumable.store.journal.writer import JournalWriter
from resumable.store.layout import tensors_name
from resumable.store.storage.open import open_storage
from resumable.store.verified_images import VerifiedImages
from resumable.utils import failpoints
from resumable.utils.events import warn
from resumable.utils.memory import collector_paused


class Checkpointer:
    """Owns one launch of one run: from discovery until `close`.

    Opening takes the run's lock and verifies the newest checkpoint (`resumed`, None for a fresh run); objects of other
    names and kinds are refused. Nothing is claimed before `begin_attempt`, which compares what is inside the objects.

    `notes` has a source for each key of the notes of a checkpoint, called at each capture on the training thread. A
    source returns plain values, small and few, or None for nothing. `carried` has the variables of the loop, if any.
    """

    def __init__(
        self,
        config: Config,
        objects: Mapping[str, object],
        *,
        stager: Stager | None = None,
        slab_sizes: SlabSizes = SLAB_SIZES,
    ) -> None:
        self._started = time.monotonic()
        self.config = config
        self._adapters = adapt(objects)
        self._built = BuiltWith(config, self._adapters)
        self._storage = open_storage(config.run, config.storage_options, probe=config.fencing != "off")
        self._stager = stager or Stager()
        # A second read out of the page cache takes no longer than a copy of an image, and needs no fresh memory.
        max_bytes = 0 if self._storage.caches_reads else config.staging.max_bytes
        self._images = VerifiedImages(image_memory(self._stager, self._adapters.values(), max_bytes=max_bytes))
        self._catalog = Catalog(self._storage, self._images)
        self._found = find_run(config, self._storage, self._catalog, self._adapters)
        self.run_id, self.data_seed = self._found.run_file.run_id, self._found.run_file.data_seed
        self._begun: BegunAttempt | None = None
        self.carried: CarriedState | None = None
        self._accepted = AcceptedObjects()
        self.witnesses: Mapping[str, WitnessState] = {}  # of the checkpoint that this attempt resumed from
        self._stand_on(self._found)
        self.gradients = Gradients(self._adapters)  # hooks only once nothing refuses the run any more
        self._golden: GoldenInput | None = None
        self._late: Collection[str] = ()
        self.notes: dict[str, Callable[[], object]] = {NOTE: self._built.note}
        self._prepared = False
        self._slab_sizes = slab_sizes
        self._encodings = Encodings()
        self._growth = GrowthWarnings(warn)

    def _stand_on(self, found: FoundRun) -> None:
        self.resumed = found.resumed
        self.generator_rule, self.unwraps = found.generator_rule, found.unwraps
        self._restoration = Restoration(found.resumed) if found.resumed else None
        if self.carried is not None:
            self.carried.stand_on(self.carried_names)

    @property
    def attempt(self) -> Attempt | None:
        """Return the attempt of this launch; None until it is claimed."""
        return self._begun.opened.attempt if self._begun else None

    @property
    def journal(self) -> JournalWriter | None:
        """Return the journal of this attempt; None where it is off, or nothing is claimed yet."""
        return self._begun.journal if self._begun else None

    def begin_attempt(self) -> None:
        """Compare what is inside the objects with the checkpoint, then claim the next attempt. Does nothing when begun.

        Another launch may have saved since the run was found: then `resumed` is its newest checkpoint from here on.

        Raises:
            RunMismatchError: Tensors, shapes, dtypes or parameter groups differ. Nothing is claimed, and what differs
                may be mended before the next call.
            StorageError: The run cannot be written to.
            CheckpointError: No checkpoint of the run is whole any more.
        """
        if self._begun is not None:
            return
        opened = claim_attempt(self.config, self._storage, self._catalog, self._found, self._refuse_unfit)
        if opened.resumed is not self.resumed:
            self._stand_on(opened)
        self._accepted = AcceptedObjects.of(self._adapters, self.resumed, self._adoption)
        begun = BegunAttempt.of(
            self.config,
            self._storage,
            self._catalog,
            opened,
            self.position(),
            stager=self._stager,
            started=self._started,
        )
        self.witnesses = begun.commits.witnesses.metrics
        self._begun = begun

    @property
    def _saving(self) -> BegunAttempt:
        """The parts of this launch that write. Begins the attempt if that was not done before."""
        self.begin_attempt()
        assert self._begun is not None
        return self._begun

    def _refuse_unfit(self, found: Checkpoint) -> None:
        refuse_unfit(self.config, self._adapters, found)
        for name, adapter in self._adapters.items():
            if isinstance(adapter, ModuleAdapter) and name in found.manifest.objects:
                adapter.build_again(found.document["objects"][name])
        refuse_other_content(self.config.location, self._adapters, found, Restoration(found).position())

    @property
    def _adoption(self) -> Adoption:
        return Adoption(self.config.adopt, self.config.drop)

    # -- the objects --------------------------------------------------------------------------------------------------

    @property
    def names(self) -> frozenset[str]:
        """Return the names of the objects, and of those in the checkpoint that this attempt resumed from."""
        return frozenset(self._adapters).union(self.resumed.manifest.objects if self.resumed else ())

    @property
    def carried_names(self) -> CarriedNames | None:
        """Return the names of the loop's variables in the checkpoint that this attempt resumed from."""
        return carried_names(self.resumed) if self.resumed is not None else None

    @property
    def late(self) -> frozenset[str]:
        """Return the names of objects in the checkpoint that a program creates only while it trains."""
        return late_objects(self.resumed.manifest) if self.resumed else frozenset()

    @property
    def targets(self) -> Mapping[str, object]:
        """Return the objects that are saved, without their wrappers."""
        return {name: adapter.target for name, adapter in self._adapters.items()}

    def hold(self, objects: Mapping[str, object], *, late: Collection[str]) -> None:
        """Save these objects from now on, and record those named in `late` as created while training."""
        self._adapters = adapt(objects)
        self._built.see(self._adapters)
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
        if self._begun is None:
            return no_saves(resumed_at=counters_of(self.resumed), started=self._started)
        return self._begun.pipeline.status

    @property
    def newest_step(self) -> int | None:
        """Return the step of the newest durable checkpoint; None where there is none."""
        published = [name.step for name in self.attempt.published] if self.attempt else []
        return max(published, default=self.resumed.step if self.resumed else None)

    def prepare(self) -> None:
        """Prepare the memory that the next save will need, beside training; later calls do nothing.

        Best called when optimizers have stepped, and so have their state. Raises `StateError` for a state that is
        larger than a checkpoint may be.
        """
        pipeline = self._saving.pipeline
        if self._prepared or not pipeline.may_prepare or not self.gradients.settled:
            return
        self._prepared = True
        captured: Snapshot | None = None
        # Best effort: the next real save reports such a failure.
        with collector_paused(), suppress(StateError, OSError, MemoryError):
            captured = self._snapshot(Position(), reason="", golden=None, metrics={})
            blobs = dict(captured.blobs)
            if self.config.gradients == "auto":  # most saves find them used, and do not store them
                blobs.pop(tensors_name(GRADIENTS), None)
            pipeline.prepare(blobs, captured.slabs)
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
        pipeline, structure = self._saving.pipeline, self._saving.structure
        pipeline.drain()
        failpoints.reach("save.capture", position.step)
        started = time.monotonic()

        def capture() -> Snapshot:
            captured = self._snapshot(position, reason=reason, golden=self._golden, metrics=metrics or {})
            if pipeline.is_first:
                warn_of_empty(captured.objects, warn)
                refuse_too_many(captured.objects, self._optimizers().values())
            self._growth.look(captured.objects)
            return structure.noted(captured, without=self._late)

        self._images.release()  # its memory is that of the stager
        pipeline.submit(capture, started=started, late=late)

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
            carried=self.carried.capture() if self.carried else None,
            facts=self._facts(),
            notes={key: note for key, source in self.notes.items() if (note := source()) is not None},
            metrics=metrics,
            slab_sizes=self._slab_sizes,
        )

    def _facts(self) -> dict[str, object]:
        created_late = {LATE: sorted(self._late)} if self._late else {}
        return created_late | self._accepted.facts()

    def _optimizers(self) -> dict[str, object]:
        return {name: each.target for name, each in self._adapters.items() if each.kind == "optimizer"}

    def best_values(self) -> tuple[float, ...]:
        """Return the durable values of `keep.best.metric` that count as best; seldom reads the storage."""
        commits = self._saving.commits
        if not commits.has_best:
            self.drain()
        return commits.best_values()

    def wait(self) -> None:
        """Wait until no save is in flight; a failure stays until it is noticed."""
        if self._begun is not None:
            self._begun.pipeline.wait()

    def drain(self) -> SaveStatus:
        """Wait until the save in flight is durable, then notice a failure."""
        return self._begun.pipeline.drain() if self._begun is not None else self.status

    def notice_failure(self) -> SaveStatus:
        """Raise or count the failure of a save in the background; does not wait."""
        return self._begun.pipeline.notice() if self._begun is not None else self.status

    # -- restoring ----------------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """Return the position in the checkpoint that this attempt resumed from; the start for a fresh run."""
        return self._restoration.position() if self._restoration else Position()

    def restore(self, *, without: Collection[str] = ()) -> None:
        """Restore every object, the gradients, all RNG streams and carried variables to the checkpoint, and verify it.

        Objects that still have exactly that state are left alone, and so are those named in `without`, and those that
        the run goes on with although the checkpoint lacks them. Raises `RunMismatchError` naming what does not match,
        `StateError` naming what did not come back as it was saved, `FencedError` if a newer attempt pruned it.
        """
        self.begin_attempt()
        assert self._restoration is not None
        assert self.resumed is not None
        if not without:  # the head of an epoch may have changed them once more
            refuse_other_objects(self.config.location, self._adapters, self.resumed, self._adoption, whole=True)
            refuse_other_content(self.config.location, self._adapters, self.resumed, self.position(), whole=True)
        left_alone = {*without, *self._accepted.joined}
        adapters = {name: adapter for name, adapter in self._adapters.items() if name not in left_alone}
        self._built.compare(self.resumed, adapters)
        try:
            self._restoration.restore(adapters, self.gradients, dropped=self._accepted.dropped)
            if self.carried is not None:
                self.carried.restore(self.resumed.tree(CARRIED) if holds_carried(self.resumed) else None)
        except NoCheckpointError:
            self._saving.opened.attempt.check()
            raise
        self._built.overrule(adapters)

    def close(self) -> None:
        """Drain, then release the run's lock; safe to call twice."""
        try:
            if self._begun is not None:
                self._begun.pipeline.close()
        finally:
            if self.journal is not None:
                self.journal.close()
            self._images.release()
            self.gradients.close()
            self._found.unlock()
