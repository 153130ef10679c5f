"""A training without tensors, for tests of the store: what it saves is small, and how is the product's own code."""

from __future__ import annotations

from resumable.checkpointing.claim_attempt import OpenedRun
from resumable.run.reserved_objects import LATE
from resumable.store.dedup import PublishedBlob
from resumable.store.documents.manifest import BlobRecord, Manifest
from resumable.store.layout import CheckpointName
from resumable.store.publish import Blob, publish
from resumable.store.storage.protocol import Storage
from tests.store.building import blob_of, file_of, objects_of, published, states_of

STEPS_PER_EPOCH = 40


class Sharing:
    """A second blob, which never changes in one attempt: written anew at every third save, and shared by the others."""

    FILE_NAME = "model.frozen.safetensors"

    def __init__(self) -> None:
        self._before: PublishedBlob | None = None
        self._saves = 0

    def blob(self, token: bytes) -> Blob:
        """As it is to be published."""
        anew = self._saves % 3 == 0
        return blob_of(self.FILE_NAME, token, before=None if anew else self._before)

    def published(self, manifest: Manifest, token: bytes) -> None:
        """It was, so the next one may be the same."""
        self._before = published(manifest.blobs[self.FILE_NAME], file_of(self.FILE_NAME, token))
        self._saves += 1


def save(
    storage: Storage, opened: OpenedRun, step: int, *, loss: float | None = None, sharing: Sharing | None = None
) -> CheckpointName:
    """Publish a checkpoint of an opened run, with blobs that no other attempt would write."""
    attempt, name = opened.attempt, CheckpointName(step, step // STEPS_PER_EPOCH, opened.attempt.number)

    def manifest(blobs: dict[str, BlobRecord]) -> Manifest:
        return manifest_of(opened, name, blobs, {} if loss is None else {"loss": loss})

    token = attempt.token.encode()
    contents = {"model.safetensors": token, **({sharing.FILE_NAME: token} if sharing else {})}
    blobs = [blob_of("model.safetensors", token), *([sharing.blob(token)] if sharing else [])]
    added = publish(storage, attempt, name, blobs, states_of(contents), manifest)
    if sharing:
        sharing.published(added, token)
    return name


def manifest_of(
    opened: OpenedRun, name: CheckpointName, blobs: dict[str, BlobRecord], metrics: dict[str, float]
) -> Manifest:
    """That of a checkpoint, at an instant and under circumstances that are always the same."""
    return Manifest(
        features=[],
        notes={},
        run_id=opened.run_file.run_id,
        attempt=opened.attempt.number,
        token=opened.attempt.token,
        lineage=list(opened.attempt.lineage),
        step=name.step,
        epoch=name.epoch,
        position={},
        metrics=metrics,
        config={},
        versions={},
        environment={LATE: list(objects_of(blobs))},
        world=1,
        mesh=None,
        finished=False,
        reason="steps",
        created=0.0,
        objects=objects_of(blobs),
        blobs=blobs,
    )
