"""Small checkpoints for tests, made with the writer's own words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resumable.run.run import Run
from resumable.store.attempts import Attempt, begin, create_run
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName, checkpoint_path
from resumable.store.manifest import BlobRecord, Manifest, ObjectRecord
from resumable.store.publish import Blob, publish
from resumable.store.storage.protocol import Storage

BLOBS = {"model.safetensors": b"weights " * 40, "state.rank00000.json": b'{"step":1}'}


def manifest(name: CheckpointName, blobs: Mapping[str, BlobRecord], attempt: Attempt, **fields: Any) -> Manifest:
    run = Catalog(attempt.storage).run_file()
    assert run is not None
    model = ObjectRecord(kind="module", type="torch.nn.Linear", blobs=["model.safetensors"], tensors={})
    facts: dict[str, Any] = {
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
        "finished": False,
        "reason": "steps",
        "created": 1.5,
        "objects": {"model": model} if "model.safetensors" in blobs else {},
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
    blobs = [Blob(file_name, [memoryview(data)], len(data)) for file_name, data in contents.items()]
    publish(attempt.storage, attempt, name, blobs, lambda records: manifest(name, records, attempt))
    return name


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
