"""`trainer.begin_at()`: a new run that takes over a training of another program, in each kind of loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from resumable import LoopError, Run, Trainer
from tests.tiny import BATCHES, Crash, Tiny, assert_equal_ends, draw_from_all_streams, saved, steps_of, until_written

EPOCHS, STEPS = 2, 9  # what the other program has trained; its epochs were not all of four batches


class Older(Tiny):
    """A training whose objects have the state that another program left, in each launch of the script."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scheduler = StepLR(self.optimizer, 2, gamma=0.5)
        for _ in range(STEPS):
            self.model(torch.ones(2, 2)).sum().backward()
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()

    def began(self) -> Trainer:
        trainer = self.trainer(scheduler=self.scheduler)
        trainer.begin_at(epoch=EPOCHS, step=STEPS)
        return trainer

    def turned(self, trainer: Trainer, batch: Any) -> None:
        trainer.log(loss=self.step(batch), lr=self.scheduler.get_last_lr()[0])
        self.scheduler.step()
        self.ends(trainer)


def in_epochs(tiny: Older) -> None:
    with tiny.began() as trainer:
        for epoch in trainer.epochs(EPOCHS + 2):
            tiny.notes.setdefault("turns", []).append((epoch, trainer.step, list(draw_from_all_streams())))
            for batch in trainer.batches(tiny.loader):
                tiny.turned(trainer, batch)


def in_steps(tiny: Older) -> None:
    with tiny.began() as trainer:
        cycle = trainer.cycle(tiny.loader)
        for step in trainer.steps(STEPS + 2 * BATCHES):
            tiny.notes.setdefault("turns", []).append((0, step, list(draw_from_all_streams())))
            tiny.turned(trainer, next(cycle))


def in_passes_without_epochs(tiny: Older) -> None:
    with tiny.began() as trainer:
        for epoch in range(EPOCHS + 2):
            tiny.notes["drawn"] = list(draw_from_all_streams())  # restored, as a local variable would not be
            for batch in trainer.batches(tiny.loader):
                tiny.notes.setdefault("turns", []).append((epoch, trainer.step, tiny.notes["drawn"]))
                tiny.turned(trainer, batch)


SCRIPTS = [in_epochs, in_steps, in_passes_without_epochs]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_that_begins_later_has_the_counters_of_the_training_that_it_takes_over(
    run: Path, script: Callable[[Older], None]
) -> None:
    tiny = Older(run, saves=())
    script(tiny)
    counts_epochs = script is not in_steps
    assert saved(run)[0] == (STEPS, "start")
    final = Run(str(run)).latest()
    assert (final.step, final.epoch) == (STEPS + 2 * BATCHES, EPOCHS + 2 * counts_epochs)
    turns = tiny.notes["turns"]
    assert turns[0][:2] == (EPOCHS if counts_epochs else 0, STEPS)
    assert len(tiny.notes["seen"]) == 2 * BATCHES


@pytest.mark.parametrize("step", [0, 1, pytest.param(3, marks=pytest.mark.matrix), 4, 6])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_crash_changes_no_bit_also_before_the_first_checkpoint_behind_the_beginning(
    run: Path, whole: Path, script: Callable[[Older], None], step: int
) -> None:
    saves = [] if step == 1 else range(STEPS + 1, 99, 2)
    with pytest.raises(Crash):
        script(Older(run, saves=saves, crash_at=STEPS + step))
    script(Older(run, saves=saves))
    script(Older(whole, saves=saves))
    assert_equal_ends(run, whole)


def test_another_beginning_reads_its_batches_at_other_addresses(run: Path, whole: Path) -> None:
    later, first = Older(run), Older(whole)
    in_epochs(later)
    with first.trainer(scheduler=first.scheduler) as trainer:
        for _ in trainer.epochs(EPOCHS + 2):
            for batch in trainer.batches(first.loader):
                first.turned(trainer, batch)
    assert later.notes["seen"] == first.notes["seen"][EPOCHS * BATCHES :]


def test_right_behind_it_the_trainer_stands_there(run: Path) -> None:
    with Older(run).began() as trainer:
        assert (trainer.step, trainer.epoch, trainer.resumed_from, trainer.resuming) == (STEPS, EPOCHS, None, False)
        assert len(trainer.epochs(EPOCHS + 2)) == 2
        assert len(trainer.steps(STEPS + 5)) == 5
        assert dict(trainer.metrics) == {}


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ({"last": 9}, [(9, "start"), (12, "steps"), (16, "steps"), (17, "final")]),
        ({"last": 1, "every": {"steps": 8}}, [(9, "start"), (16, "steps"), (17, "final")]),
    ],
)
def test_saves_and_retention_count_from_there(run: Path, keep: dict[str, Any], kept: list[tuple[int, str]]) -> None:
    tiny = Older(run, saves=(), every={"steps": 4, "minutes": None}, keep=keep)
    with tiny.began() as trainer:
        for _ in trainer.steps(STEPS + 2 * BATCHES):
            until_written()
    assert saved(run) == kept


