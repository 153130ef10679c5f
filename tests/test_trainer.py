"""The loops of a trainer, in one program: where the run stands, what is restored when, how loops are left."""

from __future__ import annotations

import gc
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from resumable import FencedError, LoopError, Run, Trainer
from tests.tiny import BATCHES, Crash, Tiny, assert_equal_ends, crashed, draw_from_all_streams, steps_of

# -- where the run stands ---------------------------------------------------------------------------------------------


def test_a_fresh_trainer_stands_at_the_very_beginning(run: Path) -> None:
    with Tiny(run).trainer() as trainer:
        assert (trainer.step, trainer.epoch, trainer.resumed_from) == (0, 0, None)


def test_the_position_is_right_from_the_first_line_after_a_resume(run: Path) -> None:
    crashed(run, step=5)
    with Tiny(run).trainer() as trainer:
        assert (trainer.step, trainer.epoch) == (4, 0)
        assert trainer.resumed_from == "step-000000004.e0000.a0001"


def test_step_and_epoch_count_what_is_completed(run: Path) -> None:
    tiny, seen = Tiny(run), []
    with tiny.trainer() as trainer:
        for epoch in trainer.epochs(2):
            for _ in trainer.batches(tiny.loader):
                seen.append((epoch, trainer.epoch, trainer.step))
    assert seen == [(e, e, e * BATCHES + b) for e in range(2) for b in range(BATCHES)]
    assert (trainer.step, trainer.epoch) == (2 * BATCHES, 2)


