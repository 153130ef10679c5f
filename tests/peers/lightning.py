"""A fit with Lightning: with `ModelCheckpoint` and `ckpt_path="last"`, and with `Resume`."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers.logger import Logger

from resumable.lightning import Resume
from tests.peers.probe import Probe
from tests.peers.training import (
    CONFIG,
    EPOCHS,
    EVALUATE_EVERY,
    SAVE_EVERY,
    SEED,
    WINDOW,
    Kind,
    Streams,
    loaders,
    loss_of,
    objects,
)


class Module(pl.LightningModule):
    """The network, with the loss of each batch and its mean over an epoch in the log."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self._optimizer, self._scheduler = objects()

    def training_step(self, batch: dict[str, Any], _: int) -> Any:
        loss = loss_of(self.net, batch)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=len(batch["y"]))
        return loss

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        self.log("eval_loss", loss_of(self.net, batch), batch_size=len(batch["y"]))

    def configure_optimizers(self) -> Any:
        return [self._optimizer], [{"scheduler": self._scheduler, "interval": "step"}]


class Curve(Logger):
    """Hands what Lightning logs to the probe."""

    name, version = "curve", 0

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._probe.log(step or 0, **metrics)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


class Watch(pl.Callback):
    """Shows batches to the probe, and the places of death."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        self._probe.batch(trainer.current_epoch, trainer.fit_loop.total_batch_idx, batch["id"], batch["x"])

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self._probe.reach("window" if (index + 1) % WINDOW else "update", trainer.global_step)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._probe.reach("evaluation", trainer.global_step)


class KeepStreams(Streams, pl.Callback):
    """Stores the global streams in Lightning's checkpoints."""


def fit(probe: Probe, callbacks: list[pl.Callback], kind: Kind = "plain", **options: Any) -> None:
    """Fit with these callbacks."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pl.seed_everything(SEED, workers=True, verbose=False)
    module = Module()
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        accumulate_grad_batches=WINDOW,
        val_check_interval=EVALUATE_EVERY * WINDOW,
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
        logger=Curve(probe),
        callbacks=[*callbacks, Watch(probe)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, *loaders(kind), **options)
    probe.end(module, trainer.optimizers[0])


def own(probe: Probe, *, kind: Kind = "plain", inside: bool = True) -> None:
    """Resume with the newest file of `ModelCheckpoint`, written every few updates or at the ends of epochs.

    By hand a callback stores the streams there.
    """
    often: dict[str, int] = {"every_n_train_steps": SAVE_EVERY} if inside else {"every_n_epochs": 1}
    by_hand = [KeepStreams()] if kind == "by hand" else []
    checkpoints = ModelCheckpoint("checkpoints", save_last=True, save_on_train_epoch_end=not inside, **often)
    fit(probe, [*by_hand, checkpoints], kind, ckpt_path="last")


def resumable(probe: Probe) -> None:
    """Resume with this package."""
    fit(probe, [Resume(CONFIG)])
