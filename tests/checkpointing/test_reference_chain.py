"""How many checkpoints in a row name files of others, by records that may be forged."""

from __future__ import annotations

from pathlib import Path

import pytest

from resumable.checkpointing.reference_chain import MAX_CHAIN, chain_length
from resumable.store.documents.manifest import BlobRecord, Manifest
from resumable.store.layout import CheckpointName, checkpoint_path
from resumable.store.storage.local import LocalStorage
from tests.store.building import launch, manifest

BLOB = "model.safetensors"


@pytest.fixture
def chain(tmp_path: Path) -> dict[CheckpointName, Manifest]:
    """Each names a file of the one before it; the first names none, the third the one of the first."""
    attempt = launch(LocalStorage(tmp_path / "run"))
    names = [CheckpointName(step, 0, attempt.number) for step in range(20)]

    def of(name: CheckpointName, holder: CheckpointName, named: int) -> Manifest:
        path = checkpoint_path(holder, BLOB)
        return manifest(name, {BLOB: BlobRecord(path=path, rank=0, size=1, named=named, digest="0" * 32)}, attempt)

    made = {name: of(name, names[max(name.step - 1, 0)], 2) for name in names}
    return {**made, names[0]: of(names[0], names[0], 1), names[2]: of(names[2], names[0], 3)}


def test_a_chain_ends_at_a_checkpoint_that_names_no_other(chain: dict[CheckpointName, Manifest]) -> None:
    lengths = [chain_length(each, chain.__getitem__) for each in chain.values()]
    assert lengths[:5] == [0, 1, 2, 3, 4]
    assert lengths[-1] == MAX_CHAIN


def test_two_checkpoints_that_name_each_other_are_no_endless_chain(chain: dict[CheckpointName, Manifest]) -> None:
    """A launch would hang on such records, which only a forger writes, before its first step."""
    first, second, *_ = chain
    of = {first: _renamed(chain[first], second), second: _renamed(chain[second], first)}
    looks = iter(range(100))

    def look(name: CheckpointName) -> Manifest:
        assert next(looks) < MAX_CHAIN, "it goes round and round"
        return of[name]

    assert chain_length(of[second], look) == MAX_CHAIN


def _renamed(found: Manifest, holder: CheckpointName) -> Manifest:
    record = found.blobs[BLOB].model_copy(update={"path": checkpoint_path(holder, BLOB), "named": 1})
    return found.model_copy(update={"blobs": {BLOB: record}})
