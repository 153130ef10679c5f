"""A real S3 server behind a proxy that does what networks do: what was answered is there, whole, and nothing is left.

Every fault is asserted to have fired. "Lost" requests come several times in a row, because clients below us hide one.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from fsspec.core import url_to_fs

from resumable.errors import StorageError
from resumable.store.catalog import Catalog
from resumable.store.storage import fsspec_storage
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.store.storage.open import open_storage
from resumable.store.storage.protocol import Entry
from resumable.store.storage.retry import PatientStorage
from resumable.store.storage.s3 import backend as s3
from tests.faults.http_proxy import Fault, FaultProxy, Rule
from tests.faults.servers import S3Server, botocore_session, shared_moto, shared_rclone
from tests.store.building import launch, line, save, verify_bytes

MIB = 2**20
PART_BYTES = 5 * MIB
SMALL = os.urandom(50_000)
LARGE = os.urandom(2 * PART_BYTES + 1000)
IMPATIENT = {"retries": {"total_max_attempts": 1}, "read_timeout": 1}

Injected = tuple[Fault, str, str]


class Place:
    """One run in a new bucket: the storage under test behind the proxy, and what the server really has."""

    def __init__(self, server: S3Server, proxy: FaultProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.bucket = server.new_bucket()

    def raw(self, *, probe: bool = True, **config: Any) -> FsspecStorage:
        """The storage without patience, and with botocore's own repetitions turned off."""
        options = self.server.options(self.proxy.endpoint, **{**IMPATIENT, **config})
        return self.opened(options | {"default_block_size": PART_BYTES, "session": botocore_session()}, probe=probe)

    def opened(self, options: dict[str, Any], *, probe: bool = True) -> FsspecStorage:
        """The storage with these `storage_options`."""
        url = f"s3://{self.bucket}/run"
        file_system, root = url_to_fs(url, **options, skip_instance_cache=True)
        return FsspecStorage(file_system, root, url, probe=probe)

    def paged(self, length: int) -> FsspecStorage:
        """With lists in pages of this length, as those of a thousand are."""
        storage = self.raw()
        storage._backend._fs.s3_additional_kwargs = {"MaxKeys": length}
        return storage

    def patient(self, *, probe: bool = True, **config: Any) -> PatientStorage:
        """As the product uses it, but for the waiting."""
        return PatientStorage(self.raw(probe=probe, **config), sleep=lambda seconds: None)

    def content(self, path: str) -> bytes | None:
        """What the server has, past the proxy and the client under test."""
        if f"run/{path}" not in self.server.objects(self.bucket):
            return None
        return bytes(self.server.client().get_object(Bucket=self.bucket, Key=f"run/{path}")["Body"].read())

    def put(self, path: str, data: bytes) -> None:
        """Another program writes."""
        self.server.client().put_object(Bucket=self.bucket, Key=f"run/{path}", Body=data)

    def remove(self, path: str) -> None:
        """Another program removes."""
        self.server.client().delete_object(Bucket=self.bucket, Key=f"run/{path}")

    def unfinished_uploads(self) -> list[str]:
        """Multipart uploads left over."""
        return self.server.unfinished_uploads(self.bucket)

    def wait_for_parts(self, path: str, numbers: Sequence[int]) -> None:
        """Block until these parts of the one upload of this file are with the server."""
        where = {"Bucket": self.bucket, "Key": f"run/{path}"}
        [upload] = self.server.client().list_multipart_uploads(Bucket=self.bucket)["Uploads"]
        deadline = time.monotonic() + 60
        while True:
            listed = self.server.client().list_parts(**where, UploadId=upload["UploadId"])
            if [part["PartNumber"] for part in listed.get("Parts", [])] == list(numbers):
                return
            assert time.monotonic() < deadline
            time.sleep(0.01)


def behind_proxy(server: Callable[[], S3Server]) -> Iterator[Place]:
    """A place on this server, and the proxy for as long as the test lasts."""
    with FaultProxy(server().port) as proxy:
        yield Place(server(), proxy)


@pytest.fixture
def place() -> Iterator[Place]:
    yield from behind_proxy(shared_moto)


