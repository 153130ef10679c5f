"""Small checkpoints for tests, made with the writer's own words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resumable.run.run import Run
from resumable.store.attempts import Attempt, begin, create_run
from resumable.store.catalog import Catalog
from resumable.store.dedup import PublishedBlob
from resumable.store.digesting import digest_of
from resumable.store.layout import CheckpointName, checkpoint_path, is_state_name
from resumable.store.manifest import BlobRecord, Manifest, ObjectRecord
from resumable.store.publish import Blob, publish
from resumable.store.rank_state import dump_rank_state
from resumable.store.storage.protocol import Storage

STATE = dump_rank_state({"objects": {}, "rng": {}, "position": {}}, ranges={}, tensors={})
BLOBS = {"model.safetensors": b"weights " * 40, "state.rank00000.json": STATE}


def manifest(name: CheckpointName, blobs: Mapping[str, BlobRecord], attempt: Attempt, **fields: Any) -> Manifest:
    run = Catalog(attempt.storage).run_file()
    assert run is not None
    facts: dict[str, Any] = {
        "features": [],
        "notes": {},
        "run_id": run.run_id,
        "attempt": attempt.number,
        "token": attempt.token,
        "lineage": list(attempt.lineage),
        "step": name.step,
        "epoch": name.epoch,
        "position": {"batch": 3},
        "metrics": {},
        "config": {"run": "runs/x", "data_seed": run.data_seed},
        "versions": {"torch": "2.13.0"},
        "environment": {},
        "world": 1,
        "mesh": None,
        "finished": False,
        "reason": "steps",
        "created": 1.5,
        "objects": {"model": ObjectRecord(kind="module", type="torch.nn.Linear")}
        if "model.safetensors" in blobs
        else {},
        "blobs": dict(blobs),
    }
    return Manifest(**{**facts, **fields})


def launch(storage: Storage, resumed_from: CheckpointName | None = None) -> Attempt:
    """A new attempt, from a checkpoint or from the start; makes the run if there is none."""
    create_run(storage, data_seed=7)
    before = Catalog(storage).manifest(resumed_from).lineage if resumed_from else []
    return begin(storage, resumed_from=resumed_from, lineage_before=before)


def save(attempt: Attempt, step: int, epoch: int = 0, *, contents: Mapping[str, bytes] = BLOBS) -> CheckpointName:
    """Publish a checkpoint of this attempt."""
    name = CheckpointName(step, epoch, attempt.number)
    blobs = [
        Blob(file_name, [memoryview(data)], len(data))
        for file_name, data in contents.items()
        if not is_state_name(file_name)
    ]
    publish(attempt.storage, attempt, name, blobs, states, lambda records: manifest(name, records, attempt))
    return name


def states(written: Mapping[str, PublishedBlob]) -> dict[int, bytes]:
    """The state file of a checkpoint without objects."""
    return {0: STATE}


def published(record: BlobRecord, data: bytes) -> PublishedBlob:
    """A blob of a published checkpoint, to be offered to the next save."""
    return PublishedBlob(record, digest_of([memoryview(data)]))


def verify_bytes(catalog: Catalog, found: Manifest) -> None:
    """Check the checkpoint, and the digest of every blob of it."""
    catalog.check(found, found.name)
    for blob in found.blobs:
        catalog.reader(found, blob).verify()


def line(storage: Storage) -> list[str]:
    """The names of a run's history, newest first, as a fresh reader sees it."""
    return [str(name) for name, _ in Catalog(storage).history()]


def multiply(run: Path, count: int) -> None:
    """Give the run `count` checkpoints that look as its newest, all of its newest attempt."""
    newest = Run(str(run)).latest().manifest
    for step in range(100, 100 + count):
        name = CheckpointName(step, newest.epoch, newest.attempt)
        folder = run / checkpoint_path(name)
        folder.mkdir()
        blobs = {}
        for file_name, blob in newest.blobs.items():
            blobs[file_name] = blob.model_copy(update={"path": checkpoint_path(name, file_name)})
            (folder / file_name).hardlink_to(run / blob.path)
        alike = newest.model_copy(update={"step": step, "blobs": blobs})
        (folder / "manifest.json").write_bytes(alike.dump())
