"""Requests that are under way at once: as many as there should be, never more, and none of them outlives a failure.

That some are at once is seen by holding them back: their answers come when all of them have.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from resumable.errors import StorageError
from resumable.store.storage import fsspec_storage
from resumable.store.storage.fsspec_storage import FsspecStorage
from tests.faults.http_proxy import FaultProxy, Request, Rule
from tests.faults.servers import botocore_session, shared_moto
from tests.faults.test_object_stores import PART_BYTES, SMALL, Place
from tests.store.building import launch, save

AT_ONCE = 3
PARTS = 5
LARGE = os.urandom(PARTS * PART_BYTES)
PART = "partNumber="


class WatchedProxy(FaultProxy):
    """Knows how many requests were open at the same time, at most: come whole, and not answered."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._requests: dict[int, Request] = {}
        self.most_open = 0

    @property
    def open(self) -> int:
        """How many are now."""
        return len(self._requests)

    async def _harm(self, rule: Rule, request: Request, writer: asyncio.StreamWriter) -> None:
        with self._counted(request):
            await super()._harm(rule, request, writer)

    async def _pass_on(self, request: Request, body: bytes | None = None) -> bytes:
        with self._counted(request):
            return await super()._pass_on(request, body)

    @contextmanager
    def _counted(self, request: Request) -> Iterator[None]:
        self._requests[id(request)] = request
        self.most_open = max(self.most_open, self.open)
        try:
            yield
        finally:
            self._requests.pop(id(request), None)


class InThread(threading.Thread):
    """A call beside the test, and what became of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.result: object = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.result = error

    def outcome(self) -> object:
        """What it returned or raised."""
        self.join(60)
        assert not self.is_alive()
        return self.result


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(fsspec_storage, "SINGLE_REQUEST_BYTES", PART_BYTES)
    monkeypatch.setattr(fsspec_storage, "REQUEST_BYTES", PART_BYTES)
    with WatchedProxy(shared_moto().port) as proxy:
        yield Place(shared_moto(), proxy)


def storage(place: Place) -> FsspecStorage:
    """The storage without patience, with few requests at once, each of which may take long."""
    config = {"retries": {"total_max_attempts": 1}, "read_timeout": 300}
    options: dict[str, Any] = place.server.options(place.proxy.endpoint, **config)
    options |= {"default_block_size": PART_BYTES, "max_concurrency": AT_ONCE, "session": botocore_session()}
    return place.opened(options)


def until(happened: Callable[[], object]) -> None:
    """Block until it has."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def hold(place: Place, method: str, path: str, times: int | None = None) -> Rule:
    return place.proxy.inject("held", method, path, times=times)


def watched(place: Place) -> WatchedProxy:
    assert isinstance(place.proxy, WatchedProxy)
    return place.proxy


def kinds(place: Place) -> Counter[str]:
    """How many requests there were of each method."""
    return Counter(request.partition(" ")[0] for request in place.proxy.requests)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_parts_are_under_way_at_once_and_never_more_than_there_may_be(place: Place) -> None:
    rule = hold(place, "PUT", PART)
    writing = InThread(lambda: storage(place).write("a/f", [LARGE]))
    until(lambda: rule.fired == AT_ONCE)
    rule.release.set()
    assert writing.outcome() is None
    assert place.content("a/f") == LARGE
    assert watched(place).most_open == AT_ONCE
    assert kinds(place) == {"POST": 2, "PUT": PARTS}


def test_files_written_side_by_side_share_the_room_for_parts(place: Place) -> None:
    shared = storage(place)
    rule = hold(place, "PUT", PART)
    writing = [InThread(lambda name=name: shared.write(f"a/{name}", [LARGE])) for name in ("f", "g")]  # type: ignore[misc]
    until(lambda: rule.fired == AT_ONCE)
    rule.release.set()
    assert [thread.outcome() for thread in writing] == [None, None]
    assert (place.content("a/f"), place.content("a/g")) == (LARGE, LARGE)
    assert watched(place).most_open <= AT_ONCE + 1  # the beginning or the end of the other


def test_a_part_that_fails_stops_the_others_at_once_and_leaves_nothing(place: Place) -> None:
    hung = place.proxy.inject("hang", "PUT", f"{PART}1&")
    held = hold(place, "PUT", f"{PART}[23]&")
    failing = place.proxy.inject("503", "PUT", f"{PART}([4-9]|10)&", times=None)
    shared = storage(place)
    writing = InThread(lambda: shared.write("a/f", [LARGE, LARGE]))
    until(lambda: hung.fired and held.fired == 2)
    held.release.set()
    assert isinstance(writing.outcome(), StorageError)
    assert failing.fired
    assert place.server.objects(place.bucket) == {}
    assert place.unfinished_uploads() == []
    place.put("g", LARGE)
    after = hold(place, "GET", "/run/g")
    reading = InThread(lambda: shared.read_into("g", memoryview(bytearray(len(LARGE)))))
    until(lambda: after.fired == AT_ONCE)  # there is room for all: not even the one without an answer goes on
    after.release.set()
    assert reading.outcome() == len(LARGE)


