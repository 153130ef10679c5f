"""Captures, stages, writes, commits and prunes checkpoints, and restores the newest; knows no loop and no loader."""

from __future__ import annotations

import errno
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from resumable import killpoints, strictjson
from resumable.config import Config
from resumable.errors import (
    CheckpointError,
    CorruptCheckpointError,
    NoCheckpointError,
    ResumableError,
    StateError,
    StorageError,
)
from resumable.events import duration, emit, size, warn
from resumable.opening import open_run
from resumable.position import Position
from resumable.prune import make_room, prune
from resumable.run import GRADIENTS, STATE_BLOB
from resumable.state import rng
from resumable.state.codec import Encoded, encode
from resumable.state.gradients import Gradients
from resumable.state.objects import Adapter, adapt, is_empty, verify_round_trip
from resumable.state.stager import Staged, Stager, digests
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.manifest import BlobRecord, Manifest, ObjectRecord, TensorRecord
from resumable.store.storage import open_storage
from resumable.store.writer import Background, Blob, publish
from resumable.version import __version__


@dataclass(frozen=True)
class Captured:
    """One object's state, staged: tensors in host memory that training cannot touch, the rest as JSON."""

    kind: str
    type: str
    encoded: Encoded
    staged: Staged | None


@dataclass(frozen=True)
class Snapshot:
    """Everything of one boundary, ready to be written by another thread."""

    position: Position
    objects: Mapping[str, Captured]
    document: bytes
    environment: Mapping[str, Any]
    reason: str
    stall_seconds: float


