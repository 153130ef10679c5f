"""Passes over data in every shape of loop, resumed in their midst; and validation, which is none of them."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from resumable import Run, Trainer
from tests.tiny import BATCHES, Crash, Tiny, assert_equal_ends, crashed, draw_from_all_streams


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Where the undisturbed run of a test goes."""
    return tmp_path / "whole"


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


@pytest.mark.parametrize("crash_at", [3, 4, 7, 13])
@pytest.mark.parametrize(
    "script", [two_passes, bare_passes, bare_passes_left_early, cycled, cycled_at_the_head, zipped]
)
def test_every_way_to_pass_over_data_goes_on_exactly(
    run: Path, whole: Path, script: Callable[..., None], crash_at: int
) -> None:
    tiny = Tiny(run, crash_at=crash_at)
    with pytest.raises(Crash), tiny.trainer() as trainer:
        script(tiny, trainer)
    for folder in (run, whole):
        tiny = Tiny(folder)
        with tiny.trainer() as trainer:
            script(tiny, trainer)
        assert trainer.step == 16
    assert_equal_ends(run, whole)


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
