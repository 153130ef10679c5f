"""Pinned checkpoints: what names them, and that nothing prunes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from resumable.checkpointing.prune import prune
from resumable.policy.retention import Rule
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.pins import pin, pinned, unpin
from resumable.store.publish import delete
from resumable.store.storage.local import LocalStorage
from tests.store.building import launch, line, save


@pytest.fixture
def place(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "run")


def pruned(place: LocalStorage, attempt: object) -> list[str]:
    prune(place, Catalog(place), attempt, Rule(last=1))  # type: ignore[arg-type]
    return line(place)


def test_a_pinned_checkpoint_stays_until_it_is_unpinned(place: LocalStorage) -> None:
    attempt = launch(place)
    names = [save(attempt, step) for step in (100, 200, 300, 400)]
    pin(place, names[1])
    pin(place, names[1])
    assert pruned(place, attempt) == [str(names[3]), str(names[1])]
    unpin(place, names[1])
    unpin(place, names[1])
    assert pruned(place, attempt) == [str(names[3])]


def test_a_pinned_checkpoint_stays_also_off_the_line(place: LocalStorage) -> None:
    first = launch(place)
    start, late = save(first, 100), save(first, 300)
    pin(place, late)
    second = launch(place, start)
    save(second, 200)
    assert pruned(place, second) == ["step-000000200.e0000.a0002"]
    assert late in Catalog(place).names()
    assert start not in Catalog(place).names()


def test_one_that_is_pinned_after_the_plan_was_made_is_not_deleted(place: LocalStorage) -> None:
    attempt = launch(place)
    name = save(attempt, 100)
    pin(place, name)
    delete(place, attempt, [name])
    assert line(place) == [str(name)]


def test_other_files_among_the_pins_pin_nothing(place: LocalStorage) -> None:
    place.write("pins/.DS_Store", [b"x"])
    place.write("pins/step-000000100.e0000.a0001/inside", [b"a folder"])
    place.write("pins/step-000000200.e0000.a0001", [b"not empty, but named"])
    assert pinned(place) == {CheckpointName(200, 0, 1)}
