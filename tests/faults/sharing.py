"""A writer under test whose checkpoints share a large blob, written directly and digested beside; knows no fault.

It is the product's own store without the training around it: what is frozen is written anew at every third step, and
shared by the others, by a link or by the path in the manifest. Only the last checkpoint is kept, and what it shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from resumable.checkpointing.claim_attempt import OpenedRun
from resumable.checkpointing.prune import prune
from resumable.config.config import Config
from resumable.errors import CheckpointError, CorruptCheckpointError
from resumable.policy.retention import Rule
from resumable.store import digesting
from resumable.store.catalog import Catalog
from resumable.store.dedup import PublishedBlob
from resumable.store.documents.manifest import BlobRecord
from resumable.store.layout import CheckpointName
from resumable.store.publish import publish
from resumable.store.storage import direct_io
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.retry import PatientStorage
from tests.faults.subjects import Ear, Subject, step_of_resumable
from tests.faults.verdicts import Found, values
from tests.store.building import blob_of, file_of, published, states_of
from tests.store.opening import open_run
from tests.store.training import manifest_of

ANEW_EVERY = 3
CHANGING, FROZEN = "model.safetensors", "model.frozen.safetensors"
STATE_BYTES = sum(value.numel() * value.element_size() for value in values(0).values())
FROZEN_BYTES = bytes(number % 251 for number in range(3 * direct_io.ALIGNMENT_BYTES + 100))


class Unlinked(LocalStorage):
    """A folder on a file system without hard links."""

    def link(self, source: str, target: str) -> bool:
        self.size(source)
        return False


def train_sharing(folder: Path, until: int, ear: Ear, *, links: bool) -> None:
    """Save after every step. With two pages of it a blob is large enough for all that is done with large ones."""
    storage = PatientStorage(LocalStorage(folder) if links else Unlinked(folder))
    catalog = Catalog(storage)
    with _large_is_a_page():
        ear.reach("open")
        opened = open_run(Config(run=str(folder), data_seed=7), storage, catalog, {})
        with ExitStack() as ending:
            ending.callback(opened.unlock)
            ear.reach("start")
            before = _published(opened.resumed.manifest.blobs[FROZEN]) if opened.resumed else None
            first = opened.resumed.step + 1 if opened.resumed else 0
            for step in range(first, until + 1):
                ear.reach(f"save {step}")
                before = _save(storage, opened, step, before if step % ANEW_EVERY else None)
                prune(storage, catalog, opened.attempt, Rule(last=1))
                ear.tell(step)
                ear.reach(f"saved {step}")


@contextmanager
def _large_is_a_page() -> Iterator[None]:
    before = direct_io.DIRECT_BYTES, digesting.BESIDE_BYTES
    direct_io.DIRECT_BYTES = digesting.BESIDE_BYTES = direct_io.ALIGNMENT_BYTES
    try:
        yield
    finally:
        direct_io.DIRECT_BYTES, digesting.BESIDE_BYTES = before


def _save(storage: PatientStorage, opened: OpenedRun, step: int, before: PublishedBlob | None) -> PublishedBlob:
    attempt, name = opened.attempt, CheckpointName(step, 0, opened.attempt.number)
    state = b"".join(_bytes_of(value) for value in values(step).values())
    contents = {CHANGING: state, FROZEN: FROZEN_BYTES}
    blobs = [blob_of(CHANGING, state), blob_of(FROZEN, FROZEN_BYTES, before)]

    storage.renew()
    states = states_of(contents)
    added = publish(storage, attempt, name, blobs, states, lambda written: manifest_of(opened, name, written, {}))
    return _published(added.blobs[FROZEN])


def _published(record: BlobRecord) -> PublishedBlob:
    return published(record, file_of(FROZEN, FROZEN_BYTES))


def load_sharing(folder: Path) -> Found | None:
    """The newest that is whole; what is frozen must be what it always is."""
    catalog = Catalog(LocalStorage(folder))
    names = catalog.names()
    for name, manifest in catalog.line():
        with suppress(CorruptCheckpointError):
            if catalog.read_blob(manifest, FROZEN) != file_of(FROZEN, FROZEN_BYTES):
                return Found(-1, {})
            return Found(name.step, _values_of(catalog.read_blob(manifest, CHANGING)[-STATE_BYTES:]))
    committed = [name for name in names if _is_there(catalog, name)]
    if committed:
        raise CorruptCheckpointError(f"none of {committed} is whole")
    return None


def _is_there(catalog: Catalog, name: CheckpointName) -> bool:
    try:
        catalog.manifest(name)
    except CheckpointError:
        return False
    return True


def _bytes_of(value: Tensor) -> bytes:
    return value.numpy().tobytes()


def _values_of(data: bytearray) -> dict[str, Tensor]:
    found, start = {}, 0
    for name, like in values(0).items():
        end = start + like.numel() * like.element_size()
        found[name] = torch.frombuffer(data[start:end], dtype=like.dtype).reshape(like.shape)
        start = end
    return found


SHARING = tuple(
    Subject(f"resumable, sharing by {how}", train_sharing, load_sharing, step_of_resumable, {"links": how == "links"})
    for how in ("links", "paths")
)
