"""Between two steps: when a save is taken, with which metrics and gradients, and what happens when it fails."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from resumable import Preempted, Run, StateError, Trainer
from resumable.store.layout import CHECKPOINTS
from tests.tiny import BATCHES, Crash, Tiny, assert_equal_ends, saved, steps_of, until_written, warnings_of

pytestmark = pytest.mark.usefixtures("_every_line")

EVERYTHING = {"last": 1000}


def train(tiny: Tiny, epochs: int = 2) -> None:
    """The plain loop, with an idle writer at every boundary."""
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(epochs):
            for batch in trainer.batches(tiny.loader):
                trainer.log(loss=tiny.step(batch))
                tiny.ends(trainer)
                until_written()


# -- when -------------------------------------------------------------------------------------------------------------


def test_a_run_is_saved_at_its_start_at_each_interval_and_at_its_end(run: Path) -> None:
    train(Tiny(run, saves=(), every={"steps": 3, "minutes": None}, keep=EVERYTHING))
    assert saved(run) == [(0, "start"), (3, "steps"), (6, "steps"), (8, "final")]


def test_every_epochs_saves_at_the_boundary_of_the_epoch(run: Path) -> None:
    train(Tiny(run, saves=(), every={"steps": None, "minutes": None, "epochs": 1}, keep=EVERYTHING), epochs=3)
    assert saved(run) == [(0, "start"), (4, "epochs"), (8, "epochs"), (12, "final")]
    assert [checkpoint.epoch for checkpoint in Run(str(run)).checkpoints()] == [0, 1, 2, 3]


def test_a_save_due_after_the_last_batch_is_taken_at_the_boundary_of_the_epoch(run: Path) -> None:
    # A resume after the last batch runs no body: a name that only the body binds would not exist behind the loop.
    train(Tiny(run, saves=(), every={"steps": BATCHES, "minutes": None}, keep=EVERYTHING), epochs=3)
    assert saved(run) == [(0, "start"), (4, "steps"), (8, "steps"), (12, "final")]
    assert [checkpoint.epoch for checkpoint in Run(str(run)).checkpoints()] == [0, 1, 2, 3]


def test_a_requested_save_is_taken_once_at_the_next_boundary(run: Path) -> None:
    train(Tiny(run, saves=[2], keep=EVERYTHING))
    assert saved(run) == [(0, "start"), (3, "request"), (8, "final")]


def test_what_retention_does_not_keep_is_deleted_after_each_save(run: Path) -> None:
    train(Tiny(run, keep={"last": 2, "best": None}))
    assert steps_of(run) == [8, 8]
    assert len(list((run / CHECKPOINTS).iterdir())) == 2


# -- metrics ----------------------------------------------------------------------------------------------------------


def validated(tiny: Tiny, losses: list[float], **more: Any) -> list[tuple[int, str]]:
    with tiny.trainer(**more) as trainer:
        for epoch in trainer.epochs(len(losses)):
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
            trainer.log(val_loss=losses[epoch])
    return saved(Path(tiny.run))


def test_a_better_value_after_the_batches_is_saved_at_the_boundary_of_the_epoch(run: Path) -> None:
    assert validated(Tiny(run, saves=(), keep=EVERYTHING), [3.0, 5.0, 2.0, 2.0, 9.0]) == [
        (0, "start"),
        (4, "best"),
        (12, "best"),
        (20, "final"),
    ]
    assert Run(str(run)).best().step == 12


def test_the_best_stays_however_many_follow(run: Path) -> None:
    best = {"metric": "val_loss", "mode": "max", "count": 1}
    validated(Tiny(run, saves=(), every={"epochs": 1}, keep={"last": 1, "best": best}), [3.0, 5.0, 2.0, 2.0])
    assert steps_of(run) == [8, 16]
    assert Run(str(run)).best().step == 8


def test_a_value_that_is_no_number_is_never_best(run: Path) -> None:
    nan = float("nan")
    assert validated(Tiny(run, saves=(), keep=EVERYTHING), [nan, 5.0, nan]) == [
        (0, "start"),
        (8, "best"),
        (12, "final"),
    ]


def test_an_old_metric_is_not_that_of_a_later_checkpoint(run: Path) -> None:
    tiny = Tiny(run, saves=[4], keep=EVERYTHING)
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(2):
            for batch in trainer.batches(tiny.loader):
                trainer.log(loss=tiny.step(batch))
                tiny.ends(trainer)
            trainer.log(val_loss=1.0)
    metrics = {checkpoint.step: set(checkpoint.manifest.metrics) for checkpoint in Run(str(run)).checkpoints()}
    assert metrics == {0: set(), 4: {"loss", "val_loss"}, 5: {"loss"}, 8: {"loss", "val_loss"}}


def test_epochs_without_batches_forget_what_an_earlier_one_logged(run: Path) -> None:
    with Tiny(run).trainer() as trainer:
        for epoch in trainer.epochs(2):
            trainer.log(**{f"loss{epoch}": 1.0})
    assert Run(str(run)).latest().manifest.metrics == {"loss1": 1.0}


def test_a_logged_tensor_is_copied_at_once(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        for _ in trainer.steps(1):
            value = torch.ones(1, 1, requires_grad=True)
            trainer.log(value=value)
            value.data.fill_(2)
    assert Run(str(run)).latest().manifest.metrics == {"value": 1.0}


# -- gradients --------------------------------------------------------------------------------------------------------


def accumulate(tiny: Tiny, window: int, steps: int = 8) -> None:
    """One optimizer step in each `window` steps; 0 for one at the very first and then none."""
    with tiny.trainer() as trainer:
        for step in trainer.steps(steps):
            batch = [torch.full((2, 2), float(step + 1))]
            if (step + 1) % window == 0 if window else step == 0:
                tiny.step(batch)
            else:
                tiny.backward(batch)
            tiny.ends(trainer)
            until_written()


def stored_gradients(run: Path) -> dict[int, bool]:
    """By step, whether the checkpoint holds gradients (zeros need not be stored)."""
    return {c.step: bool(c.records["gradients"]) for c in Run(str(run)).checkpoints()}


def test_a_due_save_waits_for_a_boundary_without_unused_gradients(run: Path) -> None:
    tiny = Tiny(run, saves=(), every={"steps": 5, "minutes": None}, keep=EVERYTHING, crash_at=9)
    with pytest.raises(Crash):
        accumulate(tiny, window=4, steps=12)
    assert stored_gradients(run) == {0: False, 8: False}


def test_a_due_save_waits_for_at_most_sixteen_boundaries_and_then_stores_the_gradients(run: Path) -> None:
    tiny = Tiny(run, saves=(), every={"steps": 3, "minutes": None}, keep=EVERYTHING, crash_at=25)
    with pytest.raises(Crash):
        accumulate(tiny, window=0, steps=30)
    # From then on this loop is known never to be clean, and later saves do not wait in vain.
    assert stored_gradients(run) == {0: False, 3 + 16: True, 21: True, 24: True}


def test_gradients_always_waits_for_nothing_and_stores_them(run: Path) -> None:
    tiny = Tiny(run, saves=(), every={"steps": 5, "minutes": None}, gradients="always", keep=EVERYTHING)
    accumulate(tiny, window=4)
    assert stored_gradients(run) == {0: False, 5: True, 8: False}


def test_a_requested_save_stores_unused_gradients_and_they_come_back(run: Path, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        accumulate(Tiny(run, saves=[5], crash_at=6), window=4)
    assert stored_gradients(run) == {0: False, 6: True}
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        trainer.restore()
        assert all(bool(parameter.grad.any()) for parameter in tiny.model[3].parameters() if parameter.grad is not None)
        assert tiny.model[3].weight.grad is not None
    accumulate(Tiny(run), window=4)
    accumulate(Tiny(tmp_path / "whole"), window=4)
    assert_equal_ends(run, tmp_path / "whole")


# -- the state of objects ---------------------------------------------------------------------------------------------


class Forgetful:
    """Saves two numbers and takes one of them back."""

    def __init__(self) -> None:
        self.seen, self.best = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Empty:
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_an_object_that_does_not_come_back_as_it_was_saved_is_an_error_that_names_the_place(run: Path) -> None:
    meter = Forgetful()
    meter.best = 2.5
    with Tiny(run).trainer(meter=meter) as trainer:
        for _ in trainer.steps(1):
            pass
    with Tiny(run).trainer(meter=Forgetful()) as trainer, pytest.raises(StateError, match=r"meter\.best") as caught:
        trainer.restore()
    assert "2.5" in caught.value.message


def test_an_empty_state_is_warned_about_once(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with Tiny(run).trainer(metric=Empty()) as trainer:
            for _ in trainer.steps(2):
                trainer.request_save()
    warnings = [record.getMessage() for record in caplog.records if "state is empty" in record.getMessage()]
    assert len(warnings) == 1, warnings
    assert "WARN    metric: its state is empty" in warnings[0]


def test_a_scaler_that_is_switched_off_has_no_state_and_none_is_missed(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scalers = {"scaler": torch.amp.GradScaler("cpu", enabled=False), "other": torch.amp.GradScaler("cpu")}
    with Tiny(run).trainer(**scalers) as trainer:
        for _ in trainer.steps(1):
            pass
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("nested", [False, True])
def test_a_metric_whose_states_are_not_saved_is_named_with_the_call_that_has_them_saved(
    run: Path, caplog: pytest.LogCaptureFixture, nested: bool
) -> None:
    from torchmetrics import MeanMetric  # slow to import

    with Tiny(run).trainer(metric=torch.nn.ModuleDict({"mean": MeanMetric()}) if nested else MeanMetric()) as trainer:
        for _ in trainer.steps(1):
            pass
    [warning] = warnings_of(caplog)
    assert "metric: its state is empty" in warning
    assert "persistent(True)" in warning


def test_a_metric_comes_back_after_the_call_that_the_warning_names(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    from torchmetrics import CatMetric

    def train(crash: bool) -> torch.Tensor:
        metric = CatMetric()
        metric.persistent(True)
        with suppress(Crash), Tiny(run).trainer(metric=metric) as trainer:
            for step in trainer.steps(4):
                metric.update(float(step))
                if step == 2 and crash:
                    raise Crash
                trainer.request_save()
        return torch.as_tensor(metric.compute())

    train(crash=True)
    assert train(crash=False).tolist() == [0.0, 1.0, 2.0, 3.0]
    assert warnings_of(caplog) == []


def test_a_state_that_can_no_longer_be_stored_is_raised_at_the_boundary(run: Path) -> None:
    tiny = Tiny(run, saves=[2])

    def body(trainer: Trainer) -> None:
        if trainer.step == 2:
            tiny.notes["bad"] = until_written
        tiny.ends(trainer)

    with pytest.raises(StateError, match=r"notes\.bad: function cannot be stored"):
        tiny.turn(4, body)
    assert steps_of(run) == [0]


# -- what is written beside the state ---------------------------------------------------------------------------------


def test_the_config_is_stored_without_the_secrets_of_the_storage(run: Path) -> None:
    Tiny(run, storage_options={"secret": "hush"}, keep={"last": 2}).train(1)
    config = Run(str(run)).latest().manifest.config
    assert config["keep"]["last"] == 2
    assert config["storage_options"] == {"secret": "***"}


def test_another_number_of_threads_is_told_on_resume(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    Tiny(run).train(1)
    torch.set_num_threads(2)
    try:
        Tiny(run).train(1)
    finally:
        torch.set_num_threads(1)
    [line] = [record.getMessage() for record in caplog.records if record.getMessage().startswith("CHANGED")]
    assert line.startswith("CHANGED threads=1->2 note=")


def test_the_lines_of_a_run_can_be_read_by_machines(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Crash):
        Tiny(run, crash_at=6).train()
    Tiny(run).train()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f"NEW     run={run} data_seed=7 attempt=1"
    assert lines[1].startswith("SAVED   step=0 stall=")
    [resumed] = [line for line in lines if line.startswith("RESUME")]
    assert resumed.startswith("RESUME  step=6 epoch=1 batch=2/4 from=step-000000006.e0001.a0001 age=")
    assert resumed.endswith("digests=ok attempt=2")


# -- signals and threads ----------------------------------------------------------------------------------------------


def test_a_signal_ends_the_step_saves_and_leaves(run: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)

    def body(trainer: Trainer) -> None:
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(Preempted) as caught:
        Tiny(run, saves=()).turn(8, body)
    assert (caught.value.code, caught.value.signal, caught.value.step, caught.value.saved) == (75, "SIGUSR1", 3, True)
    assert saved(run)[-1] == (3, "signal")
    assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.usefixtures("_sigterm_ends_no_tests")
def test_a_signal_in_validation_between_two_bare_passes_leaves_and_the_run_goes_on(run: Path, tmp_path: Path) -> None:
    def script(folder: Path, *, signalled: bool = False) -> None:
        tiny = Tiny(folder, saves=())
        with tiny.trainer() as trainer:
            for epoch in range(3):
                for batch in trainer.batches(tiny.loader):
                    tiny.step(batch)
                for place, _ in enumerate(trainer.evaluate(tiny.loader)):
                    if signalled and epoch == 1:
                        assert place == 0, "the batch after the signal was handed out"
                        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted) as caught:
        script(run, signalled=True)
    assert (caught.value.code, caught.value.signal, caught.value.step) == (75, "SIGTERM", 2 * BATCHES)
    script(run)
    script(tmp_path / "whole")
    assert_equal_ends(run, tmp_path / "whole")


class Numbered:
    """A plain iterable, which a resume replays; sends a signal before it gives the item of that number."""

    def __init__(self, signal_at: int | None = None) -> None:
        self.signal_at = signal_at
        self.made = 0

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        for number in range(60):
            if number == self.signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            self.made += 1
            yield [torch.full((2, 2), float(number))]


class Streamed(Numbered, IterableDataset[list[torch.Tensor]]):
    """The same as an iterable dataset of a loader."""


@pytest.mark.usefixtures("_sigterm_ends_no_tests")
@pytest.mark.parametrize("streamed", [False, True])
def test_a_signal_during_a_replay_leaves_at_once_and_the_run_goes_on(run: Path, tmp_path: Path, streamed: bool) -> None:
    def script(folder: Path, *, crash_at: int | None = None, signal_at: int | None = None) -> Numbered:
        tiny = Tiny(folder, saves=[49], crash_at=crash_at)
        source = Streamed(signal_at) if streamed else Numbered(signal_at)
        loader = DataLoader(source, batch_size=None) if isinstance(source, Streamed) else source
        sources.append(source)
        with tiny.trainer() as trainer:
            for _ in trainer.epochs(1):
                for batch in trainer.batches(loader):
                    tiny.step(batch)
                    tiny.ends(trainer)
        return source

    sources: list[Numbered] = []
    with pytest.raises(Crash):
        script(run, crash_at=52)
    with pytest.raises(Preempted) as caught:
        script(run, signal_at=5)
    assert (caught.value.code, caught.value.signal, caught.value.step) == (75, "SIGTERM", 50)
    assert sources[-1].made <= 7
    assert steps_of(run)[-1] == 50
    script(run)
    script(tmp_path / "whole")
    assert [source.made for source in sources[2:]] == [60, 60]
    assert_equal_ends(run, tmp_path / "whole")


def test_a_loop_in_another_thread_warns_and_trains(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    thread = threading.Thread(target=Tiny(run).train, name="trains")
    thread.start()
    thread.join()
    assert Run(str(run)).latest().manifest.finished
    [warning] = warnings_of(caplog)
    assert "SIGTERM, SIGUSR1, SIGINT will not be noticed" in warning
    assert "thread 'trains'" in warning
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_a_trainer_can_be_used_without_an_optimizer(run: Path) -> None:
    counter = {"value": 0}
    with Trainer({"run": str(run), "every": {"steps": 1}}, counter=counter) as trainer:
        for _ in trainer.steps(BATCHES):
            counter["value"] += 1
    assert Run(str(run)).latest().load("counter") == {"value": BATCHES}
