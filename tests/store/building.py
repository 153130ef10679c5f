"""Small checkpoints for tests, made with the writer's own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resumable.run.reserved_objects import LATE
from resumable.run.run import Run
from resumable.state.tensors.safetensors_layout import Layout
from resumable.store.attempts import Attempt, begin, create_run
from resumable.store.catalog import Catalog
from resumable.store.dedup import PublishedBlob
from resumable.store.digesting import digest_of
from resumable.store.documents.manifest import BlobRecord, Manifest, ObjectRecord
from resumable.store.documents.rank_state import dump_rank_state
from resumable.store.documents.sealed_json import digest
from resumable.store.layout import CheckpointName, checkpoint_path, object_of
from resumable.store.publish import Blob, States, publish
from resumable.store.storage.protocol import Storage

STATE = dump_rank_state({"objects": {}, "rng": {}, "position": {}}, ranges={}, tensors={})
BLOBS = {"model.safetensors": b"weights " * 40}


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
        "environment": {LATE: list(objects_of(blobs))},  # so that a launch without objects goes on from it
        "world": 1,
        "mesh": None,
        "finished": False,
        "reason": "steps",
        "created": 1.5,
        "objects": objects_of(blobs),
        "blobs": dict(blobs),
    }
    return Manifest(**{**facts, **fields})


def launch(storage: Storage, resumed_from: CheckpointName | None = None) -> Attempt:
    """A new attempt, from a checkpoint or from the start; makes the run if there is none."""
    create_run(storage, data_seed=7)
    before = Catalog(storage).manifest(resumed_from).lineage if resumed_from else []
    return begin(storage, resumed_from=resumed_from, lineage_before=before)


def save(
    attempt: Attempt, step: int, epoch: int = 0, *, contents: Mapping[str, bytes] = BLOBS, **fields: Any
) -> CheckpointName:
    """Publish a checkpoint with blobs of these bytes, to be found and not read, and `fields` of its manifest."""
    name = CheckpointName(step, epoch, attempt.number)
    blobs = [Blob(file_name, [memoryview(data)], len(data)) for file_name, data in contents.items()]
    publish(attempt.storage, attempt, name, blobs, states, lambda records: manifest(name, records, attempt, **fields))
    return name


def save_whole(attempt: Attempt, step: int, *, contents: Mapping[str, bytes] = BLOBS) -> CheckpointName:
    """Publish a checkpoint of this attempt that is read and verified, with a tensor of these bytes in each blob."""
    name = CheckpointName(step, 0, attempt.number)
    blobs = [blob_of(file_name, data) for file_name, data in contents.items()]
    written = states_of(contents)
    publish(attempt.storage, attempt, name, blobs, written, lambda records: manifest(name, records, attempt))
    return name


def file_of(file_name: str, data: bytes) -> bytes:
    """A file of one tensor of these bytes, whose key is the name of the file."""
    return Layout([(file_name, "U8", (len(data),), len(data))]).header + data


def blob_of(file_name: str, data: bytes, before: PublishedBlob | None = None) -> Blob:
    """That file, to be published."""
    file = file_of(file_name, data)
    return Blob(file_name, [memoryview(file)], len(file), before=before)


def objects_of(blobs: Iterable[str]) -> dict[str, ObjectRecord]:
    """An object for each blob of tensors."""
    owners = {object_of(file_name) for file_name in blobs} - {None}
    return {owner: ObjectRecord(kind="module", type="torch.nn.Linear") for owner in sorted(map(str, owners))}


def states_of(contents: Mapping[str, bytes]) -> States:
    """The state file of a checkpoint that has a tensor of these bytes in each blob."""

    def states(written: Mapping[str, PublishedBlob]) -> dict[int, bytes]:
        objects = objects_of(contents)
        tensors = {
            owner: columns_of({name: data for name, data in contents.items() if object_of(name) == owner})
            for owner in objects
        }
        ranges = {name: "".join(blob.digest.ranges) for name, blob in written.items()}
        documents = {"objects": dict.fromkeys(objects), "rng": {}, "position": {}}
        return {0: dump_rank_state(documents, ranges=ranges, tensors=tensors)}

    return states


def columns_of(contents: Mapping[str, bytes]) -> dict[str, Any]:
    """The records of one object, in columns."""
    count = len(contents)
    return {
        "keys": list(contents),
        "dtypes": ["uint8"] * count,
        "shapes": [[len(data)] for data in contents.values()],
        "strides": {},
        "aliases": {},
        "blobs": list(contents),
        "pieces": {
            "key": list(range(count)),
            "blob": list(range(count)),
            "begin": [len(file_of(name, data)) - len(data) for name, data in contents.items()],
            "offsets": [None] * count,
            "shape": [None] * count,
            "own": [],
            "digest": "".join(map(digest, contents.values())),
        },
    }


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