def test_the_very_beginning_is_saved_before_the_first_batch(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(1):
            assert steps_of(run) == [0]
            break


def test_a_run_has_one_identity_in_every_launch_and_no_other_run_has_it(run: Path, whole: Path) -> None:
    identities = []
    with Tiny(run).trainer() as trainer:  # ends without a checkpoint
        identities.append(trainer.run_id)
    crashed(run, step=5)
    shutil.copytree(run, whole)
    for place in (run, whole):
        with Tiny(place).trainer() as trainer:
            assert trainer.resumed_from
            identities.append(trainer.run_id)
    assert len(set(identities)) == 1
    assert re.fullmatch(r"[0-9a-f]{32}", identities[0])
    assert identities[0] == json.loads((run / "run.json").read_text())["run_id"]
    with Tiny(run.parent / "other").trainer() as trainer:
        assert trainer.run_id != identities[0]


def test_a_trainer_that_nobody_holds_lives_as_long_as_its_loop(run: Path) -> None:
    tiny = Tiny(run)
    for _ in Trainer(tiny.config, model=tiny.model).steps(3):
        gc.collect()
        with pytest.raises(FencedError):
            Trainer(tiny.config, model=tiny.model)
    assert Run(str(run)).latest().manifest.finished


# -- what is restored, and when ---------------------------------------------------------------------------------------


def test_objects_are_restored_when_the_first_loop_starts_so_that_no_initialisation_wins(run: Path) -> None:
    crashed(run, step=5)
    saved = Run(str(run)).latest().load("model")
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        torch.nn.init.zeros_(tiny.model[0].weight)
        for _ in trainer.epochs(2):
            assert torch.equal(tiny.model[0].weight, saved["0.weight"])
            break


def test_restore_brings_the_objects_back_at_once(run: Path) -> None:
    crashed(run, step=5)
    saved = Run(str(run)).latest().load("model")
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        trainer.restore()
        assert torch.equal(tiny.model[0].weight, saved["0.weight"])


def test_restore_on_a_fresh_run_does_nothing(run: Path) -> None:
    tiny = Tiny(run)
    before = tiny.model[0].weight.clone()
    with tiny.trainer() as trainer:
        trainer.restore()
        assert torch.equal(tiny.model[0].weight, before)


def old_style_script(tiny: Tiny) -> None:
    """A loop whose epochs begin with everything that an epoch may begin with."""
    scheduler = torch.optim.lr_scheduler.StepLR(tiny.optimizer, 1, gamma=0.5)
    with tiny.trainer(scheduler=scheduler) as trainer:
        for _ in trainer.epochs(3):
            tiny.notes["drawn"] = list(draw_from_all_streams())
            scheduler.step()
            tiny.model(torch.ones(2, 2))  # moves BatchNorm's statistics and draws for the dropout
            tiny.model[3].weight.data.mul_(1.5)
            tiny.notes["seen"].clear()
            for batch in trainer.batches(tiny.loader):
                trainer.log(loss=tiny.step(batch))
                tiny.ends(trainer)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
@pytest.mark.parametrize("step", [1, 3, 5, 8])
def test_code_at_the_head_of_an_epoch_that_runs_again_leaves_no_trace(run: Path, whole: Path, step: int) -> None:
    with pytest.raises(Crash):
        old_style_script(Tiny(run, crash_at=step))
    old_style_script(Tiny(run))
    old_style_script(Tiny(whole))
    assert_equal_ends(run, whole)


def test_a_resume_after_the_last_batch_of_a_pass_restores_before_the_iteration_ends(run: Path, whole: Path) -> None:
    def script(folder: Path, *, crash: bool = False) -> None:
        tiny = Tiny(folder, saves=[3, 7])
        with tiny.trainer() as trainer:
            for _ in trainer.epochs(2):
                tiny.notes["drawn"] = list(draw_from_all_streams())
                for batch in trainer.batches(tiny.loader):
                    tiny.step(batch)
                    tiny.ends(trainer)
                if crash:
                    raise Crash
                tiny.notes["after"] = list(draw_from_all_streams())

    with pytest.raises(Crash):
        script(run, crash=True)
    assert Run(str(run)).latest().epoch == 0
    script(run)
    script(whole)
    assert_equal_ends(run, whole)


# -- what is logged ---------------------------------------------------------------------------------------------------


def test_a_mapping_and_keywords_are_logged_together(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        for _ in trainer.steps(1):
            trainer.log({"loss/train": torch.tensor(0.5), "loss val": 2}, lr=0.1)
            trainer.log({})
    assert Run(str(run)).latest().manifest.metrics == {"loss/train": 0.5, "loss val": 2.0, "lr": 0.1}


def logs_and_looks(tiny: Tiny, epochs: int = 2) -> dict[str, list[dict[str, float]]]:
    """Train, log the step in each body and a value after each epoch; return the metrics of each place."""
    seen: dict[str, list[dict[str, float]]] = {"before": [], "head": [], "body": [], "after": [], "behind": []}
    with tiny.trainer() as trainer:
        seen["before"].append(dict(trainer.metrics))
        for epoch in trainer.epochs(epochs):
            seen["head"].append(dict(trainer.metrics))
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
                trainer.log(at=trainer.step)
                seen["body"].append(dict(trainer.metrics))
                tiny.ends(trainer)
            seen["after"].append(dict(trainer.metrics))
            trainer.log(accuracy=torch.tensor(0.5 + epoch))
        seen["behind"].append(dict(trainer.metrics))
    return seen


def test_metrics_are_those_of_the_newest_boundary(run: Path) -> None:
    assert logs_and_looks(Tiny(run)) == {
        "before": [{}],
        "head": [{}, {"at": 3, "accuracy": 0.5}],
        "body": [{}, {"at": 0}, {"at": 1}, {"at": 2}, {"at": 3, "accuracy": 0.5}, {"at": 4}, {"at": 5}, {"at": 6}],
        "after": [{"at": 3}, {"at": 7}],
        "behind": [{"at": 7, "accuracy": 1.5}],
    }
    assert Run(str(run)).latest().manifest.metrics == {"at": 7, "accuracy": 1.5}


def test_metrics_after_a_resume_are_those_of_the_checkpoint_until_newer_ones_exist(run: Path) -> None:
    crashed(run, step=6)  # which logs a loss, and saves at step 6 after its fifth body
    stored = Run(str(run)).latest().manifest.metrics
    assert stored.keys() == {"loss"}
    seen = logs_and_looks(Tiny(run))
    assert seen["before"] == seen["head"] == [stored]
    assert seen["body"] == [stored, {"at": 6}]
    assert seen["behind"] == [{"at": 7, "accuracy": 1.5}]


def test_metrics_behind_the_loop_are_the_same_in_a_launch_that_has_nothing_left_to_train(run: Path) -> None:
    behind = logs_and_looks(Tiny(run))["behind"]
    again = logs_and_looks(Tiny(run))
    assert again["before"] == again["behind"] == behind
    assert not again["body"]


def test_metrics_behind_passes_without_epochs_are_the_same_too(run: Path) -> None:
    def behind() -> dict[str, float]:
        tiny = Tiny(run)
        with tiny.trainer() as trainer:
            for _ in range(2):
                for batch in trainer.batches(tiny.loader):
                    tiny.step(batch)
                    trainer.log(at=trainer.step)
                trainer.log(too_late=1)  # the pass has reached its boundary
            return dict(trainer.metrics)

    assert behind() == behind() == {"at": 7}


def test_what_was_logged_before_the_loop_is_in_the_metrics_of_the_very_beginning(run: Path) -> None:
    def before_the_first_batch() -> dict[str, float]:
        tiny = Tiny(run)
        with tiny.trainer() as trainer:
            trainer.log(parameters=30)
            for _ in trainer.epochs(1):
                return dict(trainer.metrics)
        raise AssertionError

    assert before_the_first_batch() == before_the_first_batch() == {"parameters": 30}


def test_metrics_cannot_be_written_and_stay_as_they_were_read(run: Path) -> None:
    with Tiny(run).trainer() as trainer:
        read = trainer.metrics
        for _ in trainer.steps(1):
            trainer.log(loss=1)
        with pytest.raises(TypeError):
            trainer.metrics["loss"] = 0.0  # type: ignore[index]
        assert (read, trainer.metrics) == ({}, {"loss": 1.0})


# -- leaving ----------------------------------------------------------------------------------------------------------


def test_a_break_counts_its_step_and_ends_the_pass(run: Path) -> None:
    tiny, seen = Tiny(run), []
    with tiny.trainer() as trainer:
        for epoch in trainer.epochs(2):
            for index, batch in trainer.enumerate(tiny.loader):
                seen.append((epoch, index, trainer.step))
                tiny.step(batch)
                if index == 1:
                    break
            assert trainer.step == 2 * (epoch + 1)
    assert seen == [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3)]
    assert (trainer.step, trainer.epoch) == (4, 2)


def test_a_break_out_of_an_iterator_that_the_loop_keeps_is_a_break_too(run: Path, whole: Path) -> None:
    def script(folder: Path, *, keeps: bool) -> None:
        tiny = Tiny(folder)
        with tiny.trainer() as trainer:
            kept = []
            for _ in trainer.epochs(2):
                batches = trainer.batches(tiny.loader)
                if keeps:
                    kept.append(batches)
                for batch in batches:
                    tiny.step(batch)
                    if trainer.step % 2:
                        break
                del batches

    script(run, keeps=True)
    script(whole, keeps=False)
    assert_equal_ends(run, whole)


def test_an_exception_captures_nothing_and_leaves_the_run_unfinished(run: Path) -> None:
    crashed(run, step=3, saves=())
    assert steps_of(run) == [0]
    assert not Run(str(run)).latest().manifest.finished


def test_leaving_the_outermost_loop_early_leaves_the_run_unfinished_and_goes_on(run: Path, whole: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(2):
            for batch in trainer.batches(tiny.loader):
                trainer.log(loss=tiny.step(batch))
            break
    assert not Run(str(run)).latest().manifest.finished
    Tiny(run).train()
    Tiny(whole).train()
    assert_equal_ends(run, whole)


def test_the_trainer_is_a_context_that_lets_go_of_the_run_and_closes_twice(run: Path) -> None:
    with Tiny(run).trainer() as trainer:
        pass
    trainer.close()
    with Tiny(run).trainer() as again:
        assert again.step == 0


# -- stopping ---------------------------------------------------------------------------------------------------------


def stops_in_a_batch(tiny: Tiny, trainer: Trainer, epochs: int = 3) -> None:
    for _ in trainer.epochs(epochs):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
            if trainer.step == 5:
                trainer.stop()
        tiny.notes["after"] = trainer.step


def stops_after_batches(tiny: Tiny, trainer: Trainer, epochs: int = 3) -> None:
    for epoch in trainer.epochs(epochs):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
        if epoch == 1:
            trainer.stop()


def stops_in_steps(tiny: Tiny, trainer: Trainer, epochs: int = 3) -> None:
    for step in trainer.steps(epochs * BATCHES):
        tiny.step(next(iter(tiny.loader)))
        if step == 5:
            trainer.stop()


def stops_in_a_bare_pass(tiny: Tiny, trainer: Trainer, epochs: int = 3) -> None:
    for _ in range(epochs):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
            if trainer.step == 5:
                trainer.stop()


STOPS: dict[Callable[..., None], tuple[int, int]] = {
    stops_in_a_batch: (6, 2),
    stops_after_batches: (8, 2),
    stops_in_steps: (6, 0),
    stops_in_a_bare_pass: (6, 2),
}


@pytest.mark.parametrize("script", STOPS)
def test_stop_ends_all_loops_at_the_next_boundary_and_finishes_the_run(run: Path, script: Callable[..., None]) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        script(tiny, trainer)
    last = Run(str(run)).latest()
    assert (last.step, last.epoch) == STOPS[script]
    assert last.manifest.finished
    assert len(tiny.notes["seen"]) == last.step


@pytest.mark.parametrize("script", STOPS)
def test_a_stopped_run_trains_nothing_more(run: Path, script: Callable[..., None]) -> None:
    for _ in range(2):
        tiny = Tiny(run)
        with tiny.trainer() as trainer:
            script(tiny, trainer)
    assert len(tiny.notes["seen"]) == STOPS[script][0]
    assert Run(str(run)).latest().manifest.attempt == 1


def test_a_stop_that_was_asked_for_outlives_a_crash_before_its_epoch_ends(run: Path, whole: Path) -> None:
    def script(folder: Path, *, crash: bool = False) -> None:
        tiny = Tiny(folder)
        with tiny.trainer() as trainer:
            for _ in trainer.epochs(3):
                for batch in trainer.batches(tiny.loader):
                    tiny.step(batch)
                    tiny.ends(trainer)
                    if trainer.step == 5:
                        trainer.stop()
                if crash and trainer.epoch == 1:
                    raise Crash
                tiny.notes["after"] = list(draw_from_all_streams())

    with pytest.raises(Crash):
        script(run, crash=True)
    assert Run(str(run)).latest().step == 6
    script(run)
    script(whole)
    assert Run(str(run)).latest().manifest.finished
    assert_equal_ends(run, whole)


# -- finished runs ----------------------------------------------------------------------------------------------------


def test_a_finished_run_restores_its_objects_and_trains_nothing(run: Path) -> None:
    first, again = Tiny(run), Tiny(run)
    first.train()
    again.train()
    assert torch.equal(again.model[0].weight, first.model[0].weight)
    assert again.notes == first.notes
    assert Run(str(run)).latest().manifest.attempt == 1


def test_a_larger_number_continues_a_finished_run_as_if_it_had_been_asked_for_it(run: Path, whole: Path) -> None:
    Tiny(run).train(1)
    Tiny(run).train(3)
    Tiny(whole).train(3)
    assert_equal_ends(run, whole)


def test_a_larger_number_continues_a_stopped_run(run: Path) -> None:
    for epochs in (3, 4):
        tiny = Tiny(run)
        with tiny.trainer() as trainer:
            stops_in_a_batch(tiny, trainer, epochs)
    last = Run(str(run)).latest()
    assert (last.step, last.epoch, last.manifest.finished) == (14, 4, True)


def test_no_epochs_at_all_train_nothing(run: Path) -> None:
    Tiny(run).train(0)
    assert steps_of(run) == [0]


def test_a_stop_that_was_refused_before_the_loop_stops_nothing(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        with pytest.raises(LoopError, match=r"stop\(\) before the first loop"):
            trainer.stop()
        assert list(trainer.steps(3)) == [0, 1, 2]
    assert Run(str(run)).latest().step == 3
