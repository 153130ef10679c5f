"""How many requests it takes to find the newest of a thousand checkpoints on a real server, and to launch from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resumable.store.attempts import Attempt
from resumable.store.catalog import Catalog
from resumable.store.documents.manifest import BlobRecord
from resumable.store.documents.sealed_json import digest
from resumable.store.layout import CheckpointName, checkpoint_path
from resumable.store.storage.retry import PatientStorage
from tests.faults.servers import shared_moto
from tests.faults.test_object_stores import Place, behind_proxy
from tests.store.building import BLOBS, launch, manifest, save


@pytest.fixture
def place() -> Iterator[Place]:
    yield from behind_proxy(shared_moto)


def many(place: Place, count: int) -> Attempt:
    """A run of many checkpoints: their folders are there, and the newest ones in full."""
    attempt = launch(place.patient(probe=False))
    client = place.server.client()
    for step in range(count - 3):
        key = f"run/{checkpoint_path(CheckpointName(step, 0, attempt.number), 'state.rank00000.json')}"
        client.put_object(Bucket=place.bucket, Key=key, Body=b"")
    for step in range(count - 3, count):
        save(attempt, step)
    return attempt


def asked(place: Place, since: int) -> list[str]:
    return place.proxy.requests[since:]


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.matrix)])
def test_the_newest_of_many_checkpoints_is_found_with_five_requests(place: Place, count: int) -> None:
    many(place, count)
    storage, before = place.patient(probe=False), len(place.proxy.requests)
    catalog = Catalog(storage)
    name, _ = next(iter(catalog.line()))
    assert name.step == count - 1
    assert len(asked(place, before)) <= 5, asked(place, before)


def test_a_second_look_asks_for_no_manifest_again(place: Place) -> None:
    attempt = launch(place.patient(probe=False))
    newest = [save(attempt, step) for step in (1, 2)][-1]
    catalog = Catalog(place.patient(probe=False))
    next(iter(catalog.line()))
    before = len(place.proxy.requests)
    assert next(iter(catalog.refreshed().line()))[0] == newest
    assert not [request for request in asked(place, before) if "manifest.json" in request]


def test_a_manifest_of_this_program_is_not_asked_for(place: Place) -> None:
    storage: PatientStorage = place.patient(probe=False)
    attempt = launch(storage)
    name, catalog = save(attempt, 1), Catalog(storage)
    records = {
        file_name: BlobRecord(
            path=checkpoint_path(name, file_name), rank=0, size=len(data), named=1, digest=digest(data)
        )
        for file_name, data in BLOBS.items()
    }
    catalog.add(name, manifest(name, records, attempt))
    before = len(place.proxy.requests)
    assert [found for found, _ in catalog.history()] == [name]
    assert not [request for request in asked(place, before) if str(name) in request]
