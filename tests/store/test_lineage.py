"""Which attempts a lineage names, and that the line is the same without those of which nothing stands."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from resumable.store.attempts import begin
from resumable.store.catalog import Catalog
from resumable.store.layout import ATTEMPTS_KEPT, CheckpointName, checkpoint_path
from resumable.store.lineage import Lineage, descend
from resumable.store.publish import delete
from resumable.store.storage.local import LocalStorage
from tests.store.building import launch, line, save


def chain(*attempts: int) -> Lineage:
    """Each attempt resumed from a checkpoint of the one before."""
    before = [None, *(str(CheckpointName(number, 0, number)) for number in attempts)]
    return tuple(zip(attempts, before[:-1], strict=True))


def parent(attempt: int) -> str:
    return str(CheckpointName(attempt, 0, attempt))


def test_nothing_is_left_out_of_the_last_hundred_attempts() -> None:
    whole = descend(chain(1, 2, 3, 100), 101, parent(100), standing=())
    assert whole == chain(1, 2, 3, 100, 101)


def test_what_is_long_past_and_of_which_nothing_stands_is_left_out_and_no_other() -> None:
    assert descend(chain(1, 2, 3, 4, 199), 200, parent(199), standing=[2, 199]) == (
        (2, None),
        (199, parent(2)),
        (200, parent(199)),
    )


def test_the_attempt_that_was_resumed_from_stays_however_old_it_is() -> None:
    assert descend(chain(1, 2), 300, parent(2), standing=()) == ((2, None), (300, parent(2)))


def test_a_first_attempt_has_no_parent() -> None:
    assert descend([], 7, None, standing=()) == ((7, None),)


@pytest.fixture
def place(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "run")


def test_the_line_is_the_same_whether_the_attempts_without_a_checkpoint_are_named_or_not(place: LocalStorage) -> None:
    choose = random.Random(5)
    newest = save(launch(place), 0)
    for number in range(8):  # with gaps of many launches that saved nothing, and checkpoints that are off the line
        far_on(place, number * 40 + choose.randrange(1, 40))
        attempt = launch(place, resumed_from=newest)
        names = [save(attempt, newest.step + step) for step in range(1, 4)]
        newest = choose.choice(names)
        if choose.random() < 0.6:
            for name in names:
                if name != newest:
                    delete(place, attempt, [name])
    gone = [name for name in Catalog(place).names() if name.attempt < 200 and name.attempt % 2]
    remover = begin(place, resumed_from=None, lineage_before=[])
    for name in gone:
        delete(place, remover, [name])
    before = line(place)
    whole = [*Catalog(place).manifest(newest).lineage]
    attempt = launch(place, resumed_from=newest)
    save(attempt, newest.step + 1)
    left_out = {number for number, _ in whole} - {number for number, _ in attempt.lineage}
    standing = {name.attempt for name in Catalog(place).names()}
    assert left_out
    assert not left_out & standing
    assert all(number < attempt.number - ATTEMPTS_KEPT for number in left_out)
    assert line(place)[1:] == [name for name in before if CheckpointName.parse(name).order <= newest.order]  # type: ignore[union-attr]


def far_on(place: LocalStorage, number: int) -> None:
    """Let the next attempt have at least the number after this one."""
    place.write(checkpoint_path(CheckpointName(10**6, 0, number), "model.safetensors"), [b"left by a kill"])