@pytest.fixture
def careless() -> Iterator[Place]:
    """On a server that ignores conditions."""
    yield from behind_proxy(shared_rclone)


@pytest.fixture
def _in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec_storage, "SINGLE_REQUEST_BYTES", PART_BYTES)
    monkeypatch.setattr(fsspec_storage, "REQUEST_BYTES", PART_BYTES)


def inject(place: Place, faults: Sequence[Injected], times: int | None = 3) -> list[Rule]:
    return [place.proxy.inject(fault, method, path, times=times) for fault, method, path in faults]


def assert_fired(rules: Sequence[Rule]) -> None:
    assert [rule.fault for rule in rules if not rule.fired] == []


# -- writing ----------------------------------------------------------------------------------------------------------

WRITE_FAULTS: list[Fault] = ["400", "500", "503", "reset", "reset_after", "cut_request", "cut_reply", "twice"]


@pytest.mark.parametrize("fault", WRITE_FAULTS)
def test_a_small_file_arrives_whole(place: Place, fault: Fault) -> None:
    rules = inject(place, [(fault, "PUT", "/run/a/f$")])
    place.patient().write("a/f", [SMALL])
    assert_fired(rules)
    assert place.content("a/f") == SMALL


@pytest.mark.parametrize("fault", ["late", "hang"])
def test_an_answer_that_does_not_come_in_time_is_not_waited_for(place: Place, fault: Fault) -> None:
    rules = inject(place, [(fault, "PUT", "/run/a/f$")], times=1)
    place.patient().write("a/f", [SMALL])
    assert_fired(rules)
    assert place.content("a/f") == SMALL


def test_a_server_that_stops_reading_does_not_hold_a_save_for_ever(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "REQUEST_SECONDS", 2)
    rules = inject(place, [("stall", "PUT", "/run/a/f$")], times=1)
    data = bytes(30 * MIB)  # more than the sockets between here and there hold
    place.patient(read_timeout=60).write("a/f", [data])
    assert_fired(rules)
    assert place.server.objects(place.bucket) == {"run/a/f": len(data)}


PART_FAULTS: dict[str, list[Injected]] = {
    "begin-503": [("503", "POST", r"\?uploads")],
    "begin-reset-after": [("reset_after", "POST", r"\?uploads")],
    "part-500": [("500", "PUT", "partNumber=2")],
    "part-reset-after": [("reset_after", "PUT", "partNumber=2")],
    "part-cut": [("cut_request", "PUT", "partNumber=1&")],
    "part-twice": [("twice", "PUT", "partNumber=2")],
    "end-500": [("500", "POST", "uploadId=")],
    "end-reset": [("reset", "POST", "uploadId=")],
    "end-reset-after": [("reset_after", "POST", "uploadId=")],
    "end-twice": [("twice", "POST", "uploadId=")],
    "abort-503": [("503", "PUT", "partNumber=2"), ("503", "DELETE", "uploadId=")],
}
USUAL_PART_FAULTS = ("begin-reset-after", "part-500", "end-reset-after", "abort-503")


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(faults, id=name, marks=() if name in USUAL_PART_FAULTS else pytest.mark.matrix)
        for name, faults in PART_FAULTS.items()
    ],
)
@pytest.mark.usefixtures("_in_parts")
def test_a_large_file_arrives_whole_and_leaves_no_upload(place: Place, faults: Sequence[Injected]) -> None:
    rules = inject(place, faults, times=1)
    place.patient().write("a/f", [LARGE])
    assert_fired(rules)
    assert place.content("a/f") == LARGE
    assert place.unfinished_uploads() == []


@pytest.mark.usefixtures("_in_parts")
def test_a_source_that_fails_midway_publishes_nothing_and_leaves_no_upload(place: Place) -> None:
    def source() -> Iterator[bytes]:
        yield LARGE
        place.wait_for_parts("a/f", [1, 2])
        raise OSError(5, "Input/output error")

    with pytest.raises(StorageError, match="Input/output error"):
        place.raw().write("a/f", source())
    assert place.server.objects(place.bucket) == {}
    assert place.unfinished_uploads() == []


