"""Passes over data in every shape of loop, resumed in their midst; and validation, which is none of them."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from resumable import Run, Trainer
from tests.tiny import BATCHES, Crash, Tiny, assert_equal_ends, crashed, draw_from_all_streams, steps_of

# -- passes -----------------------------------------------------------------------------------------------------------


def two_passes(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(2):
        for _ in range(2):
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
                tiny.ends(trainer)


def bare_passes(tiny: Tiny, trainer: Trainer) -> None:
    for _ in range(4):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
            tiny.ends(trainer)
        tiny.notes["between"] = list(draw_from_all_streams())


def cycled(tiny: Tiny, trainer: Trainer) -> None:
    cycle = trainer.cycle(tiny.loader)
    other = trainer.cycle(tiny.loader, name="other")
    for step in trainer.steps(16):
        tiny.step(next(cycle))
        if step % 3 == 0:
            tiny.step(next(other))
        tiny.ends(trainer)


def bare_passes_left_early(tiny: Tiny, trainer: Trainer) -> None:
    cycle = trainer.cycle(tiny.loader)
    for _ in range(5):
        for batch in trainer.batches(tiny.loader):
            tiny.backward(next(cycle))
            tiny.step(batch)
            tiny.ends(trainer)
            if trainer.step % 6 == 5:
                break
        tiny.notes["between"] = list(draw_from_all_streams())


def cycled_at_the_head(tiny: Tiny, trainer: Trainer) -> None:
    cycle = trainer.cycle(tiny.loader)
    for _ in trainer.epochs(4):
        tiny.notes["first"] = next(cycle)[0].tolist()
        for batch in trainer.batches(tiny.loader):
            tiny.backward(next(cycle))
            tiny.step(batch)
            tiny.ends(trainer)


def zipped(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(4):
        for one, other in trainer.batches(tiny.loader, tiny.loader):
            tiny.backward(one)
            tiny.step(other)
            tiny.ends(trainer)


@pytest.mark.parametrize(
    "script", [two_passes, bare_passes, bare_passes_left_early, cycled, cycled_at_the_head, zipped]
)
def test_every_way_to_pass_over_data_goes_on_exactly(tmp_path: Path, whole: Path, script: Callable[..., None]) -> None:
    turn(script, whole)
    for crash_at in (3, 4, 7, 13):
        run = tmp_path / f"crashed-at-{crash_at}"
        turn(script, run, crash_at)
        assert_equal_ends(run, whole)
    assert steps_of(whole)[-1] == 16


def turn(script: Callable[..., None], folder: Path, *crashes: int, **options: Any) -> Tiny:
    """Run a script through crashes in the bodies of these steps, and once more to its end."""
    for crash_at in crashes:
        tiny = Tiny(folder, crash_at=crash_at, **options)
        with pytest.raises(Crash), tiny.trainer() as trainer:
            script(tiny, trainer)
    tiny = Tiny(folder)
    with tiny.trainer() as trainer:
        script(tiny, trainer)
    return tiny


class Counts(Sampler[int]):
    """An order that goes on from pass to pass: every index depends on how many this sampler gave, which it tells."""

    def __init__(self) -> None:
        self.given = 0

    def __len__(self) -> int:
        return 2 * BATCHES

    def __iter__(self) -> Iterator[int]:
        for _ in range(len(self)):
            self.given += 1
            yield self.given**2 // 5 % len(self)

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given = state["given"]


def in_turn(tiny: Tiny) -> DataLoader[Any]:
    """The tiny samples in an order that goes on from pass to pass."""
    return DataLoader(tiny.loader.dataset, batch_size=2, sampler=Counts())


def two_passes_in_turn(tiny: Tiny, trainer: Trainer) -> None:
    tiny.loader = in_turn(tiny)
    two_passes(tiny, trainer)


def two_loaders_of_one_sampler(tiny: Tiny, trainer: Trainer) -> None:
    one = in_turn(tiny)
    other = DataLoader(tiny.loader.dataset, batch_size=2, sampler=one.sampler)
    for _ in trainer.epochs(2):
        for loader in (one, other):
            for batch in trainer.batches(loader):
                tiny.step(batch)
                tiny.ends(trainer)


@pytest.mark.parametrize("crashes", [[3], [11], [3, 11], [1, 3, 6, 9, 11]])
@pytest.mark.parametrize("script", [two_passes_in_turn, two_loaders_of_one_sampler])
def test_a_sampler_with_a_state_that_two_passes_share_goes_on_exactly(
    run: Path, whole: Path, script: Callable[..., None], crashes: list[int]
) -> None:
    turn(script, run, *crashes)
    undisturbed = turn(script, whole)
    passes = [undisturbed.notes["seen"][start : start + BATCHES] for start in range(0, 16, BATCHES)]
    assert len({str(each) for each in passes}) == 4
    assert_equal_ends(run, whole)


def validates_in_turn(tiny: Tiny, trainer: Trainer) -> None:
    loader = in_turn(tiny)
    tiny.notes["validated"] = []
    for _ in trainer.epochs(4):
        tiny.notes["validated"].append([x[:, 0].tolist() for [x] in trainer.evaluate(loader)])
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
            tiny.ends(trainer)


@pytest.mark.parametrize("crashes", [[5], [6, 7], [5, 6, 7, 10, 11], list(range(1, 16))])
def test_a_sampler_with_a_state_that_validates_at_the_head_of_an_epoch_counts_no_rerun(
    run: Path, whole: Path, crashes: list[int]
) -> None:
    turn(validates_in_turn, run, *crashes, saves=range(1000))
    undisturbed = turn(validates_in_turn, whole)
    assert len({str(each) for each in undisturbed.notes["validated"]}) == 4
    assert_equal_ends(run, whole)


class TellsItsEpoch(Dataset[tuple[torch.Tensor]]):
    """Samples that show the epoch that the dataset was told last."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 2 * BATCHES

    def __getitem__(self, index: int) -> tuple[torch.Tensor]:
        return (torch.tensor([self.epoch + index / 16, float(index)]),)


