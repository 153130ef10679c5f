"""Modules that grow, and optimizers that get a group: what the save says, what a relaunch is told, and what goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from resumable import Run, RunMismatchError, Trainer
from resumable.checkpointing.capture.structure_changes import STRUCTURE, Change, changes_in, way_on
from resumable.checkpointing.position import Position
from tests.tiny import Crash, Tiny, assert_equal_ends, until_written, warnings_of

pytestmark = pytest.mark.usefixtures("_every_line")

AT_HEAD = "`if trainer.epoch + trainer.resuming > 1:`"
ONCE = "and in the loop behind `if not trainer.resuming`"

Grow = Callable[[Tiny], None]


@pytest.fixture
def _every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "resumable")


def adds_a_layer(tiny: Tiny) -> None:
    tiny.model.append(nn.Linear(1, 1))
    tiny.optimizer.add_param_group({"params": tiny.model[-1].parameters()})


def adds_a_group(tiny: Tiny) -> None:
    tiny.optimizer.add_param_group({"params": tiny.model[0].parameters(), "lr": 0.001})


def widens_the_last_layer(tiny: Tiny) -> None:
    old, new = tiny.model[3], nn.Linear(20, 2)
    tiny.model[3] = new
    for group in tiny.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if all(p is not q for q in old.parameters())]
    for parameter in old.parameters():
        tiny.optimizer.state.pop(parameter, None)
    tiny.optimizer.add_param_group({"params": new.parameters()})


def frozen(run: Path, **options: Any) -> Tiny:
    """A launch that begins with a frozen layer, which is in no group."""
    tiny = Tiny(run, **options)
    tiny.model[0].requires_grad_(False)
    trained = [parameter for parameter in tiny.model.parameters() if parameter.requires_grad]
    tiny.optimizer = torch.optim.SGD(trained, lr=0.02, momentum=0.9)
    return tiny


def train(tiny: Tiny, grow: Grow, *, before: Callable[[Trainer], bool] | None, guarded: bool = True) -> None:
    """Three epochs, of which the second one begins with `grow`; `before` is the condition in front of the loop."""
    with tiny.trainer() as trainer:
        if before is not None and before(trainer):
            grow(tiny)
        for epoch in trainer.epochs(3):
            if epoch == 1 and not (guarded and trainer.resuming):
                grow(tiny)
            for batch in trainer.batches(tiny.loader):
                trainer.log(loss=tiny.step(batch))
                until_written()
                tiny.ends(trainer)


def hinted(trainer: Trainer) -> bool:
    return trainer.epoch + trainer.resuming > 1


GROWTHS: list[Grow] = [adds_a_layer, adds_a_group, widens_the_last_layer]


@pytest.mark.parametrize("grow", GROWTHS)
def test_the_save_that_shows_a_change_says_once_what_a_relaunch_must_do(
    run: Path, caplog: pytest.LogCaptureFixture, grow: Grow
) -> None:
    train(frozen(run), grow, before=None)
    [line] = warnings_of(caplog)
    assert "optimizer: 2 parameter groups, 1 before (changed while training, in epoch 1, between the saves of" in line
    assert f"a relaunch must make the change before the loop, too, behind {AT_HEAD}, {ONCE}" in line


def test_what_does_not_change_the_structure_is_no_change(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    def thaws(tiny: Tiny) -> None:  # a resume restores it
        tiny.model[2].p = 0.5
        tiny.model[0].requires_grad_(not tiny.model[0].weight.requires_grad)
        tiny.optimizer.param_groups[0]["lr"] = 0.001

    train(Tiny(run), thaws, before=None)
    train(Tiny(run), thaws, before=None)
    assert warnings_of(caplog) == []
    assert STRUCTURE not in Run(str(run)).latest().notes


@pytest.mark.parametrize("grow", GROWTHS)
def test_a_relaunch_without_the_change_is_refused_with_the_line_and_goes_on_with_it(
    run: Path, tmp_path: Path, grow: Grow, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Crash):
        train(frozen(run, crash_at=7), grow, before=None)
    files = sorted(run.rglob("*"))
    with pytest.raises(RunMismatchError) as caught:
        train(frozen(run), grow, before=None)
    assert "optimizer: 2 parameter groups in the checkpoint, 1 here" in caught.value.message
    assert "(changed while training, in epoch 1, between the saves of steps 4 and 6)" in caught.value.message
    assert f"make the change before the loop, too, behind {AT_HEAD}, {ONCE}" in str(caught.value.hint)
    assert sorted(run.rglob("*")) == files, "nothing was claimed"
    caplog.clear()
    train(frozen(run), grow, before=hinted)
    assert warnings_of(caplog) == []
    train(frozen(tmp_path / "whole"), grow, before=None)
    assert_equal_ends(run, tmp_path / "whole")


@pytest.mark.parametrize("crash_at", [3, 4, 5])
def test_the_line_is_right_at_every_checkpoint(run: Path, tmp_path: Path, crash_at: int) -> None:
    saves = range(1000)
    with pytest.raises(Crash):
        train(frozen(run, crash_at=crash_at, saves=saves), adds_a_group, before=hinted)
    train(frozen(run, saves=saves), adds_a_group, before=hinted)
    train(frozen(tmp_path / "whole", saves=saves), adds_a_group, before=None)
    assert_equal_ends(run, tmp_path / "whole")


def test_a_change_that_is_made_too_early_is_refused_with_the_line(run: Path) -> None:
    with pytest.raises(Crash):
        train(frozen(run, crash_at=4, saves=[0], every={"epochs": 1}), adds_a_group, before=None)
    assert Run(str(run)).latest().epoch == 1, "in front of the head that makes the change"
    with pytest.raises(RunMismatchError) as caught:
        train(frozen(run), adds_a_group, before=lambda trainer: trainer.epoch >= 1)
    assert "optimizer: 1 parameter group in the checkpoint, 2 here" in caught.value.message
    assert "it stands before the head of epoch 1" in str(caught.value.hint)
    assert AT_HEAD in str(caught.value.hint)


def test_a_head_that_makes_the_change_twice_is_refused_with_the_line(run: Path) -> None:
    with pytest.raises(Crash):
        train(frozen(run, crash_at=7), adds_a_layer, before=None)
    with pytest.raises(RunMismatchError) as caught:
        train(frozen(run), adds_a_layer, before=hinted, guarded=False)
    assert "optimizer: 2 parameter groups in the checkpoint, 3 here" in caught.value.message
    assert ONCE in str(caught.value.hint)


def test_the_counters_are_read_before_anything_is_compared(run: Path) -> None:
    with pytest.raises(Crash):
        train(frozen(run, crash_at=7), adds_a_layer, before=None)
    with frozen(run).trainer() as trainer:
        assert (trainer.step, trainer.epoch, trainer.resuming) == (6, 1, True)
        assert trainer.metrics.keys() == {"loss"}
        assert trainer.resumed_from is not None
    assert len(list((run / "attempts").iterdir())) == 1


def test_what_was_refused_may_be_mended_with_the_same_trainer(run: Path) -> None:
    with pytest.raises(Crash):
        train(frozen(run, crash_at=7), adds_a_group, before=None)
    tiny = frozen(run)
    with tiny.trainer() as trainer:
        with pytest.raises(RunMismatchError):
            trainer.restore()
        adds_a_group(tiny)
        trainer.restore()
        assert len(tiny.optimizer.param_groups) == 2


def prunes(tiny: Tiny) -> None:
    for layer in (tiny.model[0], tiny.model[3]):
        prune.l1_unstructured(layer, "weight", amount=0.3)


def test_pruning_needs_no_line(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Crash):
        train(Tiny(run, crash_at=7), prunes, before=None)
    assert not [line for line in warnings_of(caplog) if "relaunch" in line]
    caplog.clear()
    tiny = Tiny(run)
    train(tiny, prunes, before=None)
    assert warnings_of(caplog) == []
    assert prune.is_pruned(tiny.model)
    train(Tiny(tmp_path / "whole"), prunes, before=None)
    assert_equal_ends(run, tmp_path / "whole")


# -- the condition ----------------------------------------------------------------------------------------------------


def at(step: int, epoch: int, batches: int | None = None, loop: str = "epochs") -> Position:
    loaders = [] if batches is None else [{"batches": batches}]
    return Position(loop=loop, step=step, epoch=epoch, inside_epoch=batches is not None, loaders=loaders)


@pytest.mark.parametrize(
    ("before", "now", "condition"),
    [
        (at(15, 1, 7), at(18, 2, 2), "if trainer.epoch + trainer.resuming > 2:"),
        (at(16, 2), at(18, 2, 2), "if trainer.epoch + trainer.resuming > 2:"),
        (at(16, 2), at(24, 3), "if trainer.epoch + trainer.resuming > 2:"),
        (at(17, 2, 1), at(20, 2, 4), "if trainer.step >= 20:"),
        (at(20, 2, 4), at(24, 3), "if trainer.step >= 24:"),
        (at(15, 1, 7, "batches"), at(18, 2, 2, "batches"), "if trainer.step > 16:"),
        (at(8, 0, loop="steps"), at(12, 0, loop="steps"), "if trainer.step >= 12:"),
    ],
)
def test_the_condition_holds_for_the_checkpoints_with_the_change(
    before: Position, now: Position, condition: str
) -> None:
    assert Change.between(before, now).condition == condition


# -- notes from anybody -----------------------------------------------------------------------------------------------

GOOD = {"loop": "epochs", "step": 3, "after": 2, "heads": 2, "heads_before": 1, "begun": 2}
BAD: list[Any] = [None, 3, [], "x", {"model": 3}, {"model": [3, None, {}]}, {"model": [GOOD | {"step": -1}]}]
BAD += [{"model": [GOOD | {"loop": "\x1b[2J"}]}, {"model": [GOOD | {"heads": True}]}, {"model": [GOOD | {"more": 1}]}]


@pytest.mark.parametrize("noted", BAD, ids=json.dumps)
def test_malformed_notes_are_left_out(noted: object) -> None:
    found = changes_in({STRUCTURE: noted})
    assert not any(found.values())
    assert "build them as they were" in way_on([each for some in found.values() for each in some], at(3, 1))


def test_well_formed_notes_are_read() -> None:
    assert changes_in({STRUCTURE: {"model": [GOOD]}}) == {"model": [Change(**GOOD)]}
