"""A kill at every durable operation of a save: what was committed last is found again, and the end is bit-exact."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from resumable import Run
from tests.lab.client import Bench, Ended, Launch, shared_lab
from tests.lab.leaving import flat_place

SIGKILL = -9


class SavePoints:
    """Runs of one short loop, each killed at another operation, and one that is not killed to compare them with."""

    def __init__(self, folder: Path, *, bench: type[Bench] = Bench, **options: Any) -> None:
        self._folder = folder
        self._bench = bench(shared_lab(), folder, "dies_at_an_operation", **options)
        self._whole = self._bench.launch("whole", self._launch("whole", 0))

    def operations(self, run: str) -> list[str]:
        """What the storage of a run was asked to do, in order, as far as it was counted."""
        return (self._folder / f"{run}.log").read_text("utf-8").splitlines()

    def die_at(self, run: str, number: int) -> Ended:
        """Launch `run` and die at the operation of that number."""
        before = len(self.operations(run)) if (self._folder / f"{run}.log").exists() else 0
        ended = self._bench.launch(run, self._launch(run, number))
        assert len(self.operations(run)) - before == number
        return ended

    def finish(self, run: str, earlier: list[Ended]) -> None:
        """The next launch resumes from the newest committed checkpoint and ends as the undisturbed run."""
        committed = newest_committed(self._bench.path(run))
        last = self._bench.launch(run, self._launch(run, 0))
        begun = re.search(r"resumable: (?:NEW|RESUME) .*", last.output)
        assert begun
        assert (f"from={committed} " if committed else "NEW ") in begun[0], f"{committed} against {begun[0]}"
        self._bench.assert_equal(run, "whole", [*earlier, last], [self._whole])

    def _launch(self, run: str, number: int) -> Launch:
        log = str(self._folder / f"{run}.log")
        return Launch(options={"kill_at": number, "log": log}, exit=SIGKILL if number else 0)


class FlatBench(Bench):
    """Runs in an object store: no folders, no rename, whole objects."""

    def open(self, run: str) -> Run:
        place = flat_place(self.path(run))
        return Run(place["run"], storage_options=place["storage_options"])


def newest_committed(run: Path) -> str | None:
    """By the format's definition, read with nothing of the package: the highest name whose manifest parses.

    Whatever has a manifest is whole, also while it is being deleted.
    """
    found = []
    for manifest in [*run.glob("checkpoints/*/manifest.json"), *run.glob("*checkpoints*manifest.json")]:
        document = json.loads(manifest.read_bytes())
        for blob in document["blobs"].values():
            key = quote(f"bucket/run/{blob['path']}", safe="") if "%2F" in manifest.name else blob["path"]
            assert (run / key).stat().st_size == blob["size"]
        name = unquote(str(manifest)).split("/")[-2]
        found.append((document["attempt"], document["step"], document["epoch"], name))
    return max(found)[-1] if found else None


def one_save_and_its_pruning(operations: list[str]) -> int:
    """The number of operations up to the end of the first deletion."""
    return next(n for n, operation in enumerate(operations, 1) if operation.startswith("remove_dir"))


def the_first_save(operations: list[str]) -> int:
    """The number of operations up to the first manifest, its own system calls included."""
    manifest = next(n for n, operation in enumerate(operations) if operation.endswith("manifest.json"))
    return manifest + 1 + operations[manifest + 1 :].index("replace") + 2


@pytest.fixture
def save_points(folder: Path) -> Callable[..., SavePoints]:
    return lambda **options: SavePoints(folder, **options)


@pytest.mark.timeout(300)
def test_a_kill_at_each_operation_of_a_save_and_its_pruning_resumes_from_the_newest(
    save_points: Callable[..., SavePoints],
) -> None:
    points = save_points()
    count = one_save_and_its_pruning(points.operations("whole"))
    assert count > 20
    for number in range(1, count + 2):
        run = f"at-{number:03}"
        points.finish(run, [points.die_at(run, number)])


@pytest.mark.timeout(300)
def test_a_kill_at_each_operation_of_the_first_start_begins_the_run_or_resumes_it(
    save_points: Callable[..., SavePoints],
) -> None:
    points = save_points(from_start=True)
    count = the_first_save(points.operations("whole"))
    assert count > 20
    for number in range(1, count + 1):
        run = f"at-{number:03}"
        points.finish(run, [points.die_at(run, number)])


@pytest.mark.timeout(300)
def test_a_kill_at_each_operation_of_a_save_to_an_object_store_resumes_from_the_newest(
    save_points: Callable[..., SavePoints],
) -> None:
    points = save_points(bench=FlatBench, flat=True, from_start=True)
    count = one_save_and_its_pruning(points.operations("whole"))
    assert count > 20
    for number in range(1, count + 2):
        run = f"at-{number:03}"
        points.finish(run, [points.die_at(run, number)])


@pytest.mark.matrix
@pytest.mark.timeout(1200)
def test_two_kills_at_operations_of_two_attempts_resume_from_the_newest(
    save_points: Callable[..., SavePoints],
) -> None:
    points = save_points(from_start=True)
    count = one_save_and_its_pruning(points.operations("whole"))
    for first in range(1, count, 3):
        for second in range(1 + first % 2, 30, 5):
            run = f"at-{first:03}-{second:03}"
            points.finish(run, [points.die_at(run, first), points.die_at(run, second)])