def shares_a_dataset(tiny: Tiny, trainer: Trainer) -> None:
    dataset = TellsItsEpoch()
    loader = DataLoader(dataset, batch_size=2, shuffle=True)
    cycle = trainer.cycle(DataLoader(dataset, batch_size=4, shuffle=True))
    for _ in trainer.epochs(4):
        for batch in trainer.batches(loader):
            if trainer.step % 5 == 0:
                tiny.backward(next(cycle))
            tiny.step(batch)
            tiny.ends(trainer)


@pytest.mark.parametrize("crashes", [[3], [7], [9], [13], [3, 7, 9, 13]])
def test_a_dataset_that_a_pass_and_a_cycle_share_shows_to_each_its_own_epoch(
    run: Path, whole: Path, crashes: list[int]
) -> None:
    turn(shares_a_dataset, run, *crashes)
    undisturbed = turn(shares_a_dataset, whole)
    told = [{int(shown) for shown in batch} for batch in undisturbed.notes["seen"] if len(batch) == 2]
    assert told == [{epoch} for epoch in range(4) for _ in range(BATCHES)]
    assert_equal_ends(run, whole)


def test_bare_passes_over_a_loader_without_a_batch_are_epochs_without_a_step(run: Path) -> None:
    tiny = Tiny(run)
    empty = DataLoader(tiny.loader.dataset, batch_size=64, drop_last=True)
    for _ in range(2):
        with Tiny(run).trainer() as trainer:
            assert [list(trainer.batches(empty)) for _ in range(3)] == [[], [], []]
        assert (trainer.step, trainer.epoch) == (0, 3)


