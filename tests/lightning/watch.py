"""A Lightning callback that notes what happens, one line an event, and kills the program where it is asked to."""

from __future__ import annotations

import os
import signal
import zlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils._pytree import tree_leaves

from tests.tiny import until_written


class Watch(pl.Callback):
    """Has no state, so that all it knows is what Lightning says. A step is one trained batch, counted over the run.

    Each line begins with the event and the step and is written at once, by one system call: a kill loses none.
    `kill` is EVENT:STEP, or `setup`. Saves are waited for, so that where the next launch begins does not depend on the
    disk.
    """

    def __init__(self, events: Path, kill: str | None) -> None:
        self._file = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._kill = kill

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if self._kill == "setup":  # by now the writers of all loggers are open, and nothing is restored
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_start(self, *_: Any) -> None:
        until_written()  # a save in flight would put off the next one

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._note(
            "train",
            trainer,
            batch=batch_idx,
            loss=_number(outputs["loss"] if isinstance(outputs, dict) else outputs),
            lr=[group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups],
            data=_content(batch),
            waited=_waited(trainer),
        )

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self._note("validate", trainer, loader=dataloader_idx, batch=batch_idx, data=_content(batch))

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            metrics = {name: _number(value) for name, value in sorted(trainer.callback_metrics.items())}
            self._note("validated", trainer, metrics=metrics)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics = {name: _number(value) for name, value in sorted(trainer.callback_metrics.items())}
        self._note("epoch", trainer, metrics=metrics)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._note("end", trainer)

    def _note(self, event: str, trainer: pl.Trainer, **what: Any) -> None:
        step = trainer.fit_loop.total_batch_idx + 1
        said = {"global": trainer.global_step, "epoch": trainer.current_epoch} | what
        line = " ".join([event, str(step), *(f"{name}={value}".replace(" ", "") for name, value in said.items())])
        os.write(self._file, f"{line}\n".encode())
        if self._kill == f"{event}:{step}":
            until_written()
            os.kill(os.getpid(), signal.SIGKILL)


def _number(value: Any) -> str:
    return "none" if value is None else float(value).hex()


def _content(batch: Any) -> list[Any]:
    """Which samples a batch has, in order, and a checksum of what was made of them."""
    leaves = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)]
    return [
        zlib.crc32(leaf.numpy().tobytes()) if leaf.is_floating_point() else leaf.flatten().tolist() for leaf in leaves
    ]


def _waited(trainer: pl.Trainer) -> list[Any]:
    """How patient each EarlyStopping is by now, and with what."""
    return [(each.wait_count, float(each.best_score).hex()) for each in trainer.early_stopping_callbacks]
