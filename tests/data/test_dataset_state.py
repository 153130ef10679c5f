"""Map-style datasets with a state: it goes on after any kill, or a warning says what does not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from resumable.data.addresses import PassAddress
from tests.data.kinds import Bench

EPOCHS, SAMPLES = 3, 10


class Curriculum(Dataset[float]):
    """Harder with each sample that is read, and with what the loop says."""

    def __init__(self) -> None:
        self.reads, self.level = 0, 1.0

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> float:
        self.reads += 1
        return index + self.level / self.reads

    def state_dict(self) -> dict[str, Any]:
        return {"reads": self.reads, "level": self.level}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reads, self.level = state["reads"], state["level"]


class Steady(Curriculum):
    """Changed by the loop alone."""

    def __getitem__(self, index: int) -> float:
        return index + self.level


def train(
    dataset: Any, start: dict[str, Any] | None = None, *, until: int = 99, given: bool = False, **way: Any
) -> tuple[list[Any], dict[str, Any], list[str]]:
    """Train from `start` until so many batches were seen in all; the loop writes to the dataset after each epoch."""
    loader = DataLoader(dataset, 4, shuffle=True, collate_fn=list, **way)
    bench, seen = Bench(restored_elsewhere=[dataset] if given else []), []
    start = start or {"epoch": 0, "position": None, "data": {}, "object": None, "done": 0}
    if given and start["object"]:
        dataset.load_state_dict(start["object"])
    bench.data.load(start["data"])
    done, resume = start["done"], start["position"]
    for epoch in range(start["epoch"], EPOCHS):
        opened = bench.data.open(loader, PassAddress("batches", 0, epoch), resume, set_epoch=epoch)
        resume = None
        for batch in opened:
            seen.append(batch)
            done += 1
            if done == until:
                break
        if done == until:
            at = {"epoch": epoch, "position": opened.position(), "data": bench.data.state(), "done": done}
            taken = copy.deepcopy(at | {"object": dataset.state_dict()})
            bench.data.close()
            return seen, taken, bench.said
        dataset.level *= 1.5
    bench.data.close()
    return seen, {}, bench.said


@pytest.mark.parametrize("given", [False, True])
def test_without_workers_the_state_goes_on_after_a_kill_behind_any_batch(given: bool) -> None:
    whole = train(Curriculum(), given=given)[0]
    for until in range(1, len(whole)):
        before, taken, said = train(Curriculum(), until=until, given=given)
        after, _, said_later = train(Curriculum(), taken, given=given)
        assert before + after == whole
        assert said == said_later == []
        assert any("dataset" in states for states in taken["data"].values()) is not given


def test_with_workers_a_state_that_only_the_loop_changes_goes_on() -> None:
    whole = train(Steady(), num_workers=1)[0]
    before, taken, said = train(Steady(), until=5, num_workers=1)
    after, _, said_later = train(Steady(), taken, num_workers=1)
    assert before + after == whole
    assert said == said_later == []


def test_with_workers_a_state_that_reading_changes_is_warned_of() -> None:
    said = train(Curriculum(), until=1, num_workers=1)[2]
    assert len(said) == 1
    assert "reading changes its state, and workers hold copies" in said[0]


def test_persistent_workers_that_keep_an_older_state_are_warned_of() -> None:
    said = train(Steady(), until=5, num_workers=1, persistent_workers=True)[2]
    assert len(said) == 1
    assert "persistent workers keep the copy that they began with" in said[0]


class Large(Steady):
    def __init__(self) -> None:
        super().__init__()
        self.cache = torch.zeros(2**20)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"cache": self.cache}


class Odd(Steady):
    def state_dict(self) -> dict[str, Any]:
        return {"self": self}


@pytest.mark.parametrize("kind", [Large, Odd])
def test_a_state_that_a_position_cannot_hold_is_warned_of(kind: type[Steady]) -> None:
    _, taken, said = train(kind(), until=2)
    assert not any("dataset" in states for states in taken["data"].values())
    assert len(said) == 1
    assert "pass the dataset to Trainer(...), too" in said[0]
