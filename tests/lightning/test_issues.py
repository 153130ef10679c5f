"""What users saw when they resumed with Lightning alone, thread by thread, does not happen with `Resume` beside.

Each test is the program of a thread in Lightning's tracker (`threads.py`), killed with SIGKILL and run again, against
the same program left alone: every step, its data, loss, learning rate and counters, and the final checkpoints to the
bit.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.harness.place import Ended, Launch, continue_each_other, killed
from tests.lightning.launches import EVERY_STEPS, Place


def wider(*values: Any) -> Any:
    """One more place of death, for the wider matrix."""
    return pytest.param(*values, marks=pytest.mark.matrix)


def place(folder: Path, program: str, **options: Any) -> Place:
    return Place(folder, f"tests.lightning.threads:{program}", **options)


def of(ended: Ended, event: str) -> list[dict[str, str]]:
    """The events of one kind: their step and what was said of them."""
    lines = [line.split() for line in ended.events]
    return [{"step": words[1]} | dict(word.split("=", 1) for word in words[2:]) for words in lines if words[0] == event]


def samples(event: dict[str, str]) -> list[int]:
    """The numbers of the samples in a batch of one loader."""
    return [int(number) for number in re.findall(r"\d+", event["data"].split("]")[0])]


# -- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kill", "saved"), [("train:8", 6), ("train:15", 12)])
def test_19764_a_crash_within_an_epoch_repeats_no_batch_of_it_and_skips_none(
    folder: Path, kill: str, saved: int
) -> None:
    """`Resume from mid steps inside an epoch`: the loader began at batch 0 again, in another order."""
    _, (_, after) = place(folder, "shuffled").crash_and_rerun(killed(kill, saved=saved))
    assert of(after, "train")[0]["batch"] == str(saved % 10)


def test_5325_the_rest_of_the_interrupted_epoch_is_not_skipped(folder: Path) -> None:
    """`Resume training from the last checkpoint`: with 20 % of an epoch done, training went on with the next one."""
    _, (_, after) = place(folder, "shuffled").crash_and_rerun(killed("train:4", saved=3))
    trained = of(after, "train")
    assert trained[0]["epoch"] == "0"
    rest = [number for event in trained if event["epoch"] == "0" for number in samples(event)]
    assert len(set(rest)) == len(rest) == 14


# -- schedulers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kill", "saved"), [("validate:8", 6), wider("train:7", 6), wider("train:8", 6)])
def test_4655_a_learning_rate_that_falls_at_epoch_4_falls_there_after_a_crash_too(
    folder: Path, kill: str, saved: int
) -> None:
    """`LR scheduler lags behind after resume_from_checkpoint`: MultiStepLR fell at epoch 5."""
    whole, (_, after) = place(folder, "scheduled", kind="epoch").crash_and_rerun(killed(kill, saved=saved))
    for ended in (whole, after):
        # The event is written at the end of a batch, when the scheduler of its epoch has stepped.
        assert all((event["lr"] == "[10.0]") == (int(event["step"]) >= 8) for event in of(ended, "train"))


@pytest.mark.parametrize("kind", ["every epoch", "step", "plateau"])
def test_1772_a_scheduler_that_steps_each_epoch_is_never_one_late(folder: Path, kind: str) -> None:
    """`Learning rate scheduler's epoch off by one`; also OneCycleLR by steps (15462) and ReduceLROnPlateau (14699)."""
    whole, _ = place(folder, "scheduled", kind=kind).crash_and_rerun(
        killed("train:5", saved=3), killed("train:7", saved=6), killed("train:11", saved=9)
    )
    if kind == "every epoch":
        rates = [float(event["lr"].strip("[]")) for event in of(whole, "train")]
        assert rates == [100 * 0.5 ** (step // 2) for step in range(1, 13)]


# -- validation -------------------------------------------------------------------------------------------------------


def test_20277_a_resume_right_after_a_validation_does_not_validate_again(folder: Path) -> None:
    """`Validation is incorrectly run on resume`, with `val_check_interval`: it ran at once, for nothing."""
    crashed = place(folder, "validated", val_check_interval=3)
    _, (before, after) = crashed.crash_and_rerun(killed("train:4", saved=3))
    assert [event["step"] for event in of(before, "validated")] == ["3"]
    assert [event["step"] for event in of(after, "validated")] == ["6", "9", "12"]
    assert after.events[0].startswith("train 4 ")


def test_11504_after_a_crash_each_epoch_is_validated_once_and_behind_its_training(folder: Path) -> None:
    """`Redundant Validation When Resuming Training`: validation, training, validation."""
    _, (_, after) = place(folder, "validated").crash_and_rerun(killed("train:7", saved=6))
    assert [event["epoch"] for event in of(after, "validated")] == ["1"]
    assert after.events[0].startswith("train 7 ")


@pytest.mark.parametrize(
    ("kill", "saved"), [("train:8", 6), ("validate:4", 3), wider("train:5", 3), wider("validate:8", 6)]
)
def test_19549_a_validation_after_a_crash_has_all_its_batches(folder: Path, kill: str, saved: int) -> None:
    """`Validation runs only for one iteration when restarting from checkpoint mid-epoch`, with a wrong loss (20288)."""
    crashed = place(folder, "validated", val_check_interval=2)
    _, (_, after) = crashed.crash_and_rerun(killed(kill, saved=saved))
    assert set(Counter(event["step"] for event in of(after, "validate")).values()) == {3}


def test_a_crash_with_a_sanity_check_at_every_start_changes_nothing(folder: Path) -> None:
    """The default of `num_sanity_val_steps` is 2: validation runs at each launch before anything else."""
    place(folder, "validated", num_sanity_val_steps=2).crash_and_rerun(killed("train:8", saved=6))


# -- counting ---------------------------------------------------------------------------------------------------------


def test_19367_batch_index_and_global_step_go_on_side_by_side(folder: Path) -> None:
    """`Potential off by 1 error when resuming training of mid-epoch checkpoint`, with a validation each 5 batches."""
    crashed = place(folder, "counted", batches=20, epochs=1, val_check_interval=5)
    whole, (_, after) = crashed.crash_and_rerun(killed("train:11", saved=9))
    for ended in (whole, after):
        assert all(int(event["global"]) == int(event["batch"]) + 1 for event in of(ended, "train"))
    assert len(of(whole, "train")) == 20


def test_19403_a_resume_at_the_end_of_an_epoch_trains_no_step_too_many(folder: Path) -> None:
    """`Extra training step/global_step incrementation`: three epochs of 3 batches ended at step 11."""
    crashed = place(folder, "counted", batches=3, epochs=3)
    _, ended = crashed.crash_and_rerun(killed("train:4", saved=3), killed("train:7", saved=6))
    assert of(ended[-1], "end")[0]["global"] == "9"
    assert [event["global"] for event in of(ended[1], "train")] == ["4", "5", "6", "7"]


def test_19403_max_steps_at_the_end_of_an_epoch_is_met_exactly(folder: Path) -> None:
    """`Resuming not correct when max_steps corresponds to the end of an epoch` (19617)."""
    crashed = place(folder, "counted", batches=3, epochs=-1, max_steps=6)
    _, (_, after) = crashed.crash_and_rerun(killed("train:5", saved=3))
    assert of(after, "end")[0]["global"] == "6"


# -- early stopping ---------------------------------------------------------------------------------------------------

WORSE = [1.0, 0.875, 0.9375, 0.95, 0.96, 0.97, 0.98, 0.99]
BETTER = [1.0, 0.875, 0.75, 0.625, 0.6875, 0.7, 0.8, 0.9]


@pytest.mark.parametrize("kill", ["validate:12", "train:13", wider("train:11")])
def test_1463_early_stopping_is_as_impatient_after_a_crash_as_before(folder: Path, kill: str) -> None:
    """`EarlyStopping reinitializes to .wait=0`: with a crash in each wait it never stops. Here: after epoch 4."""
    saved = 12 if kill == "train:13" else 9
    crashed = place(folder, "stopping", losses=WORSE, patience=3)
    whole, (_, after) = crashed.crash_and_rerun(killed(kill, saved=saved))
    for ended in (whole, after):
        assert of(ended, "end")[0]["step"] == "15"


def test_1464_what_early_stopping_has_seen_is_not_one_epoch_old(folder: Path) -> None:
    """`EarlyStopping checkpointed state is lagging one epoch behind`: saved before it had looked."""
    _, (_, after) = place(folder, "stopping", losses=WORSE, patience=3).crash_and_rerun(killed("train:10", saved=9))
    assert of(after, "train")[0]["waited"] == f"[(1,'{(0.875).hex()}')]".replace(" ", "")


def test_18727_early_stopping_goes_on_to_note_what_is_better(folder: Path) -> None:
    """`EarlyStopping not updating it's value after resuming training`: and so it stopped too early."""
    crashed = place(folder, "stopping", losses=BETTER, patience=2)
    whole, (_, after) = crashed.crash_and_rerun(killed("train:5", saved=3))
    assert of(after, "train")[-1]["waited"] == f"[(1,'{(0.625).hex()}')]".replace(" ", "")
    assert of(whole, "end")[0]["step"] == "18"


def test_a_run_that_was_stopped_early_stays_stopped(folder: Path) -> None:
    """`Check early stopping during pre-train routine` (8278): each restart trained one epoch more."""
    stopped = place(folder, "stopping", losses=WORSE, patience=3)
    stopped.launch()
    again = stopped.launch()
    assert not of(again, "train")


# -- loaders made anew ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kill", "saved"), [("train:11", 9), wider("train:8", 6), wider("train:13", 12)])
def test_21514_loaders_are_made_anew_in_the_epochs_in_which_they_should_be(folder: Path, kill: str, saved: int) -> None:
    """`Dataloader reload bug when loading from checkpoint` (21492): counted from the resume, so new data came late."""
    whole, _ = place(folder, "staged").crash_and_rerun(killed(kill, saved=saved))
    stages = [samples(event)[0] // 1000 for event in of(whole, "train")]
    assert stages == [0] * 6 + [1] * 6 + [2] * 6


# -- what broke fault tolerance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [False, True])
def test_12285_a_crash_with_two_loader_workers_is_resumed(folder: Path, persistent: bool) -> None:
    """`Resuming with fault-tolerant training fails when DataLoader has num_workers>1`; and its next epoch (13843)."""
    place(folder, "workers", persistent_workers=persistent).crash_and_rerun(killed("train:4", saved=3))


@pytest.mark.parametrize(("kill", "saved"), [("train:5", 3), ("train:11", 9)])
def test_10358_a_dataset_without_a_length_is_resumed(folder: Path, kill: str, saved: int) -> None:
    """`Fault-tolerant training requires len to be available on all datasets`: Lhotse's have none."""
    place(folder, "unmeasured").crash_and_rerun(killed(kill, saved=saved))


