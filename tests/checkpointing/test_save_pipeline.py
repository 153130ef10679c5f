"""The states of a save: each transition of the table, what a status holds in them, and that nothing else moves it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import resumable.checkpointing.checkpointer
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.checkpointing.save_state import BUSY, TRANSITIONS, SaveEvent, SaveState
from resumable.config.config import Config
from resumable.errors import StorageError
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.retry import PatientStorage
from resumable.utils.transitions import next_state

TABLE = {
    ("idle", "prepare"): "preparing",
    ("idle", "stage"): "writing",
    ("idle", "copy late"): "copying",
    ("idle", "stream"): "streaming",
    ("preparing", "finish"): "idle",
    ("preparing", "fail"): "failed",
    ("writing", "finish"): "idle",
    ("writing", "fail"): "failed",
    ("copying", "finish"): "idle",
    ("copying", "tear"): "torn",
    ("copying", "fail"): "failed",
    ("streaming", "finish"): "idle",
    ("streaming", "fail"): "failed",
    ("torn", "stage"): "writing",
    ("torn", "stream"): "streaming",
    ("failed", "prepare"): "preparing",
    ("failed", "stage"): "writing",
    ("failed", "copy late"): "copying",
    ("failed", "stream"): "streaming",
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(SaveState, SaveEvent)), ids=str)
def test_a_save_moves_as_the_table_says_and_in_no_other_way(state: SaveState, event: SaveEvent) -> None:
    expected = TABLE.get((state.value, event.value))
    if expected is None:
        with pytest.raises(RuntimeError, match=f"'{state.value}': no transition for '{event.value}'"):
            next_state(TRANSITIONS, state, event)
    else:
        assert next_state(TRANSITIONS, state, event) is SaveState(expected)


def test_from_every_state_a_save_can_become_durable_and_every_work_ends() -> None:
    durable = {SaveState.IDLE}
    for _ in SaveState:
        durable |= {state for state, row in TRANSITIONS.items() if durable & set(row.values())}
    assert durable == set(SaveState)
    ends = {SaveEvent.FINISH, SaveEvent.FAIL}
    assert {state for state, row in TRANSITIONS.items() if ends <= row.keys()} == BUSY
    assert {state for state, row in TRANSITIONS.items() if ends & row.keys()} == BUSY


class FailingStorage(LocalStorage):
    """A disk whose writes of manifests fail while `failing` is set."""

    failing = False
    patience_seconds = 0.0

    def write(self, path: str, chunks: Any) -> None:
        if self.failing and path.endswith("manifest.json"):
            raise StorageError(f"cannot write {path}: no answer")
        super().write(path, chunks)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FailingStorage:
    disk = FailingStorage(tmp_path / "run")
    monkeypatch.setattr(
        resumable.checkpointing.checkpointer, "open_storage", lambda url, options, probe: PatientStorage(disk)
    )
    return disk


@pytest.fixture(params=["eager", "overlap", "streamed"])
def checkpointer(request: pytest.FixtureRequest, tmp_path: Path, disk: FailingStorage) -> Iterator[Checkpointer]:
    """A checkpointer whose saves are staged, copied late or streamed."""
    torch.manual_seed(1)
    staging = {"max_bytes": 2**20} if request.param == "streamed" else {"mode": request.param}
    config = Config.load({"run": str(tmp_path / "run"), "staging": staging, "max_failed_saves": 2})
    made = Checkpointer(config, {"model": nn.Linear(600, 600)})
    yield made
    made.close()


def save(checkpointer: Checkpointer, step: int) -> None:
    checkpointer.save(Position(step=step), reason="steps", late=True)


def test_the_status_names_the_newest_save_until_it_failed(checkpointer: Checkpointer, disk: FailingStorage) -> None:
    assert checkpointer.status.saved is None
    save(checkpointer, 1)
    assert checkpointer.status.saved == (1, 0)
    assert checkpointer.drain()[:3] == (False, (1, 0), None)
    disk.failing = True
    save(checkpointer, 2)
    assert checkpointer.status.saved == (2, 0), "a failure that was not noticed changes nothing"
    assert checkpointer.drain()[:3] == (False, None, None)
    assert checkpointer.newest_step == 1
    disk.failing = False
    save(checkpointer, 3)
    assert checkpointer.drain()[:3] == (False, (3, 0), None)
    assert checkpointer.newest_step == 3


def test_only_failures_in_a_row_are_raised(checkpointer: Checkpointer, disk: FailingStorage) -> None:
    save(checkpointer, 1)
    checkpointer.drain()
    for step in (2, 4):
        disk.failing = True
        save(checkpointer, step)
        checkpointer.drain()
        disk.failing = False
        save(checkpointer, step + 1)
        checkpointer.drain()
    disk.failing = True
    save(checkpointer, 6)
    checkpointer.drain()
    save(checkpointer, 7)
    with pytest.raises(StorageError, match="no answer"):
        checkpointer.drain()
    assert checkpointer.status.saved is None


def test_a_failure_is_raised_at_once_while_there_is_no_checkpoint(
    checkpointer: Checkpointer, disk: FailingStorage
) -> None:
    disk.failing = True
    save(checkpointer, 0)
    with pytest.raises(StorageError, match="no answer"):
        checkpointer.drain()


def test_memory_is_prepared_where_nothing_is_in_flight(checkpointer: Checkpointer) -> None:
    save(checkpointer, 1)
    assert checkpointer.status.busy
    checkpointer.prepare()
    assert checkpointer.drain().saved == (1, 0)
    checkpointer.prepare()
    assert not checkpointer.drain().busy
    save(checkpointer, 2)
    assert checkpointer.drain().saved == (2, 0)


def test_a_status_is_of_one_instant(checkpointer: Checkpointer) -> None:
    save(checkpointer, 1)
    before = checkpointer.drain()
    save(checkpointer, 2)
    after = checkpointer.drain()
    assert before.saved == (1, 0)
    assert after.saved == (2, 0)
    assert after.saved_at_seconds > before.saved_at_seconds
    assert after.stalled_seconds > before.stalled_seconds
    assert after.save_seconds > 0
    with pytest.raises(AttributeError):
        after.saved = None  # type: ignore[misc]