class Checkpointer:
    """Owns one attempt at one run: from discovery until `close`.

    Opening takes the run's lock, verifies the newest checkpoint (`resumed`, None for a fresh run) and claims the next
    attempt number. Raises the error tree; nothing is written into a run that does not fit.
    """

    def __init__(self, config: Config, objects: Mapping[str, Any]) -> None:
        self.config = config
        self._adapters = adapt(objects)
        self._storage = open_storage(config.run, config.storage_options, probe=config.fencing != "off")
        self._catalog = Catalog(self._storage)
        self._stager = Stager()
        self._background = Background()
        self._rule = config.keep.rule()
        self._standing: Sequence[CheckpointName] | None = None  # since the last save, or unknown
        self._failed_saves = 0
        self._saves = 0
        self.saved_at_seconds = time.monotonic()
        self.save_seconds = 0.0
        self._opened = open_run(config, self._storage, self._catalog, self._adapters)
        self.resumed, self.attempt = self._opened.resumed, self._opened.attempt
        # (step, epoch) of the newest checkpoint; None if it failed, or there is none
        self.saved = (self.resumed.step, self.resumed.epoch) if self.resumed else None
        self.data_seed = self._opened.run_file.data_seed
        self.gradients = Gradients(self._adapters)  # hooks only once nothing refuses the run any more

    # -- saving -------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a save is still being written."""
        return self._background.busy

    def save(self, position: Position, *, reason: str) -> None:
        """Capture and stage now, write behind; blocks only while an earlier save is still being written.

        Raises `StateError` for a state that cannot be stored, and what an earlier save failed with.
        """
        self.drain()
        killpoints.reach("save.capture", position.step)
        started = time.monotonic()
        objects = self._capture()
        with _readable("the state"):
            document = strictjson.dumps(
                {
                    "objects": {name: captured.encoded.document for name, captured in objects.items()},
                    "rng": encode(rng.capture(), key_of=None, where="rng").document,
                    "position": encode(position.tree(), key_of=None, where="position").document,
                }
            )
        self._saves += 1
        self.saved = (position.step, position.epoch)
        self.saved_at_seconds = time.monotonic()
        stall_seconds = self.saved_at_seconds - started
        snapshot = Snapshot(position, objects, document, environment(), reason, stall_seconds)
        self._background.submit(lambda: self._write(snapshot))

    def _capture(self) -> dict[str, Captured]:
        captured = {}
        for name, adapter in self._adapters.items():
            tree = adapter.capture()
            expected = adapter.kind in ("module", "stateful")  # an empty dict may well be filled later
            if expected and self._saves == 0 and self.resumed is None and is_empty(tree):
                warn(f"{name}: its state is empty, so nothing of it will come back ({adapter.type})")
            encoded = encode(tree, key_of=adapter.key_of, where=name)
            captured[name] = Captured(adapter.kind, adapter.type, encoded, self._stage(name, encoded))
        tree = self.gradients.capture(everything=self.config.gradients == "always")
        encoded = encode(tree, key_of=".".join, where=GRADIENTS)
        captured[GRADIENTS] = Captured(GRADIENTS, GRADIENTS, encoded, self._stage(GRADIENTS, encoded))
        return captured

    def _stage(self, name: str, encoded: Encoded) -> Staged | None:
        with _readable(name):
            return self._stager.stage(f"{name}.safetensors", encoded.tensors) if encoded.tensors else None

    def _write(self, snapshot: Snapshot) -> None:
        started = time.monotonic()
        self._storage.renew()
        position = snapshot.position
        name = CheckpointName(position.step, position.epoch, self.attempt.number)
        blobs = [Blob(STATE_BLOB, [memoryview(snapshot.document)])]
        blobs += [
            Blob(f"{object_name}.safetensors", [captured.staged.buffer])
            for object_name, captured in snapshot.objects.items()
            if captured.staged
        ]
        records = {object_name: _object_record(object_name, c) for object_name, c in snapshot.objects.items()}
        try:
            manifest = publish(
                self._storage, self.attempt, name, blobs, lambda written: self._manifest(snapshot, records, written)
            )
        except StorageError as failure:
            if failure.errno in (errno.ENOSPC, errno.EDQUOT):
                with suppress(StorageError):  # the failure above is the one to tell
                    make_room(self._storage, self._catalog, self.attempt)
            raise
        self._failed_saves = 0
        kept = self._prune()
        self.save_seconds = snapshot.stall_seconds + time.monotonic() - started
        emit(
            "SAVED",
            step=position.step,
            stall=duration(snapshot.stall_seconds),
            total=duration(self.save_seconds),
            size=size(sum(blob.size for blob in manifest.blobs.values())),
            kept=kept,
            reason=snapshot.reason,
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
        self, snapshot: Snapshot, records: Mapping[str, ObjectRecord], written: Mapping[str, BlobRecord]
    ) -> Manifest:
        position = snapshot.position
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
            environment=dict(snapshot.environment),
            world=1,
            finished=position.finished,
            reason=snapshot.reason,
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
        self._failed_saves += 1
        self.saved = None
        fatal = not isinstance(failure, OSError) or (self._saves == 1 and self.resumed is None)
        if fatal or self._failed_saves >= self.config.max_failed_saves:
            raise failure
        message = failure.message if isinstance(failure, ResumableError) else str(failure)
        warn(f"save failed ({self._failed_saves} of {self.config.max_failed_saves} before training stops): {message}")

    # -- restoring ----------------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """Where the run stands by the checkpoint that this attempt resumed from; the start for a fresh run."""
        if self.resumed is None:
            return Position()
        try:
            return Position.from_tree(self.resumed.inline_tree("position"))
        except ValueError as error:
            raise CorruptCheckpointError(f"{self.resumed.name}: {error}") from error

    def restore(self) -> None:
        """Put every object, the gradients and all RNG streams back to the checkpoint, in place, and prove it.

        Objects that still have exactly that state are left alone. Raises `RunMismatchError` naming what does not fit,
        `StateError` naming what did not come back as it was saved, `FencedError` if a newer attempt pruned it.
        """
        try:
            self._restore()
        except NoCheckpointError:
            self.attempt.check()
            raise

    def _restore(self) -> None:
        assert self.resumed is not None
        for name, adapter in self._adapters.items():
            if self._differs(name, adapter) is not None:
                adapter.restore(self.resumed.tree(name))
                self._prove(name, adapter)
        self.gradients.restore(self.resumed.tree(GRADIENTS))
        lost = rng.restore(self.resumed.inline_tree("rng"))
        if lost:
            warn(f"this machine has no {', '.join(lost)}: random numbers drawn there will differ")

    def _differs(self, name: str, adapter: Adapter) -> StateError | None:
        assert self.resumed is not None
        records = self.resumed.manifest.objects[name].tensors
        try:
            verify_round_trip(adapter, self.resumed.document["objects"][name], records)
        except StateError as error:
            return error
        return None

    def _prove(self, name: str, adapter: Adapter) -> None:
        difference = self._differs(name, adapter)
        if difference is not None:
            raise difference

    def close(self) -> None:
        """Drain, then let go of the run's lock; safe to call twice."""
        try:
            self._background.wait()
            failure = self._background.failure()
            if failure is not None:
                warn(f"the last save failed: {failure}")
        finally:
            self.gradients.close()
            self._opened.unlock()


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Refuse to write what is beyond the bounds of readers."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, ResumableError):
            raise
        raise StateError(
            f"{what}: no reader would take it: {error}",
            "keep long lists in tensors, and few large tensors, not many",
        ) from error


def _object_record(name: str, captured: Captured) -> ObjectRecord:
    staged, encoded = captured.staged, captured.encoded
    if staged is None:
        return ObjectRecord(kind=captured.kind, type=captured.type, blob=None, tensors={})
    digest_of = digests(staged)
    tensors = {}
    for key in [*encoded.tensors, *encoded.aliases]:
        canonical = encoded.aliases.get(key, key)
        facts = staged.facts[canonical]
        tensors[key] = TensorRecord(
            dtype=facts.dtype,
            shape=list(facts.shape),
            global_shape=list(facts.shape),
            offsets=[0] * len(facts.shape),
            strides=None if facts.strides is None else list(facts.strides),
            alias=encoded.aliases.get(key),
            digest=digest_of[canonical],
        )
    return ObjectRecord(kind=captured.kind, type=captured.type, blob=f"{name}.safetensors", tensors=tensors)


def versions() -> dict[str, str]:
    """The versions of the libraries whose change could change bits."""
    return {
        "resumable": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }


def environment() -> dict[str, Any]:
    """What of the machine could change bits."""
    # Asking for a device's name would initialise CUDA in a program that does not use it.
    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "devices": [torch.cuda.get_device_name(i) for i in used],
    }
