"""Hooks that change optimizers and schedulers: what cannot be made again is refused, and never silently wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import lr_scheduler

from resumable import Run
from resumable.errors import LoopError, ResumableError, RunMismatchError
from resumable.lightning import Resume
from tests.lightning.toys import Net, training
from tests.tiny import Crash, steps_of, until_written

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    # Lightning itself, beside the torch that tests run on.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

Act = Callable[..., None]


class Hooks(Callback):
    """Has the hooks that it is given."""

    def __init__(self, **hooks: Act) -> None:
        for name, act in hooks.items():
            setattr(self, name, act)


class Another(Hooks):
    """The same under another name."""


def fit(folder: Path, *callbacks: Callback, module: Net | None = None, crash_after: int = 0, epochs: int = 3) -> int:
    """Train nine batches an epoch; returns after how many a crash came, or all were done."""
    batches = 0

    def count(*_: Any) -> None:
        nonlocal batches
        until_written()  # a save in flight would put off the next one
        batches += 1
        if batches == crash_after:
            raise Crash

    every = {"steps": 2, "minutes": None}
    config = {"run": str(folder / "run"), "every": every, "keep": {"last": 50}, "progress": "never"}
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        callbacks=[Resume(config), *callbacks, Hooks(on_train_batch_end=count)],
    )
    torch.set_num_threads(1)
    try:
        trainer.fit(module or Net(), training())
    except Crash:
        assert crash_after
    except ResumableError as error:
        error.add_note(f"after {batches} batches")
        raise
    return batches


def add_a_schedule(trainer: pl.Trainer) -> None:
    schedule = lr_scheduler.ExponentialLR(trainer.optimizers[0], 0.9)
    trainer.lr_scheduler_configs.append(LRSchedulerConfig(schedule))


def in_the_second_epoch(trainer: pl.Trainer, *_: Any) -> None:
    if trainer.current_epoch == 1:
        add_a_schedule(trainer)


def refused(folder: Path, *callbacks: Callback) -> RunMismatchError:
    before = steps_of(folder / "run")
    with pytest.raises(RunMismatchError) as error:
        fit(folder, *callbacks)
    assert error.value.__notes__ == ["after 0 batches"]
    assert error.value.hint
    assert steps_of(folder / "run") == before
    return error.value


def test_a_manifest_names_what_no_launch_begins_with(tmp_path: Path) -> None:
    fit(tmp_path, Hooks(on_train_epoch_start=in_the_second_epoch), epochs=2)
    first, *_, last = Run(str(tmp_path / "run")).checkpoints()
    assert "late" not in first.manifest.environment
    assert last.manifest.environment["late"] == ["optimizer", "scheduler"]
    assert "scheduler" in last.manifest.objects


class ChangingInItsStep(Net):
    """Where there is no hook to call again."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == 4:
            add_a_schedule(self.trainer)
        loss: Tensor = super().training_step(batch, batch_idx)
        return loss


def test_a_change_in_no_hook_is_refused_before_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(LoopError, match="not in a hook") as error:
        fit(tmp_path, module=ChangingInItsStep())
    assert "on_train_epoch_start" in error.value.hint
    assert error.value.__notes__ == ["after 5 batches"]
    assert steps_of(tmp_path / "run") == [0, 2, 4]


def test_a_hook_that_does_not_do_it_again_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, Hooks(on_train_epoch_start=in_the_second_epoch), crash_after=14)
    error = refused(tmp_path, Hooks(on_train_epoch_start=lambda *_: None))
    assert "Hooks.on_train_epoch_start" in error.message
    assert "left ['AdamW[6]', 'ExponentialLR'] then, and ['AdamW[6]'] now" in error.message


def test_a_hook_that_wants_its_batch_is_refused(tmp_path: Path) -> None:
    def by_the_batch(trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int) -> None:
        if index == 4 and batch["x"].shape[0] == 4 and not trainer.lr_scheduler_configs:
            add_a_schedule(trainer)

    fit(tmp_path, Hooks(on_train_batch_end=by_the_batch), crash_after=14)
    assert "raised TypeError" in refused(tmp_path, Hooks(on_train_batch_end=by_the_batch)).message


def test_a_callback_that_is_left_out_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, Another(on_train_epoch_start=in_the_second_epoch), crash_after=14)
    assert "Another.on_train_epoch_start" in (error := refused(tmp_path)).message
    assert "did not exist" in error.message


def taken_out_and_put_back() -> Callback:
    held: list[LRSchedulerConfig] = []

    def act(trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 0:
            add_a_schedule(trainer)
            held.extend(trainer.lr_scheduler_configs)
        if trainer.current_epoch == 1:
            trainer.lr_scheduler_configs.clear()
        if trainer.current_epoch == 2:
            trainer.lr_scheduler_configs.extend(held)

    return Hooks(on_train_epoch_start=act)


def test_a_schedule_that_comes_back_without_its_state_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, taken_out_and_put_back(), crash_after=14)
    with pytest.raises(LoopError, match="put back an optimizer or a scheduler") as error:
        fit(tmp_path, taken_out_and_put_back())
    assert error.value.hint


def test_a_schedule_that_comes_back_in_one_launch_is_as_good_as_any(tmp_path: Path) -> None:
    assert fit(tmp_path, taken_out_and_put_back()) == 27
    assert fit(tmp_path, taken_out_and_put_back()) == 0


def test_a_checkpoint_with_it_back_is_resumed(tmp_path: Path) -> None:
    assert fit(tmp_path, taken_out_and_put_back(), crash_after=22) == 22
    assert fit(tmp_path, taken_out_and_put_back()) == 7
