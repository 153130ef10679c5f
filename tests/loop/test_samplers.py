"""Trainings whose sampler follows what the loop writes to it, crashed and run again in every shape of loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from resumable import Trainer
from tests.loop.test_passes import turn
from tests.tiny import BATCHES, Crash, Tiny, assert_equal_ends


class Hard(Sampler[int]):
    """Draws its order at `iter()`, by the losses that the loop wrote."""

    def __init__(self) -> None:
        self.weights = torch.ones(2 * BATCHES, dtype=torch.double)

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        return iter(torch.multinomial(self.weights, len(self), True).tolist())

    def learn(self, batch: list[Tensor]) -> None:
        self.weights[(batch[0][:, 0] / 2).long()] *= 1 + batch[0][:, 0].double()

    def state_dict(self) -> dict[str, Tensor]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.weights.copy_(state["weights"])


def over(tiny: Tiny, sampler: Hard) -> DataLoader[Any]:
    """The tiny samples in the sampler's order."""
    return DataLoader(tiny.loader.dataset, batch_size=2, sampler=sampler)


def in_passes(tiny: Tiny, trainer: Trainer, sampler: Hard) -> None:
    loader = over(tiny, sampler)
    for _ in trainer.epochs(2):
        for _ in range(2):
            for batch in trainer.batches(loader):
                tiny.step(batch)
                sampler.learn(batch)
                tiny.ends(trainer)


def validating(tiny: Tiny, trainer: Trainer, sampler: Hard) -> None:
    loader = over(tiny, sampler)
    for _ in trainer.epochs(4):
        for batch in trainer.batches(loader):
            tiny.step(batch)
            for one in trainer.evaluate(loader):
                sampler.learn(one)
            tiny.ends(trainer)


def beside_a_replay(tiny: Tiny, trainer: Trainer, sampler: Hard) -> None:
    loader = over(tiny, sampler)
    for _ in trainer.epochs(4):
        for batch, _ in trainer.batches(loader, [0, 1, 2, 3]):
            tiny.step(batch)
            sampler.learn(batch)
            tiny.ends(trainer)


def in_a_cycle(tiny: Tiny, trainer: Trainer, sampler: Hard) -> None:
    cycle = trainer.cycle(over(tiny, sampler))
    for _ in trainer.steps(16):
        batch = next(cycle)
        tiny.step(batch)
        sampler.learn(batch)
        tiny.ends(trainer)


def between_bare_passes(tiny: Tiny, trainer: Trainer, sampler: Hard) -> None:
    loader = over(tiny, sampler)
    for number in range(4):
        for batch in trainer.batches(loader):
            tiny.step(batch)
            tiny.ends(trainer)
        sampler.weights[number] += 40


def written_before_it_is_read(tiny: Tiny, trainer: Trainer, sampler: Hard) -> None:
    cycle = trainer.cycle(over(tiny, sampler))
    for epoch in trainer.epochs(4):
        sampler.weights[epoch] += 40
        for batch in trainer.batches(tiny.loader):
            sampler.learn(batch)
            if trainer.step % 3 == 2:
                batch = next(cycle)
            tiny.step(batch)
            tiny.ends(trainer)


CRASHES = [[1], [3], [6], [13], [3, 6, 7, 13]]


@pytest.mark.parametrize("script", [in_passes, validating, beside_a_replay, in_a_cycle, between_bare_passes])
def test_a_sampler_that_follows_the_losses_goes_on_exactly(tmp_path: Path, script: Callable[..., None]) -> None:
    def alone(tiny: Tiny, trainer: Trainer) -> None:
        script(tiny, trainer, Hard())

    undisturbed = turn(alone, tmp_path / "whole")
    assert len(undisturbed.notes["seen"]) == 16
    for crashes in CRASHES:
        turn(alone, tmp_path / str(crashes), *crashes)
        assert_equal_ends(tmp_path / str(crashes), tmp_path / "whole")


@pytest.mark.parametrize("script", [in_passes, validating, beside_a_replay, in_a_cycle, written_before_it_is_read])
def test_a_sampler_that_is_also_one_of_the_objects_goes_on_exactly(tmp_path: Path, script: Callable[..., None]) -> None:
    def launch(folder: Path, crash_at: int | None) -> None:
        tiny, sampler = Tiny(folder, crash_at=crash_at, saves=range(1, 1000)), Hard()
        with tiny.trainer(sampler=sampler) as trainer:
            script(tiny, trainer, sampler)

    launch(tmp_path / "whole", None)
    for crashes in CRASHES:
        run = tmp_path / str(crashes)
        for crash_at in crashes:
            with pytest.raises(Crash):
                launch(run, crash_at)
        launch(run, None)
        assert_equal_ends(run, tmp_path / "whole")


def test_what_the_head_of_an_epoch_writes_to_a_sampler_that_is_an_object_is_kept(tmp_path: Path) -> None:
    def launch(folder: Path, crash_at: int | None) -> None:
        tiny, sampler = Tiny(folder, crash_at=crash_at, saves=(), every={"epochs": 1}), Hard()
        loader = over(tiny, sampler)
        with tiny.trainer(sampler=sampler) as trainer:
            for epoch in trainer.epochs(4):
                sampler.weights[epoch] += 40
                for batch in trainer.batches(loader):
                    tiny.step(batch)
                    tiny.ends(trainer)

    with pytest.raises(Crash):
        launch(tmp_path / "run", 9)
    for folder in ("run", "whole"):
        launch(tmp_path / folder, None)
    assert_equal_ends(tmp_path / "run", tmp_path / "whole")