def test_an_upload_in_progress_is_not_taken_for_one_that_was_left(place: Place) -> None:
    shared = storage(place)
    ill = [place.proxy.inject("503", "PUT", PART), place.proxy.inject("503", "GET|DELETE", "", times=None)]
    with pytest.raises(StorageError):
        shared.write("a/f", [LARGE])
    assert all(rule.fired for rule in ill)
    held = hold(place, "PUT", f"{PART}1&")
    again = InThread(lambda: shared.write("a/f", [LARGE]))  # cannot look for what was left: the server is ill
    until(lambda: held.fired)
    place.proxy.heal()
    shared.write("a/small", [SMALL])
    held.release.set()
    assert again.outcome() is None
    assert place.content("a/f") == LARGE
    assert place.unfinished_uploads() == ["run/a/f"]
    shared.write("a/small", [SMALL])
    assert place.unfinished_uploads() == []


# -- reading ----------------------------------------------------------------------------------------------------------


def test_ranges_come_at_once_and_never_more_than_there_may_be(place: Place) -> None:
    place.put("f", LARGE)
    rule = hold(place, "GET", "/run/f")
    buffer = bytearray(len(LARGE) + 10)
    reading = InThread(lambda: storage(place).read_into("f", memoryview(buffer)))
    until(lambda: rule.fired == AT_ONCE)
    rule.release.set()
    assert reading.outcome() == len(LARGE)
    assert buffer == LARGE + bytes(10)
    assert watched(place).most_open == AT_ONCE
    assert kinds(place) == {"GET": PARTS + 1}


def test_memory_is_let_go_of_by_a_read_that_failed(place: Place) -> None:
    place.put("f", LARGE)
    held = hold(place, "GET", "/run/f", times=2)
    place.proxy.inject("503", "GET", "/run/f", times=None)
    buffer = bytearray(len(LARGE))
    with pytest.raises(StorageError, match="cannot read"):
        storage(place).read_into("f", memoryview(buffer))
    assert held.fired == 2
    held.release.set()
    until(lambda: not watched(place).open)
    assert storage(place).size("f") == len(LARGE)  # what came late has passed by
    assert buffer == bytes(len(LARGE))


# -- removing ---------------------------------------------------------------------------------------------------------


def test_files_are_removed_at_once_where_no_request_removes_several(place: Place) -> None:
    names = [f"f{number}" for number in range(2 * AT_ONCE)]
    for name in names:
        place.put(name, SMALL)
    place.proxy.inject("501", "POST", "delete", times=None)
    rule = hold(place, "DELETE", "/run/f")
    removing = InThread(lambda: storage(place).remove_all([*names, "missing"]))
    until(lambda: rule.fired == AT_ONCE)
    rule.release.set()
    assert removing.outcome() is None
    assert place.server.objects(place.bucket) == {}
    assert watched(place).most_open == AT_ONCE


# -- how many ---------------------------------------------------------------------------------------------------------


def test_a_save_asks_once_for_each_blob_and_six_times_besides(place: Place) -> None:
    attempt = launch(storage(place))
    counted = []
    for step, blobs in ((1, 2), (2, 12)):
        place.proxy.requests.clear()
        save(attempt, step, contents={f"b{number}.safetensors": SMALL for number in range(blobs)})
        counted.append(kinds(place))
    assert counted[0]["PUT"] == 2 + 2
    assert counted[1] - counted[0] == {"PUT": 10}
    assert counted[0] == {"PUT": 2 + 2, "GET": 2 * 2 + 1}, counted  # the state, the manifest; two looks, and run.json


def test_blobs_of_a_save_are_under_way_at_once(place: Place) -> None:
    attempt = launch(storage(place))
    rule = hold(place, "PUT", "/b[0-9]")
    saving = InThread(
        lambda: save(attempt, 1, contents={f"b{number}.safetensors": SMALL for number in range(2 * AT_ONCE)})
    )
    until(lambda: rule.fired == AT_ONCE)
    assert not [request for request in place.proxy.requests if "manifest.json" in request]
    rule.release.set()
    assert not isinstance(saving.outcome(), BaseException)
    assert watched(place).most_open == AT_ONCE
