"""Write the staged files of a snapshot, commit them atomically, prune. Independent of objects and loops."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from resumable.checkpointing.capture.snapshot import Snapshot, broken, is_frozen
from resumable.checkpointing.claim_attempt import OpenedRun
from resumable.checkpointing.find_run import GENERATOR_RULE, PREPARED_LOADERS
from resumable.checkpointing.prune import PrunePlan, make_room, plan_of_nothing, prune
from resumable.checkpointing.reference_chain import MAX_CHAIN, chain_length, names_others
from resumable.checkpointing.slabs import NOTHING_STORED, SlabPlan, StoredSlabs, plan, stored_slabs
from resumable.config.config import Config
from resumable.errors import CheckpointError, StorageError
from resumable.policy import suspicion
from resumable.policy.retention import best_values
from resumable.policy.suspicion import Witnesses
from resumable.run.checkpoint import Checkpoint
from resumable.state.staging.file_images import FileImage
from resumable.state.staging.slab_images import SlabImage
from resumable.store.catalog import Catalog
from resumable.store.dedup import PublishedBlob, Sharing
from resumable.store.documents.manifest import BlobRecord, Manifest, ObjectRecord
from resumable.store.journal.compaction import CHECKED_BYTES, MAX_PARTS, compact
from resumable.store.journal.writer import JournalWriter
from resumable.store.layout import CheckpointName, slab_name
from resumable.store.publish import Blob, SharedBlobGoneError, publish
from resumable.store.storage.retry import PatientStorage
from resumable.utils.environment import versions
from resumable.utils.events import warn
from resumable.utils.threads import Background

DedupCandidates = Mapping[str, PublishedBlob | None]
"""By file name, the blob of the previous checkpoint where the content is probably unchanged, else None."""

_Columns = Mapping[str, Mapping[str, object]]
"""The records of all tensors, by object, as a state file holds them."""


@dataclass(frozen=True)
class Committed:
    """A new checkpoint: its size, the bytes written for it, and the number of checkpoints kept (None if unknown)."""

    total_bytes: int
    written_bytes: int
    kept: int | None


class Commits:
    """Adds checkpoints to the run, one after the other, for one attempt."""

    def __init__(
        self,
        config: Config,
        storage: PatientStorage,
        catalog: Catalog,
        opened: OpenedRun,
        journal: JournalWriter | None = None,
    ) -> None:
        self._config = config
        self._storage = storage
        self._catalog = catalog
        self._opened = opened
        self._attempt = opened.attempt
        self._journal = journal
        self._put_journal: Callable[[], None] = journal.put if journal is not None else lambda: None
        self._rule = config.keep.rule()
        self._sharing = Sharing({} if opened.shareable is None else opened.shareable.published_blobs())
        self._slabs = {} if opened.shareable is None else _resumed_slabs(opened.shareable)
        self._chain = 0 if opened.resumed is None else chain_length(opened.resumed.manifest, catalog.manifest)
        self._digesting = Background()
        self._pruned: PrunePlan | None = None  # the last one, unless it failed
        self._bounded = False  # whether this launch has looked at the journals of the launches before
        self._best: tuple[float, ...] | None = None  # the values that count as best; None while unknown
        self.witnesses = self._resumed_witnesses()  # of the newest checkpoint
        self._reported_suspect = False

    def dedup_candidates(self, file_names: Iterable[str]) -> DedupCandidates:
        """Return the candidates for sharing among these files."""
        if self._chain == MAX_CHAIN:
            return dict.fromkeys(file_names)
        return {name: self._sharing.before(name, frozen=is_frozen(name)) for name in file_names}

    def commit(
        self,
        snapshot: Snapshot,
        images: Mapping[str, FileImage],
        slabs: Mapping[str, SlabImage],
        candidates: DedupCandidates,
        *,
        confirm_copy: Callable[[], None],
    ) -> Committed:
        """Write the blobs, publish the manifest, prune. Blocks until the checkpoint is durable.

        The images were staged with `candidates`; `slabs` are those of each object. `confirm_copy` is called when all
        blobs are durable and only the manifest is missing; it raises `TornCopyError` if training wrote to the tensors
        during the copy. Raises as that and as `publish`, and `StateError` for a state beyond the limits of the format.
        Then what was written is removed again, as far as the storage allows it.
        """
        self._storage.renew()
        try:
            manifest = self._published(snapshot, images, slabs, candidates, confirm_copy)
        except SharedBlobGoneError:
            self._slabs = {}  # then all slabs are written
            manifest = self._published(snapshot, images, slabs, candidates, confirm_copy)
        self._catalog.add(manifest.name, manifest)
        self.witnesses = suspicion.witnesses_at_end([manifest])
        shared = [blob.size for blob in manifest.blobs.values() if blob.named > 1]
        total_bytes = sum(blob.size for blob in manifest.blobs.values())
        pruned = self._prune(manifest)
        self._bound_journal()
        self._remember_best(manifest, pruned)
        self._report_suspect(pruned)
        return Committed(total_bytes, total_bytes - sum(shared), len(pruned.keep) if pruned else None)

    def _published(
        self,
        snapshot: Snapshot,
        images: Mapping[str, FileImage],
        slabs: Mapping[str, SlabImage],
        candidates: DedupCandidates,
        confirm_copy: Callable[[], None],
    ) -> Manifest:
        name = CheckpointName(snapshot.position.step, snapshot.position.epoch, self._attempt.number)
        plans = {owner: self._plan(owner, image, name) for owner, image in slabs.items()}
        blobs = _blobs(images, candidates, slabs, plans)
        is_streamed = any(_shares_memory(images)) or any(_shares_memory(slabs))
        columns = self._columns(snapshot, images, plans, is_streamed=is_streamed)
        published: dict[str, PublishedBlob] = {}

        def states(written: Mapping[str, PublishedBlob]) -> Mapping[int, bytes]:
            published.update(written)
            ranges = {name: "".join(blob.digest.ranges) for name, blob in written.items()}
            return {0: snapshot.state_file(ranges=ranges, tensors=columns())}

        def confirmed(written: dict[str, BlobRecord]) -> Manifest:
            confirm_copy()
            self._put_journal()
            return self._manifest(snapshot, written, self._witnesses(snapshot, images))

        with self._cleaned_up():
            lanes = 1 if is_streamed else None
            manifest = publish(self._storage, self._attempt, name, blobs, states, confirmed, lanes=lanes)
        self._sharing.published(published)
        self._slabs = {owner: planned.stored(published) for owner, planned in plans.items()}
        self._chain = self._chain + 1 if names_others(manifest) else 0
        return manifest

    def _plan(self, owner: str, image: SlabImage, checkpoint: CheckpointName) -> SlabPlan:
        name = slab_name(owner, step=checkpoint.step, epoch=checkpoint.epoch)
        before = self._slabs.get(owner, NOTHING_STORED) if self._chain < MAX_CHAIN else NOTHING_STORED
        return plan(before, image.digests, name=name, in_turn=self._chain == 0)

    @property
    def has_best(self) -> bool:
        """Return whether `best_values` needs no request to the storage."""
        return self._best is not None

    def best_values(self) -> tuple[float, ...]:
        """Return the values of `keep.best.metric` that count as best; none where the storage fails now.

        Must not be called while a commit runs, unless `has_best`.
        """
        if self._best is None:
            try:
                self._best = self._best_of(manifest for _, manifest in self._catalog.history())
            except (StorageError, CheckpointError):
                return ()  # then every value is the best so far, and the save that follows reports the failure
        return self._best

    def _best_of(self, manifests: Iterable[Manifest]) -> tuple[float, ...]:
        metric = self._rule.best_metric
        return () if metric is None else best_values((each.metrics.get(metric) for each in manifests), self._rule)

    def _remember_best(self, added: Manifest, pruned: PrunePlan | None) -> None:
        # A prune that deletes lists the storage first: another program may have deleted there.
        if pruned is not None:
            self._best = self._best_of(each for _, each in pruned.standing.history)
        elif self._best is not None:
            self._best = best_values([*self._best, *self._best_of([added])], self._rule)

    def _resumed_witnesses(self) -> Witnesses:
        resumed = self._opened.resumed
        if resumed is None:
            return Witnesses()
        if suspicion.is_marked(resumed.manifest):
            return suspicion.witnesses_at_end([resumed.manifest])
        newest, line = resumed.manifest.name.order, [resumed.manifest]
        with suppress(StorageError, CheckpointError):  # an unreadable manifest only omits its witnesses
            line = [manifest for name, manifest in reversed(self._catalog.history()) if name.order <= newest]
        return suspicion.witnesses_at_end(line)

    def _witnesses(self, snapshot: Snapshot, images: Mapping[str, FileImage]) -> Witnesses:
        before, step = self.witnesses.tensors, snapshot.position.step
        return Witnesses(snapshot.metrics, suspicion.of_tensors(before, broken(snapshot, images), step=step))

    def _report_suspect(self, pruned: PrunePlan | None) -> None:
        """Log once that the run became suspect, and which checkpoint is kept for that."""
        suspect = self.witnesses.suspect
        if suspect is not None and not self._reported_suspect:
            finite = pruned.finite if pruned is not None else None
            kept = f"{finite} is kept regardless of `keep`" if finite else "no checkpoint from before that step exists"
            warn(
                f"{suspect.what} is not finite since step {suspect.since}: {kept}; `resumable ls` marks the suspect "
                "checkpoints, and RUN@finite is the newest other one"
            )
        self._reported_suspect = suspect is not None

    def _columns(
        self,
        snapshot: Snapshot,
        images: Mapping[str, FileImage],
        plans: Mapping[str, SlabPlan],
        *,
        is_streamed: bool,
    ) -> Callable[[], _Columns]:
        """Return a function that returns the records of all tensors; they are digested beside the writing of the files.

        Where the state is streamed it is digested while it is written, one file after the other.
        """
        if is_streamed:
            return lambda: snapshot.tensor_columns(images, plans)
        columns: dict[str, Mapping[str, object]] = {}
        self._digesting.submit(lambda: columns.update(snapshot.tensor_columns(images, plans)))

        def digested() -> _Columns:
            self._digesting.wait()
            failure = self._digesting.failure()
            if failure is not None:
                raise failure
            return columns

        return digested

    @contextmanager
    def _cleaned_up(self) -> Iterator[None]:
        """End the digesting after a failure, and make room where the storage is full."""
        try:
            yield
        except BaseException as failure:
            self._digesting.wait()
            self._digesting.failure()
            if isinstance(failure, StorageError) and failure.errno in (errno.ENOSPC, errno.EDQUOT):
                with suppress(StorageError, CheckpointError):  # the failure of the save is the one to report
                    make_room(self._storage, self._catalog, self._attempt)
            raise

    def _prune(self, added: Manifest) -> PrunePlan | None:
        """Prune, and return the plan. A failure to delete fails no save: None, and the next save tries again."""
        before, self._pruned = self._pruned, None
        nothing = plan_of_nothing(before, added, self._rule, seen=self._attempt.left.saves)
        try:
            self._pruned = nothing or prune(self._storage, self._catalog, self._attempt, self._rule)
        except (StorageError, CheckpointError) as error:
            warn(f"could not delete old checkpoints: {error.message}")
        return self._pruned

    def _bound_journal(self) -> None:
        """Keep the journal within its bounds. A failure fails no save: a later one tries again."""
        journal = self._journal
        if journal is None or not journal.active or not journal.begun:
            return
        inherits = self._attempt.number > 1 and not self._bounded
        if not inherits and not journal.has_grown(most_bytes=CHECKED_BYTES, most_parts=MAX_PARTS):
            return
        self._bounded = True
        journal.compacted()
        newest = self._pruned.keep[: self._rule.last] if self._pruned else ()
        exact_after = newest[-1].place if newest else (0, 0)
        with suppress(StorageError, CheckpointError):
            compact(
                self._storage.impatient,
                self._attempt,
                self._attempt.lineage,
                exact_after=exact_after,
                max_bytes=self._config.journal.max_bytes,
                writer=journal,
            )

    def _manifest(
        self,
        snapshot: Snapshot,
        written: Mapping[str, BlobRecord],
        witnesses: Witnesses,
    ) -> Manifest:
        position, run_file = snapshot.position, self._opened.run_file
        return Manifest(
            features=sorted(snapshot.features),
            notes={},
            run_id=run_file.run_id,
            attempt=self._attempt.number,
            token=self._attempt.token,
            lineage=list(self._attempt.lineage),
            step=position.step,
            epoch=position.epoch,
            position=position.summary() | witnesses.summary(),
            metrics=position.metrics,
            config=self._config.public() | {"data_seed": run_file.data_seed},  # in case run.json is damaged later
            versions=versions(),
            environment={
                **snapshot.environment,
                GENERATOR_RULE: self._opened.generator_rule,
                **({PREPARED_LOADERS: "address"} if self._opened.unwraps else {}),
            },
            world=1,
            mesh=None,
            finished=position.finished,
            reason=snapshot.reason,
            created=time.time(),
            objects={name: ObjectRecord(kind=each.kind, type=each.type) for name, each in snapshot.objects.items()},
            blobs=dict(written),
        )


def _shares_memory(images: Mapping[str, FileImage] | Mapping[str, SlabImage]) -> list[bool]:
    return [image.shares_memory for image in images.values()]


def _blobs(
    images: Mapping[str, FileImage],
    candidates: DedupCandidates,
    slabs: Mapping[str, SlabImage],
    plans: Mapping[str, SlabPlan],
) -> list[Blob]:
    """Return what to publish: the files of whole tensors, and those of slabs."""
    whole = [_blob(name, image, candidates[name]) for name, image in images.items()]
    return whole + [blob for owner, image in slabs.items() for blob in _slab_blobs(plans[owner], image)]


def _blob(name: str, image: FileImage, before: PublishedBlob | None) -> Blob:
    digest = before.digest if before is not None and image.unchanged else None
    return Blob(name, image.chunks, image.size, before=before, digest=digest)


def _slab_blobs(planned: SlabPlan, image: SlabImage) -> list[Blob]:
    written = Blob(planned.name, image.chunks(planned.layout.header, planned.write), planned.layout.size)
    return [written, *(Blob(name, None, file.record.size, before=file) for name, file in planned.shared.items())]


def _resumed_slabs(resumed: Checkpoint) -> dict[str, StoredSlabs]:
    """Return the slabs that a save may share with the checkpoint of this attempt's beginning."""
    return stored_slabs(resumed.records, resumed.published_blobs()) if resumed.manifest.world == 1 else {}