@pytest.mark.parametrize(("kill", "saved"), [("train:8", 6), ("train:11", 9)])
def test_11349_several_loaders_at_once_are_resumed(folder: Path, kill: str, saved: int) -> None:
    """`Fault tolerant training with multiple dataloaders`: said to be very challenging, and never done."""
    place(folder, "several").crash_and_rerun(killed(kill, saved=saved))


def test_9714_training_goes_on_after_a_crash_at_the_end_of_an_epoch_with_validation(folder: Path) -> None:
    """`resuming from an epoch-end checkpoint does not continue training`: it ended at once."""
    crashed = place(folder, "validated")
    _, (_, after) = crashed.crash_and_rerun(killed("epoch:6", saved=3))
    assert of(after, "end")[0]["step"] == "12"


def test_8835_a_finished_run_goes_on_with_more_epochs(folder: Path) -> None:
    """`resume_from_checkpoint broken`: it stopped immediately, despite a larger `max_epochs`."""
    growing = place(folder, "longer")
    whole = growing.launch(Launch(options={"epochs": 4}))
    growing.keep_as("whole")
    first = growing.launch(Launch(options={"epochs": 2}))
    assert first.events.pop().startswith("end 8 ")
    more = growing.launch(Launch(options={"epochs": 4}))
    assert more.resumed_from == 8
    continue_each_other([first, more], whole)


