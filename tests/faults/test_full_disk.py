"""A disk that fills: training goes on, the last good checkpoint stays, the figures are told, and then it stops."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.experiments import FREE_KIB, Disk, crowd, litter, small_disk, verdict_on
from tests.faults.forks import Child, Forks, Place
from tests.faults.subjects import RESUMABLE
from tests.faults.verdicts import Verdict

pytestmark = pytest.mark.usefixtures("_quiet", "_mounts")

FIGURES = r"No space left on device: \S+ needed, \S+ free"
BEFORE, DURING = "before", "during"


@pytest.fixture
def disk(folder: Path) -> Iterator[Disk]:
    with small_disk(folder / "disk") as found:
        yield found


def training(forks: Forks, disk: Disk, stops: list[str], *, until: int = 4) -> tuple[Child, Place]:
    """A training that stands right before its second save, or in the middle of it, with the first one safe."""
    place = Place.make(disk.folder / "place")
    child = forks.launch(RESUMABLE, place, until=until, stops=stops)
    assert child.stopped_at() == stops[0], child.output()
    assert place.acknowledged() == 1
    return child, place


def saved_copy(place: Place, folder: Path) -> Verdict:
    """What a reader makes of a run whose training still goes on: of a copy, for the run itself is locked."""
    shutil.copytree(place.run, folder)
    return verdict_on(RESUMABLE, folder, place.acknowledged())


def warnings_of(child: Child) -> list[str]:
    return [line for line in child.output().splitlines() if line.startswith("WARN")]


STOPS = {BEFORE: "save 2", DURING: "mkdir step-000000002.e0000.a0001"}


@pytest.mark.parametrize("when", STOPS)
def test_a_full_disk_is_told_once_and_the_next_save_that_is_due_succeeds_when_there_is_space(
    forks: Forks, disk: Disk, folder: Path, when: str
) -> None:
    child, place = training(forks, disk, [STOPS[when], "saved 2"])
    disk.fill(free_bytes=8 * 1024)  # enough to begin with, and too little to end
    child.go_on()
    assert child.stopped_at() == "saved 2", child.output()
    assert place.acknowledged() == 1
    assert saved_copy(place, folder / "copy") is Verdict.RIGHT
    assert not litter(place.run)
    disk.free()
    child.go_on()
    assert child.exit_code() == 0, child.output()
    [warning] = warnings_of(child)
    assert "save failed (1 of 3 before training stops): cannot" in warning
    assert "No space left on device" in warning
    assert bool(re.search(FIGURES, warning)) is (when == BEFORE), warning
    assert place.acknowledged() == 4
    assert verdict_on(RESUMABLE, place.run, 4) is Verdict.RIGHT


@pytest.mark.parametrize("limit", [1, 3])
def test_a_disk_that_stays_full_stops_the_training_with_the_reason(forks: Forks, disk: Disk, limit: int) -> None:
    place = Place.make(disk.folder / "place")
    child = forks.launch(RESUMABLE, place, until=9, stops=["save 2"], max_failed_saves=limit)
    assert child.stopped_at() == "save 2", child.output()
    disk.fill()
    child.go_on()
    assert child.exit_code() == 1
    *failed, unsaved = warnings_of(child)
    assert len(failed) == limit - 1
    assert all("save failed" in warning for warning in failed)
    assert "but the newest checkpoint is of step 1" in unsaved
    assert re.search(f"StorageError: cannot .*{FIGURES}", child.output()), child.output()
    assert place.acknowledged() == 1
    disk.free()
    assert verdict_on(RESUMABLE, place.run, 1) is Verdict.RIGHT
    forks.finish(RESUMABLE, place, until=9)
    assert verdict_on(RESUMABLE, place.run, 9) is Verdict.RIGHT


@pytest.mark.parametrize("size_kib", [4, 16, 32])
def test_a_disk_too_small_for_the_first_save_is_told_at_once(forks: Forks, folder: Path, size_kib: int) -> None:
    with small_disk(folder / "disk", size_kib * 1024) as disk:
        place = Place.make(disk.folder / "place")
        child = forks.launch(RESUMABLE, place, until=2)
        assert child.exit_code() == 1, child.output()
        assert re.search("StorageError: .*No space left on device", child.output()), child.output()
        assert place.acknowledged() is None
        assert not litter(place.run)


@pytest.mark.matrix
def test_whatever_space_is_left_the_last_good_checkpoint_stays(forks: Forks, folder: Path) -> None:
    verdicts = dict(crowd(forks, RESUMABLE, folder, FREE_KIB))
    assert set(verdicts.values()) == {Verdict.RIGHT}
