"""Publish and delete checkpoints atomically, in an order that is safe at any crash. Independent of their content."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from resumable.errors import FencedError
from resumable.store.attempts import Attempt
from resumable.store.dedup import PublishedBlob
from resumable.store.digesting import Digested, FileDigest, digest_of
from resumable.store.documents.manifest import BlobRecord, Manifest
from resumable.store.documents.sealed_json import digest
from resumable.store.layout import MANIFEST, CheckpointName, checkpoint_path, is_blob_name, is_own_name, state_name
from resumable.store.leftovers import is_unchanged, sizes_in
from resumable.store.pins import pinned
from resumable.store.storage.own_files import is_temporary
from resumable.store.storage.protocol import Entry, Storage, storage_error
from resumable.utils.events import size
from resumable.utils.failpoints import reach
from resumable.utils.threads import in_lanes


@dataclass(frozen=True)
class Blob:
    """A file to publish: `size` bytes, those of `chunks`, one after the other.

    `chunks` yields the same bytes at each iteration; the memory of one may be reused once the next one is requested.
    `before` is this blob in a published checkpoint of this run, if it is probably unchanged. Then it is digested first,
    and shared instead of written if the digests match. `digest` is that of the bytes, if it was computed before. A blob
    without `chunks` is `before`, and can only be shared: some of its parts are proved, and no other part is read.
    `link` gives a proved file of another run, of this `digest`, a path here; it returns False without hard links.
    """

    file_name: str
    chunks: Iterable[memoryview] | None
    size: int
    rank: int = 0
    before: PublishedBlob | None = None
    digest: FileDigest | None = None
    link: Callable[[str], bool] | None = None


class SharedBlobGoneError(Exception):
    """A file is gone, or has another size, which a save was to share, and whose bytes it cannot write again."""


States = Callable[[Mapping[str, PublishedBlob]], Mapping[int, bytes]]
"""Returns the state file of each rank, for the published blobs of tensors by file name."""


def publish(
    storage: Storage,
    attempt: Attempt,
    name: CheckpointName,
    blobs: Sequence[Blob],
    states: States,
    manifest: Callable[[dict[str, BlobRecord]], Manifest],
    *,
    lanes: int | None = None,
) -> Manifest:
    """Write the blobs of tensors, the state files, and the manifest of the records of all: this commits the checkpoint.

    Blobs that did not change since `before` are shared instead of written: by a hard link, or by the path in their
    record. `lanes` is how many are written at once: 1 if their chunks share memory, the storage's own number by
    default. Blocks until everything is durable. After any failure but `FencedError` the files written so far are
    removed, if the storage lets us.

    Raises:
        FencedError: A newer attempt owns the run. Nothing more is touched.
        StorageError: The storage failed, or it reported too little space before anything was written.
        SharedBlobGoneError: A blob without `chunks` is gone.
    """
    attempt.check()
    _refuse_unpublishable(attempt, name, blobs)
    _take_back_failed_save(storage, attempt, name)
    blobs = [_only_unchanged_before(blob) for blob in blobs]
    _refuse_without_space(storage, name, blobs)
    try:
        records = _put_files(storage, name, blobs, states, lanes=lanes or storage.parallel)
        reach("save.manifest", name.step)
        document = manifest(records)
        _refuse_foreign(document, attempt, name)
        attempt.check()
        storage.write(checkpoint_path(name, MANIFEST), [document.dump()])
    except FencedError:
        raise
    except BaseException:
        attempt.failed.add(name)
        with suppress(Exception):  # the failure above is the one to report
            _take_back(storage, attempt, name)
        raise
    attempt.published.add(name)
    reach("save.published", name.step)
    return document


def delete(
    storage: Storage,
    attempt: Attempt,
    names: Sequence[CheckpointName],
    *,
    files: Mapping[CheckpointName, Sequence[Entry]] | None = None,
) -> list[CheckpointName]:
    """Remove checkpoints, or the files of unfinished saves: the manifests first, and only names of this format.

    The caller has checked that no manifest that stays names a blob in them, nor that of one of them a blob in another.
    `files` are those in their folders, as far as they were listed just now. Blocks. A crash meanwhile leaves folders
    without a manifest.

    Returns:
        Those that were removed: not the pinned ones, also if they were pinned just now.

    Raises:
        FencedError: A newer attempt owns the run.
        StorageError: The storage failed; any of them may be removed.
    """
    pins = pinned(storage)
    going = [name for name in names if name not in pins]
    if going:
        attempt.check()
        for name in going:
            reach("save.prune", name.step)
        _clear(storage, going, files or {})
    return going


def delete_unfinished(storage: Storage, attempt: Attempt, name: CheckpointName) -> bool:
    """Remove a save without a manifest, if it holds what it held when `attempt` saw it before.

    Otherwise it may be growing. Then it stays, and its content counts as seen now. The caller has checked that no
    manifest names a blob in it. A manifest that appears meanwhile stays: it lacks its blobs, and so it is rejected.

    Returns:
        False if the folder stays, also because it is pinned.

    Raises:
        FencedError: A newer attempt owns the run.
    """
    found = sizes_in(storage, checkpoint_path(name))
    going = [file for file in found if is_deletable(file)]
    if MANIFEST in found or not is_unchanged(attempt.left.saves.get(name), found, going):
        attempt.left.saves[name] = found
        return False
    if name in pinned(storage):
        return False
    attempt.check()
    reach("save.prune", name.step)
    storage.remove_all([checkpoint_path(name, file) for file in going])
    storage.remove_dir(checkpoint_path(name))
    attempt.left.saves.pop(name)
    return True


def delete_stale_files(storage: Storage, attempt: Attempt) -> None:
    """Remove the other files that earlier attempts left, if they are as `attempt` saw them at its launch. Once.

    Raises as `delete`.
    """
    seen, attempt.left.files = attempt.left.files, {}
    for folder, before in seen.items():
        now = sizes_in(storage, folder)
        going = [file for file, size in before.items() if size is not None and now.get(file) == size]
        if going:
            attempt.check()
            storage.remove_all([f"{folder}/{file}" if folder else file for file in going])


def is_deletable(file_name: str) -> bool:
    """Return whether deleting a checkpoint removes a file of this name from its folder."""
    return is_own_name(file_name) or is_temporary(file_name)


def _clear(storage: Storage, names: Sequence[CheckpointName], files: Mapping[CheckpointName, Sequence[Entry]]) -> None:
    storage.remove_all([checkpoint_path(name, MANIFEST) for name in names])
    storage.remove_all(
        [
            checkpoint_path(name, entry.name)
            for name in names
            for entry in (files[name] if name in files else storage.list(checkpoint_path(name)))
            if not entry.is_dir and entry.name != MANIFEST and is_deletable(entry.name)
        ]
    )
    for name in names:
        storage.remove_dir(checkpoint_path(name))


def _take_back(storage: Storage, attempt: Attempt, name: CheckpointName) -> None:
    """Remove the files of a save that failed, unless a newer attempt may use them.

    A publication that seems to have failed may exist, and a newer attempt may resume from it, and share its blobs.
    """
    attempt.check()
    storage.remove(checkpoint_path(name, MANIFEST))
    attempt.check()
    _clear(storage, [name], {})
    attempt.failed.discard(name)


def _take_back_failed_save(storage: Storage, attempt: Attempt, name: CheckpointName) -> None:
    """Remove the files of an earlier save of this name, which failed, was never reported, and could not be removed."""
    if name in attempt.failed:
        _take_back(storage, attempt, name)


def _refuse_unpublishable(attempt: Attempt, name: CheckpointName, blobs: Sequence[Blob]) -> None:
    for blob in blobs:
        if not is_blob_name(blob.file_name):
            raise ValueError(f"{blob.file_name!r} is not the name of a blob")
    if len({blob.file_name.casefold() for blob in blobs}) != len(blobs):
        raise ValueError(f"blobs of {name}: names differ only in case, which some filesystems ignore")
    if name.attempt != attempt.number:
        raise ValueError(f"{name} does not belong to attempt {attempt.number}")
    if name in attempt.published:
        raise ValueError(f"{name} is published already: nothing published is rewritten")


def _refuse_without_space(storage: Storage, name: CheckpointName, blobs: Sequence[Blob]) -> None:
    needed_bytes = sum(blob.size for blob in blobs if blob.before is None and blob.link is None)
    free_bytes = storage.free_bytes()
    if free_bytes is not None and free_bytes < needed_bytes:
        figures = f"{os.strerror(errno.ENOSPC)}: {size(needed_bytes)} needed, {size(free_bytes)} free"
        raise storage_error("save", f"{storage.url}/{checkpoint_path(name)}", OSError(errno.ENOSPC, figures))


def _refuse_foreign(manifest: Manifest, attempt: Attempt, name: CheckpointName) -> None:
    if (manifest.name, manifest.token, tuple(manifest.lineage)) != (name, attempt.token, attempt.lineage):
        raise ValueError(f"the manifest of {manifest.name} does not belong to {name} of attempt {attempt.number}")


def _put_files(
    storage: Storage, name: CheckpointName, blobs: Sequence[Blob], states: States, *, lanes: int
) -> dict[str, BlobRecord]:
    """Write the blobs of tensors, then the state files, and return the records of all."""
    written = in_lanes(lambda blob: _put(storage, name, blob), blobs, lanes)
    published = dict(zip((blob.file_name for blob in blobs), written, strict=True))
    records = {file_name: blob.record for file_name, blob in published.items()}
    for rank, state in states(published).items():
        records[state_name(rank)] = _put_state(storage, name, rank, state)
    return records


def _put(storage: Storage, name: CheckpointName, blob: Blob) -> PublishedBlob:
    reach("save.blob", name.step)
    path = checkpoint_path(name, blob.file_name)
    return _shared(storage, path, blob) or _linked(path, blob) or _written(storage, path, blob)


def _put_state(storage: Storage, name: CheckpointName, rank: int, state: bytes) -> BlobRecord:
    reach("save.blob", name.step)
    path = checkpoint_path(name, state_name(rank))
    storage.write(path, [memoryview(state)])
    return BlobRecord(path=path, rank=rank, size=len(state), named=1, digest=digest(state))


def _only_unchanged_before(blob: Blob) -> Blob:
    """Return the blob, with its `before` only if it is the same, byte for byte."""
    before = blob.before
    if before is None or blob.chunks is None:
        return blob
    if before.record.size == blob.size and before.digest == (blob.digest or digest_of(blob.chunks)):
        return blob
    return replace(blob, before=None)


def _shared(storage: Storage, path: str, blob: Blob) -> PublishedBlob | None:
    """Share the file that holds these bytes already: by a hard link, or by its path. Return None if it is gone."""
    if blob.before is None:
        return None
    before = blob.before.record
    try:
        if storage.size(before.path) != before.size:
            return None
        linked = storage.link(before.path, path)
    except (FileNotFoundError, ValueError):
        return None
    changes = {"path": path if linked else before.path, "named": before.named + 1}
    return replace(blob.before, record=before.model_copy(update=changes))


def _linked(path: str, blob: Blob) -> PublishedBlob | None:
    if blob.link is None or blob.digest is None or not blob.link(path):
        return None
    return PublishedBlob(
        BlobRecord(path=path, rank=blob.rank, size=blob.size, named=1, digest=blob.digest.value), blob.digest
    )


def _written(storage: Storage, path: str, blob: Blob) -> PublishedBlob:
    if blob.chunks is None:
        raise SharedBlobGoneError(f"{blob.file_name}: not to be found any more")
    content = Digested(blob.chunks)
    storage.write(path, content)
    if content.size != blob.size:
        raise ValueError(f"{blob.file_name}: {content.size} bytes in its chunks, expected {blob.size}")
    found = content.digest()
    record = BlobRecord(path=path, rank=blob.rank, size=blob.size, named=1, digest=found.value)
    return PublishedBlob(record, found)
