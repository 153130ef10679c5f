"""Heads of epochs that run once, though the program enters its loops again: `trainer.resuming`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from resumable import LoopError, Run, Trainer
from tests.tiny import Crash, Tiny, assert_equal_ends

Seen = list[tuple[str, bool]]


def saves_between_epochs(tiny: Tiny, trainer: Trainer) -> None:
    """The last line of an epoch, as `Tiny.ends` is that of a body."""
    if trainer.step in tiny.saves:
        trainer.request_save()


def in_epochs(tiny: Tiny, seen: Seen) -> None:
    with tiny.trainer() as trainer:
        seen.append(("launch", trainer.resuming))
        for epoch in trainer.epochs(2):
            seen.append((f"head {epoch}", trainer.resuming))
            for batch in trainer.batches(tiny.loader):
                seen.append((f"body {trainer.step}", trainer.resuming))
                tiny.step(batch)
                tiny.ends(trainer)
            seen.append((f"end {epoch}", trainer.resuming))
            saves_between_epochs(tiny, trainer)
        seen.append(("behind", trainer.resuming))


def in_two_passes(tiny: Tiny, seen: Seen) -> None:
    with tiny.trainer() as trainer:
        for epoch in trainer.epochs(1):
            for number in range(2):
                seen.append((f"head {epoch}.{number}", trainer.resuming))
                for batch in trainer.batches(tiny.loader):
                    seen.append((f"body {trainer.step}", trainer.resuming))
                    tiny.step(batch)
                    tiny.ends(trainer)


def in_passes_without_epochs(tiny: Tiny, seen: Seen) -> None:
    with tiny.trainer() as trainer:
        for number in range(3):
            seen.append((f"head {number}", trainer.resuming))
            for batch in trainer.batches(tiny.loader):
                seen.append((f"body {trainer.step}", trainer.resuming))
                tiny.step(batch)
                tiny.ends(trainer)
        seen.append(("behind", trainer.resuming))


def in_steps(tiny: Tiny, seen: Seen) -> None:
    with tiny.trainer() as trainer:
        seen.append(("launch", trainer.resuming))
        for _ in trainer.steps(6):
            seen.append((f"body {trainer.step}", trainer.resuming))
            tiny.step(next(iter(tiny.loader)))
            tiny.ends(trainer)


@pytest.mark.parametrize(
    ("script", "first", "true", "false"),
    [
        pytest.param(in_epochs, {"crash_at": 0}, [], ["launch", "head 0", "body 0"], id="the very beginning"),
        pytest.param(
            in_epochs, {"crash_at": 7}, ["launch", "head 1"], ["body 6", "body 7", "end 1", "behind"], id="mid-epoch"
        ),
        pytest.param(
            in_epochs,
            {"saves": [4], "crash_at": 4},
            [],
            ["launch", "head 1", "body 4"],
            id="between two epochs",
        ),
        pytest.param(
            in_epochs,
            {"saves": [3], "crash_at": 4},
            ["launch", "head 0"],
            ["end 0", "head 1", "body 4"],
            id="behind the last batch of an epoch",
        ),
        pytest.param(in_epochs, {}, [], ["launch", "behind"], id="finished"),
        pytest.param(
            in_two_passes, {"crash_at": 7}, ["head 0.0", "head 0.1"], ["body 6", "body 7"], id="in the second pass"
        ),
        pytest.param(
            in_passes_without_epochs,
            {"crash_at": 0},
            ["head 0"],
            ["body 0", "body 1"],
            id="the very beginning, without epochs",
        ),
        pytest.param(
            in_passes_without_epochs,
            {"crash_at": 7},
            ["head 0", "head 1"],
            ["body 6", "body 7", "head 2"],
            id="mid-pass, without epochs",
        ),
        pytest.param(
            in_passes_without_epochs,
            {"saves": (), "crash_at": 5},
            ["head 0"],
            ["head 1", "body 4"],
            id="between two passes",
        ),
        pytest.param(
            in_passes_without_epochs, {}, ["head 0", "head 1", "head 2"], ["behind"], id="finished, without epochs"
        ),
        pytest.param(in_steps, {"crash_at": 5}, [], ["launch", "body 4", "body 5"], id="steps"),
    ],
)
def test_it_is_true_until_the_pass_of_the_checkpoint_goes_on(
    run: Path, script: Callable[[Tiny, Seen], None], first: dict[str, Any], true: list[str], false: list[str]
) -> None:
    new: Seen = []
    with suppress(Crash):
        script(Tiny(run, **first), new)
    assert not any(resuming for _, resuming in new)
    seen: Seen = []
    script(Tiny(run), seen)
    assert [where for where, resuming in seen if resuming] == true
    assert [where for where, resuming in seen if not resuming][: len(false)] == false


# -- the use of it ----------------------------------------------------------------------------------------------------


def acquires(tiny: Tiny, *, guarded: bool = True) -> None:
    """Active learning: each epoch begins by choosing two more samples at random, and trains on all chosen so far."""
    samples = torch.arange(32.0).reshape(16, 2)
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(3):
            chosen = tiny.notes.setdefault("chosen", [])
            if not (guarded and trainer.resuming):
                chosen += torch.randint(16, (2,)).tolist()
            for batch in trainer.batches(DataLoader(TensorDataset(samples[chosen]), batch_size=2, shuffle=True)):
                tiny.step(batch)
                tiny.ends(trainer)
            saves_between_epochs(tiny, trainer)


@pytest.mark.parametrize("step", [1, 2, 3, 5])  # in front of an epoch, inside of one
def test_a_head_that_chooses_data_runs_once_in_each_epoch(run: Path, whole: Path, step: int) -> None:
    with pytest.raises(Crash):
        acquires(Tiny(run, crash_at=step, saves=range(10)))
    acquires(Tiny(run))
    acquires(Tiny(whole))
    assert len(Run(str(whole)).latest().load("notes")["chosen"]) == 6
    assert_equal_ends(run, whole)


def test_the_refusal_of_other_data_names_it_where_the_head_has_run_again(run: Path) -> None:
    with pytest.raises(Crash):
        acquires(Tiny(run, crash_at=5, saves=range(10)))
    with pytest.raises(LoopError, match=r"batches\.dataset 6->8") as caught:
        acquires(Tiny(run), guarded=False)
    assert "run it only `if not trainer.resuming`" in str(caught.value.hint)
    assert "put it back, and change it at the end of an epoch" in str(caught.value.hint)
