"""`len()` of what a loop turns over: always as many as come, so that a bar around it shows the right total."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from resumable import Trainer
from tests.tiny import BATCHES, Crash, Tiny, crashed


class Bars:
    """Asks every iterator that it wraps for its length, before and in each turn, and compares with what came."""

    def __init__(self) -> None:
        self.totals: list[int] = []

    def around(self, turns: Any) -> Iterator[Any]:
        before, said, came = len(turns), [], 0
        self.totals.append(before)
        for turn in turns:
            came += 1
            said.append(len(turns))
            yield turn
        assert before == came
        assert said == list(range(came))[::-1]
        assert len(turns) == 0


def one_pass(tiny: Tiny, trainer: Trainer, bars: Bars) -> None:
    for _ in bars.around(trainer.epochs(3)):
        for batch in bars.around(trainer.batches(tiny.loader)):
            tiny.step(batch)
            tiny.ends(trainer)


def two_passes(tiny: Tiny, trainer: Trainer, bars: Bars) -> None:
    for _ in bars.around(trainer.epochs(2)):
        for _ in range(2):
            for _, batch in bars.around(trainer.enumerate(tiny.loader)):
                tiny.step(batch)
                tiny.ends(trainer)


def left_by_break(tiny: Tiny, trainer: Trainer, bars: Bars) -> None:
    for _ in bars.around(trainer.epochs(3)):
        for number, batch in trainer.enumerate(tiny.loader):
            tiny.step(batch)
            tiny.ends(trainer)
            if number == 1:
                break
        for batch in bars.around(trainer.batches(tiny.loader)):
            tiny.step(batch)
            tiny.ends(trainer)


def bare_passes(tiny: Tiny, trainer: Trainer, bars: Bars) -> None:
    for _ in range(3):
        for batch in bars.around(trainer.batches(tiny.loader)):
            tiny.step(batch)
            tiny.ends(trainer)


def bare_passes_left_by_break(tiny: Tiny, trainer: Trainer, bars: Bars) -> None:
    for turn in range(3):
        batches = trainer.batches(tiny.loader)
        for batch in batches if turn == 1 else bars.around(batches):
            tiny.step(batch)
            tiny.ends(trainer)
            if turn == 1 and trainer.step % BATCHES == 1:
                break
        del batches


def several_loaders(tiny: Tiny, trainer: Trainer, bars: Bars) -> None:
    longer = DataLoader(torch.arange(100), batch_size=2)
    for _ in bars.around(trainer.epochs(2)):
        for batch, _, _ in bars.around(trainer.batches(tiny.loader, longer, range(BATCHES + 1))):
            tiny.step(batch)
            tiny.ends(trainer)


def steps(tiny: Tiny, trainer: Trainer, bars: Bars) -> None:
    for _ in bars.around(trainer.steps(10)):
        tiny.ends(trainer)


SHAPES: list[Callable[[Tiny, Trainer, Bars], None]] = [
    one_pass,
    two_passes,
    left_by_break,
    bare_passes,
    bare_passes_left_by_break,
    several_loaders,
    steps,
]


@pytest.mark.parametrize("shape", SHAPES)
def test_as_many_turns_come_as_were_announced_in_a_run_that_is_killed_everywhere(
    run: Path, shape: Callable[[Tiny, Trainer, Bars], None]
) -> None:
    for folder, crashes in {"whole": [None, None], "killed": [0, 1, 2, 3, 4, 5, 7, 9, None, None]}.items():
        for crash_at in crashes:
            tiny = Tiny(run / folder, crash_at=crash_at, saves=range(100))
            with suppress(Crash), tiny.trainer() as trainer:
                shape(tiny, trainer, Bars())


def test_a_resume_announces_what_is_left_of_each_loop(run: Path) -> None:
    crashed(run, step=3)
    tiny, bars = Tiny(run), Bars()
    with tiny.trainer() as trainer:
        assert trainer.step == 2
        one_pass(tiny, trainer, bars)
    assert bars.totals == [3, 2, 4, 4]
    with Tiny(run).trainer() as trainer:
        one_pass(tiny, trainer, again := Bars())
    assert again.totals == [0]


def test_the_length_can_be_asked_for_before_anything_is_restored(run: Path) -> None:
    crashed(run, step=3)
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        assert len(trainer.batches(tiny.loader)) == 2
        epochs = trainer.epochs(2)
        assert [len(epochs), next(epochs), len(epochs)] == [2, 0, 1]
        assert len(trainer.batches(tiny.loader)) == 2


def test_tqdm_shows_the_total_that_is_left(run: Path) -> None:
    crashed(run, step=3)
    tiny, shown = Tiny(run), io.StringIO()
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(1):
            for batch in tqdm(trainer.batches(tiny.loader), file=shown, mininterval=0):
                tiny.step(batch)
    assert "| 0/2 [" in shown.getvalue()
    assert "| 2/2 [" in shown.getvalue()
    assert len(tiny.notes["seen"]) == BATCHES


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from torch.arange(6.0).reshape(3, 2)


def test_where_a_loader_has_no_length_there_is_none(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(1):
            for batches in (trainer.batches(DataLoader(Stream())), trainer.batches(DataLoader(Stream()), range(9))):
                for batch in batches:
                    with pytest.raises(TypeError, match="without a length"):
                        len(batches)
                    assert batches
                    del batch
            assert tqdm(trainer.evaluate(DataLoader(Stream())), disable=None).total is None
            assert len(list(trainer.evaluate(DataLoader(Stream())))) == 3


def test_after_stop_nothing_is_left(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        epochs = trainer.epochs(3)
        for _ in epochs:
            batches = trainer.batches(tiny.loader)
            for _ in batches:
                assert (len(epochs), len(batches)) == (2, 3)
                trainer.stop()
                assert (len(epochs), len(batches)) == (0, 0)
            assert len(trainer.batches(tiny.loader)) == 0
    assert trainer.step == 1


def test_a_run_that_was_stopped_in_a_bare_pass_has_nothing_left(run: Path) -> None:
    for launch in range(2):
        tiny = Tiny(run)
        with tiny.trainer() as trainer:
            batches = trainer.batches(tiny.loader)
            assert len(batches) == (0 if launch else BATCHES)
            for batch in batches:
                tiny.step(batch)
                if trainer.step == 1:
                    trainer.stop()
            assert trainer.step == 2
            assert (len(trainer.batches(tiny.loader)), list(trainer.batches(tiny.loader))) == (0, [])


def test_evaluations_count_each_for_itself(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(1):
            first, second = trainer.evaluate(tiny.loader), trainer.evaluate(tiny.loader)
            next(first), next(first), next(second)
            assert (len(first), len(second)) == (2, 3)
            first.close()
            assert len(first) == 0
            del first, second
            assert len(list(Bars().around(trainer.evaluate(tiny.loader)))) == BATCHES


def test_an_iterator_is_closed_by_hand_as_a_generator_is(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(1):
            with closing(trainer.batches(tiny.loader)) as batches:
                tiny.step(next(batches))
            assert len(batches) == 0
            assert trainer.step == 1
