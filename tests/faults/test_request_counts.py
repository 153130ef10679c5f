"""How many requests an object store gets for a save, a pruning and a read, exactly; and which go out together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import typer

from resumable import Run, load_weights
from resumable.checkpointing.prune import prune
from resumable.cli.verbs.diff import diff
from resumable.cli.verbs.pin import pin as pin_verb
from resumable.cli.verbs.show import show
from resumable.cli.verbs.verify import verify
from resumable.errors import StorageError
from resumable.policy.retention import Rule
from resumable.store.attempts import Attempt, read_attempt
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.pins import pin
from resumable.store.storage.protocol import Storage
from tests.faults.forgery import STATE_BLOB
from tests.faults.http_proxy import Fault, FaultProxy, Request
from tests.faults.servers import shared_moto
from tests.faults.test_object_stores import Place, behind_proxy
from tests.store.building import BLOBS, launch, save
from tests.tiny import Tiny

Counts = dict[str, int]


@pytest.fixture
def place() -> Iterator[Place]:
    yield from behind_proxy(shared_moto)


def kind(request: str) -> str:
    """What a request does: lists, and removals of several files, are kinds of their own."""
    method, _, path = request.partition(" ")
    if "list-type=2" in path:
        return "LIST"
    return "DELETE SEVERAL" if method == "POST" and path.endswith("?delete") else method


def counted(place: Place, work: Callable[[], object]) -> Counts:
    """How many requests of each kind `work` makes."""
    place.proxy.requests.clear()
    work()
    return dict(Counter(map(kind, place.proxy.requests)))


def shown(place: Place) -> list[str]:
    """The requests since the last `counted`: their kind, and the last part of what they are about."""
    return [f"{kind(request)} {_what(request)}" for request in place.proxy.requests]


def _what(request: str) -> str:
    path, _, query = request.partition(" ")[2].partition("?")
    inside = next((part[len("prefix=") :] for part in query.split("&") if part.startswith("prefix=")), path)
    return inside.replace("%2F", "/").strip("/").rpartition("/")[2]


# -- saves ------------------------------------------------------------------------------------------------------------


def saves(place: Place, last: int, steps: int, *, logs: bool = False) -> Iterator[Counts]:
    """The requests of each save of a training, from the boundary until it is durable and pruned."""
    options = place.server.options(place.proxy.endpoint)
    every, keep = {"steps": 1, "minutes": None}, {"last": last, "best": None}
    tiny = Tiny(f"s3://{place.bucket}/run", every=every, keep=keep, storage_options=options)
    with tiny.trainer() as trainer:
        for _ in trainer.steps(steps):
            trainer._launch.checkpointer.drain()
            yield dict(Counter(map(kind, place.proxy.requests)))
            loss = tiny.step([torch.ones(2, 2)])
            if logs:
                trainer.log(loss=loss)
            place.proxy.requests.clear()


def test_a_save_that_deletes_nothing_lists_only_the_attempts(place: Place) -> None:
    _, first, *others = saves(place, 100, 5)
    steady = {"PUT": 4, "GET": 2, "LIST": 2}  # three blobs and the manifest, and two looks
    assert [first, *others] == [steady] * 4
    # A launch reads each manifest once, except for that which it resumed from, and lists all files once.
    resumed, *others = list(saves(place, 100, 8))[1:]
    assert resumed == steady | {"GET": 2 + 5, "LIST": 2 + 1}
    assert others == [steady] * len(others)


def test_a_save_of_a_program_that_logs_puts_one_file_more(place: Place) -> None:
    """What was logged since the save before is durable when the checkpoint is."""
    *_, steady = saves(place, 100, 5, logs=True)
    assert steady == {"PUT": 5, "GET": 2, "LIST": 2}
    _, resumed, last = saves(place, 100, 8, logs=True)
    assert resumed == steady | {"GET": 2 + 5, "LIST": 2 + 1 + 1}  # it looks once at the journals of earlier launches
    assert last == steady
    assert [
        row.step
        for row in Run(
            f"s3://{place.bucket}/run", storage_options=place.server.options(place.proxy.endpoint)
        ).metrics_history()
    ] == list(range(1, 9))


def test_a_save_that_deletes_one_makes_six_requests_more(place: Place) -> None:
    *_, pruning, last = saves(place, 2, 6)
    assert pruning == last == {"PUT": 4, "GET": 3, "LIST": 5, "DELETE": 1, "DELETE SEVERAL": 1}
    assert shown(place)[-6:] == [
        "LIST checkpoints",
        "LIST pins",
        "GET 000001.json",
        "LIST attempts",
        "DELETE manifest.json",
        f"DELETE SEVERAL {place.bucket}",
    ]


def test_the_first_save_of_a_launch_deletes_an_unfinished_one_and_the_others_are_as_cheap_as_ever(place: Place) -> None:
    assert len(list(saves(place, 100, 3))) == 3
    for number in range(40):  # more than a launch looks into where each costs a request
        place.raw(probe=False).write(f"checkpoints/step-{900 + number:09d}.e0000.a0001/model.safetensors", [b"left"])
    started, resumed, *others = saves(place, 100, 8)
    assert started["LIST"] < 24  # three looks, of which each lists until it rests
    assert resumed["DELETE"] + resumed.get("DELETE SEVERAL", 0) == 40
    assert others == [{"PUT": 4, "GET": 2, "LIST": 2}] * len(others)
    assert not any(name.startswith("step-0000009") for name in left(place))


# -- reads ------------------------------------------------------------------------------------------------------------

HEAD = {"LIST": 2, "GET": 2}  # the names, run.json, a manifest, and the folder of that
STEP = {"LIST": 3, "GET": 3}  # the same, and the manifest and the folder of the step


def diff_or_exit(one: str, other: str, options: dict[str, Any]) -> None:
    with pytest.raises(typer.Exit):
        diff(one, other, json=True, storage_options=options)


READS: dict[str, tuple[Callable[[str, dict[str, Any]], object], Counts]] = {
    "latest()": (lambda url, options: Run(url, storage_options=options).latest(), HEAD),
    "finite()": (lambda url, options: Run(url, storage_options=options).finite(), HEAD),
    "at(1)": (lambda url, options: Run(url, storage_options=options).at(1), STEP),
    "a name": (lambda url, options: Run(url, storage_options=options).select("step-000000001.e0000.a0001"), STEP),
    "show latest": (lambda url, options: show(url, storage_options=options), HEAD),
    "show 1": (lambda url, options: show(f"{url}@1", storage_options=options), STEP),
    "pin": (lambda url, options: pin_verb(f"{url}@1", storage_options=options), STEP | {"GET": 4, "PUT": 1}),
    "verify latest": (lambda url, options: verify(f"{url}@latest", storage_options=options), HEAD | {"LIST": 3}),
    "verify 1": (lambda url, options: verify(f"{url}@1", storage_options=options), STEP | {"LIST": 4}),
    "diff": (lambda url, options: diff_or_exit(f"{url}@latest", f"{url}@1", options), STEP | {"LIST": 4}),
    "load_weights": (
        lambda url, options: load_weights(Tiny("").model, f"{url}@1", name="model", storage_options=options),
        STEP | {"LIST": 4},
    ),
}


@pytest.fixture(scope="module")
def trained() -> Iterator[Place]:
    with FaultProxy(shared_moto().port) as proxy:
        place = Place(shared_moto(), proxy)
        for _ in saves(place, 100, 12):
            pass
        yield place


@pytest.mark.parametrize("read", READS)
def test_a_read_of_one_checkpoint_reads_no_other_but_the_newest(
    trained: Place, read: str, capsys: pytest.CaptureFixture[str]
) -> None:
    work, expected = READS[read]
    url, options = f"s3://{trained.bucket}/run", trained.server.options(trained.proxy.endpoint)
    counted(trained, lambda: work(url, options))
    found = Counter(kind(request) for request in trained.proxy.requests if not is_of_blob(request))
    assert found == expected
    assert sum(found.values()) <= 8


def is_of_blob(request: str) -> bool:
    return request.endswith((".safetensors", STATE_BLOB))


# -- a pruning of many ------------------------------------------------------------------------------------------------


def many(place: Place, count: int) -> list[CheckpointName]:
    attempt = launch(place.raw(probe=False))
    return [save(attempt, step) for step in range(count)]


def left(place: Place) -> set[str]:
    """The files of checkpoints that the server has."""
    files = place.server.objects(place.bucket)
    return {path.removeprefix("run/checkpoints/") for path in files if path.startswith("run/checkpoints/")}


def files_of(*names: CheckpointName) -> set[str]:
    return {f"{name}/{file}" for name in names for file in (*BLOBS, STATE_BLOB, "manifest.json")}


def pruned(place: Place, last: int, storage: Storage | None = None) -> Counts:
    """The requests of a pruning by a program that knows nothing yet."""
    storage = storage or place.raw(probe=False)
    attempt = Attempt(1, read_attempt(storage, 1).token, (), storage)
    return counted(place, lambda: prune(storage, Catalog(storage), attempt, Rule(last=last)))


def test_many_checkpoints_are_deleted_by_two_requests(place: Place) -> None:
    names = many(place, 9)
    pin(place.raw(probe=False), names[3])
    assert pruned(place, 2) == {"LIST": 3, "GET": 9 + 1 + 1, "DELETE SEVERAL": 2}  # manifests, run.json, attempt
    assert left(place) == files_of(*names[-2:], names[3])


def test_a_server_without_such_a_request_removes_one_file_after_the_other(place: Place) -> None:
    names = many(place, 5)
    place.proxy.inject("501", "POST", "delete", times=None)
    found = pruned(place, 2)
    assert (found["DELETE SEVERAL"], found["DELETE"]) == (1, 3 * len(files_of(names[0])))
    assert left(place) == files_of(*names[-2:])


FAULTS: list[Fault] = ["400", "500", "reset", "cut_request", "twice"]


@pytest.mark.parametrize(
    "fault", ["503", "reset_after", "cut_reply", *(pytest.param(fault, marks=pytest.mark.matrix) for fault in FAULTS)]
)
def test_a_removal_that_fails_once_is_repeated(place: Place, fault: Fault) -> None:
    names = many(place, 4)
    rules = [place.proxy.inject(fault, "POST", "delete"), place.proxy.inject(fault, "POST", "delete", skip=2)]
    pruned(place, 2, place.patient(probe=False))
    assert rules[0].fired
    assert left(place) == files_of(*names[-2:])


class Guarded(FaultProxy):
    """Before a server that does not let one checkpoint go, and reports it as S3 does: in an answer that says 200."""

    kept = b""

    async def _pass_on(self, request: Request, body: bytes | None = None) -> bytes:
        several = request.head.method == "POST" and self.kept in request.body
        if several:
            error = (
                b"<Error><Key>%s</Key><Code>AccessDenied</Code><Message>kept by a rule</Message></Error>" % self.kept
            )
            answer = b"<DeleteResult>%s</DeleteResult>" % error
        elif request.head.method == "DELETE" and self.kept.decode() in request.head.path:
            answer = b"<Error><Code>AccessDenied</Code><Message>kept by a rule</Message></Error>"
        else:
            return await super()._pass_on(request, body)
        head = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        return head % (b"200 OK" if several else b"403 Forbidden", len(answer)) + answer


def test_what_a_server_does_not_let_go_keeps_nothing_else() -> None:
    with Guarded(shared_moto().port) as proxy:
        place = Place(shared_moto(), proxy)
        proxy.kept = b"no such name"
        names = many(place, 5)
        proxy.kept = str(names[1]).encode()
        with pytest.raises(StorageError, match=r"cannot remove .*kept by a rule"):
            pruned(place, 2)
        assert left(place) == files_of(*names[-2:], names[1])


def test_a_listing_of_several_pages_has_every_file_of_every_checkpoint(place: Place) -> None:
    names, paged = many(place, 5), place.paged(4)
    below = paged.list_below("checkpoints")
    assert below == {str(name): paged.list(f"checkpoints/{name}") for name in names}
    assert pruned(place, 2, paged)["LIST"] > 3
    assert left(place) == files_of(*names[-2:])