def test_passes_over_one_loader_in_one_epoch_come_in_different_orders(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        two_passes(tiny, trainer)
    passes = [tuple(map(tuple, tiny.notes["seen"][start : start + BATCHES])) for start in range(0, 16, BATCHES)]
    assert len(set(passes)) == 4
    assert len({tuple(sorted(chain(*each))) for each in passes}) == 1


def test_a_pass_that_was_finished_before_the_crash_yields_nothing(run: Path) -> None:
    tiny = Tiny(run, crash_at=7)
    with pytest.raises(Crash), tiny.trainer() as trainer:
        two_passes(tiny, trainer)
    tiny, counts = Tiny(run), []
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(1):
            for _ in range(2):
                counts.append(sum(1 for _ in trainer.batches(tiny.loader)))
    assert counts == [0, 2]


def test_enumerate_goes_on_with_the_index_of_the_batch(run: Path) -> None:
    crashed(run, step=7)
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        indices = [index for _ in trainer.epochs(3) for index, _ in trainer.enumerate(tiny.loader)]
    assert indices == [2, 3, 0, 1, 2, 3]


def test_a_cycle_begins_a_new_pass_when_one_is_over(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        cycle = trainer.cycle(tiny.loader)
        seen = [next(cycle)[0][:, 0].tolist() for _ in trainer.steps(2 * BATCHES)]
    assert sorted(chain(*seen[:BATCHES])) == sorted(chain(*seen[BATCHES:]))
    assert seen[:BATCHES] != seen[BATCHES:]


# -- validation -------------------------------------------------------------------------------------------------------


def validates(trainer: Trainer, tiny: Tiny) -> None:
    for _ in trainer.evaluate(tiny.loader):
        list(draw_from_all_streams())


def breaks(trainer: Trainer, tiny: Tiny) -> None:
    for _ in trainer.evaluate(tiny.loader):
        list(draw_from_all_streams())
        break


def raises(trainer: Trainer, tiny: Tiny) -> None:
    with suppress(Crash):
        for _ in trainer.evaluate(tiny.loader):
            list(draw_from_all_streams())
            raise Crash


def states() -> list[Any]:
    name, words, *rest = numpy.random.get_state()
    return [torch.get_rng_state().tolist(), (name, words.tolist(), *rest), random.getstate()]


@pytest.mark.parametrize("leave", [validates, breaks, raises])
def test_validation_counts_no_step_and_leaves_the_streams_alone(run: Path, leave: Callable[..., None]) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(1):
            before = states()
            leave(trainer, tiny)
            assert states() == before
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
                before = states()
                leave(trainer, tiny)
                assert states() == before
    assert trainer.step == BATCHES


def test_a_validation_that_is_kept_and_dropped_later_undoes_nothing(run: Path) -> None:
    tiny, kept = Tiny(run), []
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(1):
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
                if not kept:
                    kept.append(trainer.evaluate(tiny.loader))
                    next(kept[0])
        before = states()
        kept.clear()
        gc.collect()
        assert states() == before


def test_validation_before_the_first_loop_sees_the_restored_objects(run: Path) -> None:
    crashed(run, step=5)
    saved = Run(str(run)).latest().load("model")
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        assert sum(1 for _ in trainer.evaluate(tiny.loader)) == BATCHES
        assert torch.equal(tiny.model[0].weight, saved["0.weight"])
        assert trainer.step == 4


class Drawn(Dataset[torch.Tensor]):
    """Samples that are nothing but draws."""

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(2)


def validated(tiny: Tiny, trainer: Trainer) -> list[float]:
    return [drawn.sum().item() for drawn in trainer.evaluate(DataLoader(Drawn()))]


def validates_around_epochs(tiny: Tiny, trainer: Trainer) -> None:
    validated(tiny, trainer)
    for _ in trainer.epochs(2):
        tiny.notes["seen"].append(validated(tiny, trainer))
        for batch in trainer.batches(tiny.loader):
            tiny.notes["seen"].append(validated(tiny, trainer))
            tiny.step(batch)
            tiny.ends(trainer)


def validates_around_bare_passes(tiny: Tiny, trainer: Trainer) -> None:
    validated(tiny, trainer)
    for _ in range(2):
        for batch in trainer.batches(tiny.loader):
            tiny.notes["seen"].append(validated(tiny, trainer))
            tiny.step(batch)
            tiny.ends(trainer)


def validates_around_steps(tiny: Tiny, trainer: Trainer) -> None:
    validated(tiny, trainer)
    for _ in trainer.steps(8):
        tiny.notes["seen"].append(validated(tiny, trainer))
        tiny.ends(trainer)


@pytest.mark.parametrize("script", [validates_around_epochs, validates_around_bare_passes, validates_around_steps])
def test_validation_before_the_loop_changes_none_inside_it_after_a_crash_before_the_first_interval(
    run: Path, whole: Path, script: Callable[..., None]
) -> None:
    turn(script, run, 0, 1)
    turn(script, whole)
    assert_equal_ends(run, whole)