@pytest.mark.usefixtures("_in_parts")
def test_an_upload_that_could_not_be_aborted_is_aborted_by_the_next_write(place: Place) -> None:
    storage = place.raw()
    rules = [place.proxy.inject("503", "PUT", "partNumber=2"), place.proxy.inject("503", "GET|DELETE", "", times=None)]
    with pytest.raises(StorageError, match="cannot write"):
        storage.write("a/f", [LARGE])
    assert_fired(rules)
    assert place.unfinished_uploads() == ["run/a/f"]
    place.proxy.heal()
    storage.write("a/other", [SMALL])
    assert place.server.objects(place.bucket) == {"run/a/other": len(SMALL)}
    assert place.unfinished_uploads() == []


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_a_server_that_stays_overloaded_fails_within_the_patience_with_its_words(place: Place, method: str) -> None:
    place.put("f", SMALL)
    now = itertools.count().__next__  # every look at the clock is a second later
    storage = PatientStorage(place.raw(), clock=now, sleep=lambda seconds: None)
    rule = place.proxy.inject("503", method, "/run/f", times=None)
    with pytest.raises(StorageError, match=rf"cannot (write|read) s3://{place.bucket}/run/f: Injected"):
        storage.write("f", [SMALL]) if method == "PUT" else storage.read("f", max_bytes=10**6)
    assert 3 < rule.fired < FsspecStorage.patience_seconds
    assert place.content("f") == SMALL


def test_one_request_is_tried_again_before_the_whole_file_is(place: Place) -> None:
    rule = place.proxy.inject("503", "PUT", "/run/f$", times=2)
    place.raw(retries={"total_max_attempts": 3, "mode": "standard"}).write("f", [SMALL])
    assert rule.fired == 2
    assert place.content("f") == SMALL


def test_a_request_that_is_tried_again_draws_nothing_from_the_stream_of_the_training(place: Place) -> None:
    options = place.server.options(place.proxy.endpoint) | {"session": botocore_session()}
    storage = open_storage(f"s3://{place.bucket}/run", options)
    rule = place.proxy.inject("503", "PUT", "/run/f", times=1)
    before = random.getstate()
    storage.write("f", [SMALL])
    assert rule.fired
    assert random.getstate() == before


def test_what_the_user_says_about_requests_is_kept_and_what_is_left_out_is_bounded() -> None:
    file_system, root = url_to_fs("s3://bucket/run", config_kwargs={"read_timeout": 7}, skip_instance_cache=True)
    FsspecStorage(file_system, root, "s3://bucket/run")
    assert file_system.config_kwargs["read_timeout"] == 7
    assert file_system.config_kwargs["connect_timeout"] == 5
    assert file_system.config_kwargs["retries"]["total_max_attempts"] == 3


def test_a_bucket_that_is_not_there_is_told_at_once(place: Place) -> None:
    place.bucket = "no-such-bucket"
    storage = place.patient()
    assert storage.list("checkpoints") == []
    with pytest.raises(StorageError, match=r"no-such-bucket/run/run\.json: .*does not exist") as caught:
        storage.write("run.json", [SMALL])
    assert "make the bucket" in str(caught.value.hint)


# -- creating ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["500", "reset", "reset_after", "cut_request", "twice"])
def test_a_create_succeeds_once_whatever_happens_to_its_requests(place: Place, fault: Fault) -> None:
    storage = place.patient()
    assert storage.exclusive
    rules = inject(place, [(fault, "PUT", "/attempts/000001")])
    storage.create("attempts/000001.json", b"mine")
    assert_fired(rules)
    assert place.content("attempts/000001.json") == b"mine"
    with pytest.raises(FileExistsError):
        storage.create("attempts/000001.json", b"another's")
    with pytest.raises(FileExistsError):
        storage.create("attempts/000001.json", b"another's, and longer")
    assert place.content("attempts/000001.json") == b"mine"


