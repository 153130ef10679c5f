"""Trainings on real servers that are killed, and rerun, and end with the bits of one that never was."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from resumable import Run
from tests.faults.http_proxy import Fault, FaultProxy, Rule
from tests.faults.servers import S3Server, children, shared_moto, shared_rclone, shared_sftp
from tests.lab.client import Bench, Ended, Launch, killed, shared_lab

IMPATIENT = {"retries": {"total_max_attempts": 1}, "read_timeout": 5}


class RemoteBench(Bench):
    """A bench whose runs are on a server; side files stay in this test's folder."""

    def __init__(
        self, folder: Path, urls: Callable[[str], str], storage_options: Mapping[str, Any], **options: Any
    ) -> None:
        config = {"storage_options": dict(storage_options), **options.pop("config", {})}
        super().__init__(shared_lab(), folder, "base", config=config, **{"epochs": 2, **options})
        self._urls = urls
        self._storage_options = storage_options

    def url(self, run: str) -> str:
        return self._urls(run)

    def open(self, run: str) -> Run:
        return Run(self.url(run), storage_options=self._storage_options)


def on_s3(folder: Path, server: S3Server, proxy: FaultProxy | None = None, **options: Any) -> RemoteBench:
    """In a new bucket, directly or through a proxy."""
    bucket = server.new_bucket()
    storage_options = server.options(proxy.endpoint, **IMPATIENT) if proxy else server.options()
    return RemoteBench(folder, lambda run: f"s3://{bucket}/{run}", storage_options, **options)


def on_sftp(folder: Path, **options: Any) -> RemoteBench:
    """In a folder of this machine, by way of sshd."""
    server = shared_sftp()
    return RemoteBench(folder, lambda run: server.url(folder / "served" / run), server.options, **options)


PLACES: dict[str, Callable[[Path], RemoteBench]] = {
    "s3": lambda folder: on_s3(folder, shared_moto()),
    "s3-careless": lambda folder: on_s3(folder, shared_rclone()),
    "sftp": lambda folder: on_sftp(folder),
}
POINTS = {
    "s3": ["save.blob:0", "save.manifest:4", "save.prune:8"],
    "s3-careless": ["save.published:4", "save.manifest:12"],
    "sftp": ["save.manifest:0", "save.prune:8+0.002", "save.blob:16+0.004"],
}
ALL_POINTS = [
    "save.blob:0",
    "save.manifest:0",
    "save.published:0",
    "save.capture:4",
    "save.blob:4",
    "save.manifest:8",
    "evaluate:10",
    "save.prune:8",
    "step:11+0.0013",
    "save.prune:12+0.001",
    "save.blob:16+0.003",
    "save.published:20",
]


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy(shared_moto().port) as running:
        yield running


@pytest.mark.parametrize("place", PLACES)
def test_kills_within_saves_change_no_bit(place: str, tmp_path: Path) -> None:
    PLACES[place](tmp_path).crash_and_rerun([killed(point) for point in POINTS[place]])


@pytest.mark.matrix
@pytest.mark.parametrize("place", PLACES)
def test_many_kills_change_no_bit(place: str, tmp_path: Path) -> None:
    PLACES[place](tmp_path).crash_until_finished([killed(point) for point in ALL_POINTS])


# -- kills while a request is on its way ------------------------------------------------------------------------------