def test_the_progress_bar_shows_the_steps_of_the_whole_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_steps(Older(run, progress="always"))
    assert capsys.readouterr().err.startswith("step 17/17 ")


def test_a_loop_that_ends_before_the_beginning_trains_nothing(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with Older(run).began() as trainer:
            assert list(trainer.epochs(1)) == []
    assert steps_of(run) == [STEPS]
    assert caplog.text.count(f"DONE    step={STEPS} epoch={EPOCHS}") == 2


def test_the_same_command_goes_on_from_the_checkpoint(run: Path) -> None:
    in_epochs(Older(run))
    with Older(run).began() as trainer:
        assert (trainer.step, trainer.epoch) == (STEPS + 2 * BATCHES, EPOCHS + 2)
        assert list(trainer.epochs(EPOCHS + 2)) == []


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "phrase"),
    [
        ({}, "begin_at(): expected the completed steps, found none"),
        ({"epoch": 2}, "begin_at(): expected the completed steps, found none"),
        ({"step": -1}, "begin_at(step=...): expected a whole number from 0 on, found -1"),
        ({"step": 9.0}, "begin_at(step=...): expected a whole number from 0 on, found 9.0"),
        ({"step": True}, "begin_at(step=...): expected a whole number from 0 on, found True"),
        ({"step": torch.tensor(9)}, "begin_at(step=...): expected a whole number from 0 on, found Tensor"),
        ({"epoch": -2, "step": 9}, "begin_at(epoch=...): expected a whole number from 0 on, found -2"),
        ({"step": 10**17}, "begin_at(step=...): expected a whole number from 0 on, found 1000"),
    ],
)
def test_numbers_that_are_none_are_refused(run: Path, numbers: dict[str, Any], phrase: str) -> None:
    with Older(run).trainer() as trainer:
        with pytest.raises(LoopError) as caught:
            trainer.begin_at(**numbers)
        assert phrase in caught.value.message
        assert caught.value.hint
        assert (trainer.step, trainer.epoch) == (0, 0)


@pytest.mark.parametrize("loop", ["epochs", "batches"])
def test_steps_alone_are_refused_where_a_loop_counts_epochs(run: Path, loop: str) -> None:
    tiny = Older(run)
    with tiny.trainer() as trainer:
        trainer.begin_at(step=STEPS)
        with pytest.raises(LoopError) as caught:
            next(trainer.epochs(4) if loop == "epochs" else trainer.batches(tiny.loader))
    assert caught.value.message == f"begin_at(step=9) before {loop}(): expected the completed epochs, too, found none"
    assert steps_of(run) == []


def test_steps_alone_are_enough_for_steps(run: Path) -> None:
    with Older(run).trainer() as trainer:
        trainer.begin_at(step=STEPS)
        assert list(trainer.steps(STEPS + 2)) == [9, 10]


@pytest.mark.parametrize("where", ["in a loop", "behind a loop", "behind a loop that was finished before"])
def test_it_is_refused_once_a_loop_has_begun(run: Path, where: str) -> None:
    if "before" in where:
        in_epochs(Older(run))
    tiny = Older(run)
    with tiny.trainer(scheduler=tiny.scheduler) as trainer:
        loop = trainer.epochs(4)
        next(loop) if where == "in a loop" else list(loop)
        with pytest.raises(LoopError, match=r"begin_at\(\) after a loop"):
            trainer.begin_at(epoch=EPOCHS, step=STEPS)


@pytest.mark.parametrize(("epoch", "step"), [(1, 99), (9, 2), (None, 99)])
def test_a_checkpoint_that_is_older_is_a_contradiction(run: Path, epoch: int | None, step: int) -> None:
    in_epochs(Older(run))
    with Older(run).trainer(scheduler=Older(run).scheduler) as trainer:
        with pytest.raises(LoopError) as caught:
            trainer.begin_at(epoch=epoch, step=step)
        assert "expected a run that has come as far, found its checkpoint at step 17 of epoch 4" in caught.value.message
        assert "name another folder in `run`" in str(caught.value.hint)