@pytest.mark.parametrize("fault", ["503", "reset_after", "twice"])
def test_without_conditions_a_create_succeeds_once_too(careless: Place, fault: Fault) -> None:
    storage = careless.patient()
    assert not storage.exclusive
    rules = inject(careless, [(fault, "PUT", "/attempts/000001")])
    storage.create("attempts/000001.json", b"mine")
    assert_fired(rules)
    with pytest.raises(FileExistsError):
        storage.create("attempts/000001.json", b"another's")
    assert careless.content("attempts/000001.json") == b"mine"
    assert list(careless.server.objects(careless.bucket)) == ["run/attempts/000001.json"]


PROBE_FAULTS: dict[str, list[Injected]] = {
    "first-lost": [("reset_after", "PUT", "probe")],
    "first-twice": [("twice", "PUT", "probe")],
    "all-503": [("503", "PUT|DELETE", "probe")],
    "removal-lost": [("reset_after", "DELETE", "probe")],
}


@pytest.mark.parametrize("faults", PROBE_FAULTS.values(), ids=PROBE_FAULTS)
@pytest.mark.parametrize("server", ["place", "careless"])
def test_a_probe_tells_the_truth_and_leaves_nothing(
    request: pytest.FixtureRequest, server: str, faults: Sequence[Injected]
) -> None:
    where: Place = request.getfixturevalue(server)
    rules = inject(where, faults)
    assert where.patient().exclusive is where.server.conditional
    assert_fired(rules)
    assert where.server.objects(where.bucket) == {}


def test_a_server_that_knows_no_conditions_is_not_exclusive_and_no_failure(place: Place) -> None:
    rule = place.proxy.inject("501", "PUT", "probe", times=None)
    storage = place.raw()
    assert not storage.exclusive
    assert rule.fired
    storage.create("attempts/000001.json", b"mine")
    assert place.server.objects(place.bucket) == {"run/attempts/000001.json": 4}


def test_a_refusal_that_does_not_name_its_condition_is_a_refusal(place: Place) -> None:
    rule = place.proxy.inject("412", "PUT", "probe")
    assert place.raw().exclusive
    assert rule.fired


def test_nothing_is_probed_where_that_is_not_wanted(place: Place) -> None:
    storage = place.raw(probe=False)
    assert not storage.exclusive
    storage.create("attempts/000001.json", b"mine")
    with pytest.raises(FileExistsError):
        storage.create("attempts/000001.json", b"another's")
    assert not [request for request in place.proxy.requests if "probe" in request]


# -- reading ----------------------------------------------------------------------------------------------------------

READ_FAULTS: list[Fault] = ["500", "503", "reset", "cut_reply", "end_reply"]


@pytest.mark.parametrize("fault", READ_FAULTS)
def test_what_is_read_is_whole_or_a_failure(place: Place, fault: Fault) -> None:
    place.put("f", SMALL)
    buffer = bytearray(len(SMALL) + 10)
    reads: list[Callable[[Any], Any]] = [
        lambda storage: storage.read("f", max_bytes=10**6) == SMALL,
        lambda storage: storage.read("f") == SMALL,
        lambda storage: storage.read_into("f", memoryview(buffer)) == len(SMALL) and buffer.startswith(SMALL),
    ]
    for read in reads:
        rules = inject(place, [(fault, "GET", "/run/f")], times=None)
        with pytest.raises(StorageError, match="cannot read"):
            read(place.raw())
        place.proxy.heal()
        rules += inject(place, [(fault, "GET", "/run/f")])
        assert read(place.patient())
        assert_fired(rules)


@pytest.mark.parametrize("fault", READ_FAULTS)
def test_a_list_is_whole_or_a_failure(place: Place, fault: Fault) -> None:
    for number in range(3):
        place.put(f"a/{number}", b"")
    rules = inject(place, [(fault, "GET", "list-type")], times=None)
    with pytest.raises(StorageError, match="cannot list"):
        place.raw().list("a")
    place.proxy.heal()
    rules += inject(place, [(fault, "GET", "list-type")])
    assert place.patient().list("a") == [Entry(str(number), False) for number in range(3)]
    assert_fired(rules)