class KilledBy(threading.Thread):
    """Ends the training that runs by SIGKILL as soon as a rule fires; start it with `with`."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(daemon=True)
        self._rule = rule

    def run(self) -> None:
        if self._rule.firing.wait(60):
            [training] = children(shared_lab().pid)
            os.kill(training, signal.SIGKILL)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.join(60)
        assert self._rule.fired


ON_THE_WAY = [
    ("held", "PUT", r"step-000000008.*manifest\.json"),
    ("held", "PUT", r"step-000000008.*model\.safetensors"),
    ("hang", "PUT", r"step-000000008.*optimizer\.safetensors"),
    ("reset_after", "PUT", r"step-000000008.*manifest\.json"),
    ("held", "PUT", r"attempts/0"),
    ("held", "PUT", r"run\.json"),
    ("held", "DELETE", r"manifest\.json"),
]


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultProxy, RemoteBench, Ended]]:
    """A proxy, a bench behind it, and what its undisturbed run left."""
    with FaultProxy(shared_moto().port) as running:
        bench = on_s3(tmp_path_factory.mktemp("behind"), shared_moto(), running, epochs=1)
        yield running, bench, bench.launch("whole")


@pytest.mark.parametrize(
    "injected",
    [pytest.param(injected, marks=pytest.mark.matrix if number else ()) for number, injected in enumerate(ON_THE_WAY)],
    ids=lambda injected: f"{injected[0]}-{injected[1]}-{injected[2]}",
)
def test_a_request_of_a_dead_attempt_that_arrives_late_changes_nothing(
    behind_proxy: tuple[FaultProxy, RemoteBench, Ended], injected: tuple[Fault, str, str]
) -> None:
    proxy, bench, whole = behind_proxy
    fault, method, path = injected
    run = f"crashed-{ON_THE_WAY.index(injected)}"
    rule = proxy.inject(fault, method, f"/{run}/.*{path}", times=1 if fault == "held" else None)
    with KilledBy(rule):
        ended = [bench.launch(run, Launch(exit=-signal.SIGKILL))]
    if fault != "held":
        proxy.heal()
    ended.append(bench.launch(run))
    bench.assert_equal(run, "whole", ended, [whole])
    if fault == "held":
        rule.release.set()
        assert rule.applied.wait(60)
        assert not bench.launch(run).batches
        bench.assert_equal(run, "whole", ended, [whole])


# -- a storage that goes away and comes back --------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["503", pytest.param("reset", marks=pytest.mark.matrix)])
def test_training_goes_on_while_the_storage_is_away(proxy: FaultProxy, tmp_path: Path, fault: Fault) -> None:
    bench = on_s3(tmp_path, shared_moto(), proxy, epochs=1, patience_seconds=1.0, config={"max_failed_saves": 100})
    whole = bench.launch("whole")
    trigger = proxy.inject(fault, "PUT", "/away/.*step-000000004", times=None)
    output = tmp_path / "away.002.out"

    def come_back_once_told() -> None:
        assert trigger.firing.wait(60)
        everything = proxy.inject(fault, ".*", "/away/|prefix=away", times=None)
        while "save failed" not in output.read_text():
            time.sleep(0.01)
        assert everything.fired
        proxy.heal()

    thread = threading.Thread(target=come_back_once_told, daemon=True)
    thread.start()
    ended = bench.launch("away")
    thread.join(60)
    assert not thread.is_alive()
    bench.assert_equal("away", "whole", [ended], [whole])
    assert "save failed (1 of 100 before training stops): cannot " in ended.output
    assert not re.search("SAVED +step=4 ", ended.output)
    assert re.search("SAVED +step=8 ", ended.output)


@pytest.mark.matrix
def test_training_goes_on_over_a_connection_that_is_lost_at_every_save(tmp_path: Path) -> None:
    bench = on_sftp(tmp_path)
    whole = bench.launch("whole")
    checkpoints, over = tmp_path / "served" / "dropped" / "checkpoints", threading.Event()
    dropped: set[str] = set()

    def drop() -> None:
        while not over.wait(0.002):
            new = {entry.name for entry in checkpoints.iterdir()} - dropped if checkpoints.is_dir() else set()
            if new and children(shared_sftp().pid):  # between two connections there is none to lose
                shared_sftp().drop_connections()
                dropped.update(new)

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    ended = bench.launch("dropped")
    over.set()
    thread.join(60)
    assert len(dropped) > 5
    bench.assert_equal("dropped", "whole", [ended], [whole])
