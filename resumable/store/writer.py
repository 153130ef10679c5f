"""Publishes and deletes checkpoints, in the one order that a crash cannot spoil; knows nothing of what blobs mean."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import xxhash

from resumable.errors import FencedError
from resumable.events import size
from resumable.killpoints import reach
from resumable.store.attempts import Attempt
from resumable.store.layout import MANIFEST, CheckpointName, checkpoint_path, is_blob_name, is_own_name
from resumable.store.manifest import BlobRecord, Manifest
from resumable.store.pins import pinned
from resumable.store.storage import Storage, storage_error

PIECE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Blob:
    """A file to be: its bytes are those of `chunks`, one after the other, which must not change meanwhile."""

    file_name: str
    chunks: Sequence[memoryview]
    rank: int = 0


def publish(
    storage: Storage,
    attempt: Attempt,
    name: CheckpointName,
    blobs: Sequence[Blob],
    manifest: Callable[[dict[str, BlobRecord]], Manifest],
) -> Manifest:
    """Write the blobs and then the manifest that `manifest` makes of their records: the checkpoint exists.

    Blocks until all is durable. `FencedError` if a newer attempt owns the run: then nothing more is touched. After any
    other failure what was written is removed again, as far as the storage lets us. Where the storage can tell that
    there is too little space, nothing is written at all.
    """
    attempt.check()
    _refuse_unpublishable(attempt, name, blobs)
    _take_back(storage, name)
    _refuse_without_space(storage, name, blobs)
    try:
        records = {blob.file_name: _write_blob(storage, name, blob) for blob in blobs}
        reach("save.manifest", name.step)
        document = manifest(records)
        _refuse_foreign(document, attempt, name)
        attempt.check()
        storage.write(checkpoint_path(name, MANIFEST), [document.dump()])
    except FencedError:
        raise
    except BaseException:
        with suppress(Exception):  # the failure above is the one to tell
            attempt.check()  # a newer attempt may have resumed from it: a publication that seemed to fail may not have
            _clear(storage, name)
        raise
    attempt.published.add(name)
    reach("save.published", name.step)
    return document


def delete(storage: Storage, attempt: Attempt, name: CheckpointName) -> None:
    """Remove a checkpoint, or what an unfinished save left: the manifest first, and only names of this format.

    Blocks. One that is pinned stays, also if it was pinned a moment ago. `FencedError` if a newer attempt owns the run.
    A crash in between leaves a folder without a manifest.
    """
    if name in pinned(storage):
        return
    attempt.check()
    reach("save.prune", name.step)
    _clear(storage, name)


def _clear(storage: Storage, name: CheckpointName) -> None:
    storage.remove(checkpoint_path(name, MANIFEST))
    for entry in storage.list(checkpoint_path(name)):
        if is_own_name(entry.name) and not entry.is_dir:
            storage.remove(checkpoint_path(name, entry.name))
    storage.remove_dir(checkpoint_path(name))


def _take_back(storage: Storage, name: CheckpointName) -> None:
    """What an earlier save of this name left that failed, and could not be removed then: nobody was told of it."""
    if storage.list(checkpoint_path(name)):
        _clear(storage, name)


def _refuse_unpublishable(attempt: Attempt, name: CheckpointName, blobs: Sequence[Blob]) -> None:
    for blob in blobs:
        if not is_blob_name(blob.file_name):
            raise ValueError(f"{blob.file_name!r} is not the name of a blob")
    if len({blob.file_name.casefold() for blob in blobs}) != len(blobs):
        raise ValueError(f"blobs of {name} differ in upper and lower case only, and some filesystems see no difference")
    if name.attempt != attempt.number:
        raise ValueError(f"{name} does not belong to attempt {attempt.number}")
    if name in attempt.published:
        raise ValueError(f"{name} is published already, and nothing published is rewritten")


def _refuse_without_space(storage: Storage, name: CheckpointName, blobs: Sequence[Blob]) -> None:
    needed_bytes = sum(chunk.nbytes for blob in blobs for chunk in blob.chunks)
    free_bytes = storage.free_bytes()
    if free_bytes is not None and free_bytes < needed_bytes:
        figures = f"{os.strerror(errno.ENOSPC)}: {size(needed_bytes)} needed, {size(free_bytes)} free"
        raise storage_error("save", f"{storage.url}/{checkpoint_path(name)}", OSError(errno.ENOSPC, figures))


def _refuse_foreign(manifest: Manifest, attempt: Attempt, name: CheckpointName) -> None:
    if (manifest.name, manifest.token, tuple(manifest.lineage)) != (name, attempt.token, attempt.lineage):
        raise ValueError(f"the manifest of {manifest.name} does not belong to {name} of attempt {attempt.number}")


def _write_blob(storage: Storage, name: CheckpointName, blob: Blob) -> BlobRecord:
    reach("save.blob", name.step)
    path = checkpoint_path(name, blob.file_name)
    content = _Hashed(blob.chunks)
    size_bytes = sum(chunk.nbytes for chunk in blob.chunks)
    storage.write(path, content)
    return BlobRecord(path=path, rank=blob.rank, size=size_bytes, digest=content.hexdigest())


class _Hashed:
    """The pieces of a blob, hashed while they are written; a storage that tries again asks for all of them again."""

    def __init__(self, chunks: Sequence[memoryview]) -> None:
        self._chunks = chunks
        self._seen = xxhash.xxh3_128()

    def __iter__(self) -> Iterator[memoryview]:
        self._seen.reset()
        for chunk in self._chunks:
            view = chunk.cast("B")
            for start in range(0, len(view), PIECE_BYTES):  # small enough to be in the CPU's cache when it is written
                piece = view[start : start + PIECE_BYTES]
                self._seen.update(piece)
                yield piece

    def hexdigest(self) -> str:
        """Of what was asked for last."""
        return self._seen.hexdigest()


class Background:
    """One job at a time beside the program. A failure waits until somebody asks for it; none is lost."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is in flight."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, job: Callable[[], object]) -> None:
        """Start a job and return. `RuntimeError` if one is in flight, or if the last one's failure was not fetched."""
        if self.busy or self._failure is not None:
            raise RuntimeError("a job is in flight, or its failure was never asked for")
        self._thread = threading.Thread(target=self._run, args=(job,), name="resumable-writer", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Block until no job is in flight."""
        if self._thread is not None:
            self._thread.join()

    def failure(self) -> BaseException | None:
        """What the last job raised, once; None while it is in flight. Does not block."""
        if self.busy:
            return None
        failure, self._failure = self._failure, None
        return failure

    def _run(self, job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as failure:
            self._failure = failure