def test_a_list_of_several_pages_is_whole_or_a_failure(place: Place) -> None:
    for name in ("1", "2", "3", "b/1", "b/2", "c/1"):
        place.put(f"a/{name}", b"")
    entries = [Entry("1", False), Entry("2", False), Entry("3", False), Entry("b", True), Entry("c", True)]
    storage = place.paged(2)
    assert storage.list("a") == entries
    assert len(place.proxy.requests) > 2
    for fault in ("503", "end_reply"):
        rule = place.proxy.inject(fault, "GET", "list-type", skip=1, times=None)
        with pytest.raises(StorageError, match="cannot list"):
            storage.list("a")
        assert rule.fired
        place.proxy.heal()


def test_a_small_file_costs_one_request_and_a_piece_of_a_large_one_too(place: Place) -> None:
    place.put("small", SMALL)
    place.put("large", LARGE)
    storage = place.raw()
    storage.read("small", max_bytes=10**6)
    storage.read_into("large", memoryview(bytearray(MIB)), offset=MIB)
    assert [request.partition(" ")[0] for request in place.proxy.requests] == ["GET", "GET"]


def test_what_another_program_does_is_seen_at_once(place: Place) -> None:
    storage = place.raw()
    place.put("a/1", b"x")
    assert storage.list("a") == [Entry("1", False)]
    assert storage.size("a/1") == 1
    place.put("a/1", b"longer")
    place.put("a/b/2", b"xyz")
    assert storage.list("a") == [Entry("1", False), Entry("b", True)]
    assert storage.size("a/1") == 6
    assert storage.read("a/1", max_bytes=10) == b"longer"
    place.remove("a/1")
    assert storage.list("a") == [Entry("b", True)]
    with pytest.raises(FileNotFoundError):
        storage.size("a/1")
    with pytest.raises(FileNotFoundError):
        storage.read("a/1", max_bytes=10)


def test_a_removal_whose_answer_was_lost_is_a_removal(place: Place) -> None:
    place.put("f", b"x")
    rules = inject(place, [("reset_after", "DELETE", "/run/f")])
    place.patient().remove("f")
    assert_fired(rules)
    assert place.content("f") is None


# -- whole checkpoints ------------------------------------------------------------------------------------------------

SAVE_FAULTS: dict[str, Injected] = {
    "blob-503": ("503", "PUT", r"model\.safetensors"),
    "blob-reset-after": ("reset_after", "PUT", r"model\.safetensors"),
    "blob-cut": ("cut_request", "PUT", r"model\.safetensors"),
    "manifest-reset-after": ("reset_after", "PUT", r"step-000000002.*manifest\.json"),
    "manifest-twice": ("twice", "PUT", r"step-000000002.*manifest\.json"),
    "look-503": ("503", "GET", r"attempts"),
}


@pytest.mark.parametrize("fault", SAVE_FAULTS.values(), ids=SAVE_FAULTS)
def test_a_save_that_says_done_is_readable_by_another_program(place: Place, fault: Injected) -> None:
    storage = place.patient()
    attempt = launch(storage)
    rules = inject(place, [fault])
    name = save(attempt, 2)
    assert_fired(rules)
    place.proxy.heal()
    catalog = Catalog(place.patient())
    [(found, manifest)] = catalog.history()
    assert found == name
    verify_bytes(catalog, manifest)


@pytest.mark.parametrize("path", [r"model\.safetensors", r"manifest\.json"])
def test_a_save_that_fails_leaves_what_was_there_and_the_next_succeeds(place: Place, path: str) -> None:
    storage = place.patient()
    attempt = launch(storage)
    first = save(attempt, 1)
    now = itertools.count().__next__
    impatient = PatientStorage(place.raw(), clock=now, sleep=lambda seconds: None)
    rule = place.proxy.inject("503", "PUT", f"step-000000002.*{path}", times=None)
    with pytest.raises(StorageError, match=rf"cannot write .*{path}: Injected"):
        save(replace(attempt, storage=impatient), 2)
    assert rule.fired
    assert line(place.patient()) == [str(first)]
    place.proxy.heal()
    third = save(attempt, 3)
    assert line(place.patient()) == [str(third), str(first)]
    assert not [key for key in place.server.objects(place.bucket) if "step-000000002" in key]