def test_a_finished_run_trains_nothing_when_it_is_run_again(folder: Path) -> None:
    finished = place(folder, "longer", epochs=2)
    finished.launch()
    assert not of(finished.launch(), "train")


# -- everywhere -------------------------------------------------------------------------------------------------------

PROGRAMS: dict[str, tuple[str, dict[str, Any], int]] = {
    "order": ("shuffled", {}, 20),
    "epoch scheduler": ("scheduled", {"kind": "epoch"}, 12),
    "step scheduler": ("scheduled", {"kind": "step"}, 12),
    "plateau scheduler": ("scheduled", {"kind": "plateau"}, 12),
    "validation": ("validated", {}, 12),
    "validation within epochs": ("validated", {"val_check_interval": 2}, 12),
    "counting": ("counted", {"batches": 5, "epochs": 2, "val_check_interval": 4}, 10),
    "early stopping": ("stopping", {"losses": WORSE, "patience": 3}, 15),
    "loaders made anew": ("staged", {}, 18),
    "workers": ("workers", {}, 10),
    "persistent workers": ("workers", {"persistent_workers": True}, 10),
    "no length": ("unmeasured", {}, 14),
    "several loaders": ("several", {}, 14),
}


@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", PROGRAMS)
def test_a_crash_in_any_step_of_any_of_these_programs_changes_nothing(folder: Path, what: str) -> None:
    """One run that is killed in each step in turn: as many crashes as it has steps."""
    program, options, steps = PROGRAMS[what]
    kills = [killed(f"train:{step}", saved=(step - 1) // EVERY_STEPS * EVERY_STEPS) for step in range(1, steps + 1)]
    place(folder, program, **options).crash_and_rerun(*kills)
