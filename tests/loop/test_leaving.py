"""Loops that are left before their end: what `stop()` finishes all the same, and what is said of the rest."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import LoopError, Preempted, Run, StorageError, Trainer
from resumable.store.layout import CHECKPOINTS
from tests.lab.client import Bench, shared_lab
from tests.tiny import BATCHES, Crash, Tiny, assert_equal_ends, steps_of, until_written

Loop = Callable[[Tiny, Trainer], None]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The WARN lines until now."""
    caplog.set_level(logging.INFO, logger="resumable")
    return lambda: [each.getMessage() for each in caplog.records if each.getMessage().startswith("WARN")]


class Bar:
    """Goes over an iterable as tqdm does, and is kept by the script."""

    def __init__(self, iterable: Any) -> None:
        self.iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        yield from (each for each in self.iterable)


# -- stop() and then break --------------------------------------------------------------------------------------------


def breaks_out_of_epochs(tiny: Tiny, trainer: Trainer) -> None:
    for epoch in trainer.epochs(5):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
        if epoch == 1:
            trainer.stop()
            break


def breaks_out_of_batches(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(5):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
            if trainer.step == 5:
                trainer.stop()
                break


def breaks_out_of_both(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(5):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
            if trainer.step == 5:
                trainer.stop()
                break
        if trainer.step == 6:
            break


def returns_out_of_both(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(5):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
            if trainer.step == 5:
                trainer.stop()
                return


def breaks_out_of_steps(tiny: Tiny, trainer: Trainer) -> None:
    for step in trainer.steps(40):
        tiny.step(next(iter(tiny.loader)))
        if step == 5:
            trainer.stop()
            break


def breaks_out_of_a_bare_pass(tiny: Tiny, trainer: Trainer) -> None:
    for _ in range(5):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
            if trainer.step == 5:
                trainer.stop()
                break


def returns_out_of_a_bare_pass(tiny: Tiny, trainer: Trainer) -> None:
    for _ in range(5):
        for _, batch in trainer.enumerate(tiny.loader):
            tiny.step(batch)
            if trainer.step == 5:
                trainer.stop()
                return


def breaks_out_of_bars_that_are_kept(tiny: Tiny, trainer: Trainer) -> None:
    tiny.kept = [Bar(trainer.epochs(5))]  # type: ignore[attr-defined]
    for _ in tiny.kept[0]:  # type: ignore[attr-defined]
        batches = Bar(trainer.batches(tiny.loader))
        tiny.kept.append(batches)  # type: ignore[attr-defined]
        for batch in batches:
            tiny.step(batch)
            if trainer.step == 5:
                trainer.stop()
                break
        if trainer.step == 6:
            break


def closes_in_the_body(tiny: Tiny, trainer: Trainer) -> None:
    for step in trainer.steps(40):
        tiny.step(next(iter(tiny.loader)))
        if step == 5:
            trainer.stop()
            trainer.close()


def leaves_an_iterator_behind(tiny: Tiny, trainer: Trainer) -> None:
    tiny.kept = steps = iter(trainer.steps(40))  # type: ignore[attr-defined]
    for _ in range(6):
        next(steps)
        tiny.step(next(iter(tiny.loader)))
    trainer.stop()


ENDS: dict[Loop, tuple[int, int]] = {
    breaks_out_of_epochs: (2 * BATCHES, 2),
    breaks_out_of_batches: (6, 2),
    breaks_out_of_both: (6, 2),
    returns_out_of_both: (6, 2),
    breaks_out_of_steps: (6, 0),
    breaks_out_of_a_bare_pass: (6, 2),
    returns_out_of_a_bare_pass: (6, 2),
    breaks_out_of_bars_that_are_kept: (6, 2),
    closes_in_the_body: (6, 0),
    leaves_an_iterator_behind: (6, 0),
}


@pytest.mark.parametrize("loop", ENDS)
def test_stop_and_then_leaving_finishes_the_run_with_what_the_last_step_left(
    run: Path, loop: Loop, warnings: Callable[[], list[str]]
) -> None:
    tiny = Tiny(run, saves=())
    with tiny.trainer() as trainer:
        loop(tiny, trainer)
        trained = tiny.model[0].weight.detach().clone()
        if loop is not leaves_an_iterator_behind:
            tiny.model.half()  # the code behind the loop, which no checkpoint may see
    last = Run(str(run)).latest()
    assert (last.step, last.epoch, last.manifest.finished) == (*ENDS[loop], True)
    assert (trainer.step, trainer.epoch) == ENDS[loop]
    assert torch.equal(last.load("model")["0.weight"], trained)
    assert len(tiny.notes["seen"]) == last.step
    assert warnings() == []


def test_a_break_after_stop_ends_as_the_loop_would_have_ended_by_itself(run: Path, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path / "whole", saves=())
    with tiny.trainer() as trainer:
        for epoch in trainer.epochs(5):
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
            if epoch == 1:
                trainer.stop()
    tiny = Tiny(run, saves=())
    with tiny.trainer() as trainer:
        breaks_out_of_epochs(tiny, trainer)
    assert_equal_ends(run, tmp_path / "whole")


def test_what_stop_and_break_finished_is_done_and_a_larger_number_goes_on(run: Path) -> None:
    for _ in range(2):
        tiny = Tiny(run, saves=())
        with tiny.trainer() as trainer:
            breaks_out_of_epochs(tiny, trainer)
    assert Run(str(run)).latest().manifest.attempt == 1
    Tiny(run).train(6)
    assert Run(str(run)).latest().step == 6 * BATCHES


def test_it_is_saved_before_the_code_behind_the_loop_so_that_a_kill_there_loses_nothing(run: Path) -> None:
    tiny = Tiny(run, saves=())
    trainer = tiny.trainer()
    breaks_out_of_both(tiny, trainer)
    assert Run(str(run)).latest().manifest.finished
    trainer.close()


def take_away(run: Path) -> None:
    """Have every later save fail: where the checkpoints go there is a file."""
    shutil.rmtree(run / CHECKPOINTS)
    (run / CHECKPOINTS).write_text("")


def test_a_final_save_that_fails_behind_a_break_is_raised_by_the_next_call(
    run: Path, warnings: Callable[[], list[str]]
) -> None:
    tiny = Tiny(run, saves=(), max_failed_saves=1)
    with tiny.trainer() as trainer:
        for _ in trainer.steps(9):
            tiny.step(next(iter(tiny.loader)))
            if trainer.step == 2:
                take_away(run)
                trainer.stop()
                break
        with pytest.raises(StorageError, match="cannot write"):
            trainer.log(loss=1)
    said = warnings()
    assert "the final save failed" in said[0]
    assert "trained up to step 3, but the newest checkpoint is of step 0" in said[-1]


def test_a_final_save_that_fails_behind_a_break_is_raised_by_close(run: Path) -> None:
    tiny = Tiny(run, saves=(), max_failed_saves=1)
    trainer = tiny.trainer()
    for _ in trainer.steps(9):
        take_away(run)
        trainer.stop()
        break
    with pytest.raises(StorageError, match="cannot write"):
        trainer.close()


def test_a_signal_in_the_step_that_stop_and_break_ended_leaves_at_the_close(run: Path) -> None:
    tiny = Tiny(run, saves=())
    trainer = tiny.trainer()
    for _ in trainer.steps(9):
        os.kill(os.getpid(), signal.SIGUSR1)
        trainer.stop()
        break
    with pytest.raises(Preempted) as caught:
        trainer.close()
    assert (caught.value.code, caught.value.step, caught.value.saved) == (75, 1, True)
    assert Run(str(run)).latest().manifest.finished


# -- leaving otherwise ------------------------------------------------------------------------------------------------


def stops_and_fails(tiny: Tiny, trainer: Trainer) -> None:
    for step in trainer.steps(9):
        if step == 6:
            trainer.stop()
            raise Crash


def stops_and_fails_in_a_bar(tiny: Tiny, trainer: Trainer) -> None:
    steps = Bar(trainer.steps(9))
    for step in steps:
        if step == 6:
            trainer.stop()
            raise Crash


def stops_and_fails_by_hand(tiny: Tiny, trainer: Trainer) -> None:
    steps = iter(trainer.steps(9))
    for _ in range(7):
        next(steps)
    trainer.stop()
    raise Crash


@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize("loop", [stops_and_fails, stops_and_fails_in_a_bar, stops_and_fails_by_hand])
def test_an_exception_after_stop_saves_no_half_step_and_says_what_is_in_no_checkpoint(
    run: Path, warnings: Callable[[], list[str]], loop: Loop, caught: bool
) -> None:
    def script() -> None:
        tiny = Tiny(run)
        with tiny.trainer() as trainer:
            try:
                loop(tiny, trainer)
            except Crash:
                if not caught:
                    raise
                trainer.close()

    try:
        script()
    except Crash:
        assert not caught
    assert steps_of(run) == [0]
    assert not Run(str(run)).latest().manifest.finished
    [warning] = warnings()
    assert "trained up to step 6, but the newest checkpoint is of step 0" in warning


def breaks_early(tiny: Tiny, trainer: Trainer) -> None:
    for step in trainer.steps(9):
        tiny.ends(trainer)
        until_written()
        if step == 4:
            break


def returns_early(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(9):
        for _ in trainer.batches(tiny.loader):
            tiny.ends(trainer)
            until_written()
            if trainer.step == 4:
                return


def fails_early(tiny: Tiny, trainer: Trainer) -> None:
    for step in trainer.steps(9):
        tiny.ends(trainer)
        until_written()
        if step == 5:
            raise Crash


def breaks_out_of_a_pass(tiny: Tiny, trainer: Trainer) -> None:
    for _ in range(3):
        for _ in trainer.batches(tiny.loader):
            tiny.ends(trainer)
            until_written()
            if trainer.step == 4:
                return


def goes_away(tiny: Tiny, trainer: Trainer) -> None:
    steps = iter(trainer.steps(9))
    for _ in range(5):
        next(steps)
        tiny.ends(trainer)
        until_written()


EARLY: list[Loop] = [breaks_early, returns_early, fails_early, breaks_out_of_a_pass, goes_away]


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("loop", EARLY)
def test_steps_that_are_in_no_checkpoint_are_said_once_with_both_numbers(
    run: Path, warnings: Callable[[], list[str]], loop: Loop, closes: bool
) -> None:
    def script() -> None:
        tiny = Tiny(run, saves=[3])
        trainer = tiny.trainer()
        with contextlib.suppress(Crash):
            loop(tiny, trainer)
        if closes:
            trainer.close()
            trainer.close()

    script()
    gc.collect()  # the trainer that nobody closed
    [warning] = warnings()
    assert f"{run}: trained up to step 5, but the newest checkpoint is of step 4" in warning
    hint = (
        "save more often (every.steps, every.minutes)" if loop is fails_early else "call trainer.stop() before a break"
    )
    assert hint in warning
    assert steps_of(run)[-1] == 4


@pytest.mark.parametrize("bar", [lambda loop: loop, Bar])
def test_after_an_error_they_are_reported_where_it_left_the_loop(
    run: Path, warnings: Callable[[], list[str]], bar: Callable[[Any], Any]
) -> None:
    """A notebook closes the trainer when its cell runs again, if ever. `Bar` is kept."""
    tiny = Tiny(run, saves=[3])
    trainer = tiny.trainer()
    epochs = bar(trainer.epochs(2))
    with contextlib.suppress(Crash):
        for _ in epochs:
            for _ in trainer.batches(tiny.loader):
                tiny.ends(trainer)
                if trainer.step == 3:
                    raise Crash
    [warning] = warnings()
    assert "trained up to step 3, but the newest checkpoint is of step 0" in warning
    assert "save more often" in warning
    trainer.close()
    assert warnings() == [warning]


def test_an_error_that_the_next_pass_survives_is_not_the_end(run: Path, warnings: Callable[[], list[str]]) -> None:
    tiny = Tiny(run, saves=())
    with tiny.trainer() as trainer:
        for number in range(2):
            with contextlib.suppress(Crash):
                for _ in trainer.batches(tiny.loader):
                    if number == 0 and trainer.step == 2:
                        raise Crash
            assert warnings() == []


def test_a_signal_in_an_evaluation_names_the_checkpoint_where_the_next_attempt_begins(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="resumable")
    tiny = Tiny(run, saves=[3])
    with contextlib.suppress(Preempted), tiny.trainer() as trainer:
        for _ in trainer.steps(9):
            tiny.ends(trainer)
            if trainer.step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
                list(trainer.evaluate(tiny.loader))
    assert "PREEMPT signal=SIGTERM step=6 saved=no newest=4 exit=75" in caplog.messages


def to_the_end(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(2):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)


def in_bare_passes(tiny: Tiny, trainer: Trainer) -> None:
    for _ in range(2):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)


def in_kept_bars(tiny: Tiny, trainer: Trainer) -> None:
    bar = Bar(trainer.steps(4))
    for _ in bar:
        pass
    tiny.kept = bar  # type: ignore[attr-defined]


def breaks_where_all_is_saved(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(3):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
            trainer.request_save()
        break


def fails_in_the_first_step(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.steps(3):
        raise Crash


def never_begins(tiny: Tiny, trainer: Trainer) -> None:
    trainer.epochs(3)


def is_preempted(tiny: Tiny, trainer: Trainer) -> None:
    for step in trainer.steps(9):
        if step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)


NOTHING_UNSAVED: list[Loop] = [
    to_the_end,
    in_bare_passes,
    in_kept_bars,
    breaks_where_all_is_saved,
    fails_in_the_first_step,
    never_begins,
    is_preempted,
]


@pytest.mark.parametrize("loop", NOTHING_UNSAVED)
def test_nothing_is_said_where_nothing_is_unsaved_nor_when_it_is_run_again(
    run: Path, warnings: Callable[[], list[str]], loop: Loop
) -> None:
    for _ in range(2):
        tiny = Tiny(run)
        try:
            with tiny.trainer() as trainer:
                loop(tiny, trainer)
        except (Crash, Preempted):
            pass
    assert warnings() == []


def test_a_program_that_ends_in_mid_loop_says_what_is_in_no_checkpoint(tmp_path: Path) -> None:
    ended = Bench(shared_lab(), tmp_path, "ends_in_mid_loop").launch("run")
    [line] = [line for line in ended.output.splitlines() if "WARN" in line]
    assert "trained up to step 6, but the newest checkpoint is of step 4" in line


def test_a_program_that_ends_in_mid_loop_after_stop_has_finished_its_run(tmp_path: Path) -> None:
    bench = Bench(shared_lab(), tmp_path, "ends_in_mid_loop", stops=True)
    assert "WARN" not in bench.launch("run").output
    assert (bench.open("run").latest().step, bench.open("run").latest().manifest.finished) == (6, True)


def test_a_loop_that_goes_on_behind_the_close_is_refused(run: Path) -> None:
    trainer = Tiny(run).trainer()
    steps = trainer.steps(4)
    next(steps)
    trainer.close()
    with pytest.raises(LoopError, match="this trainer is closed"):
        next(steps)
