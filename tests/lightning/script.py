"""One launch of one case, as a program: trains, notes what it saw, and leaves digests of its end; knows no case.

`python -m tests.lightning.script CASE FOLDER`: the run is in FOLDER/run, what each batch, validation and log call saw
is one line in FOLDER/notes, and digests of everything that is left at the end are in FOLDER/end.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger

from tests.lab.script import digest, seed_all
from tests.lightning.cases import EPOCHS, SAVE_EVERY, Setup
from tests.lightning.changing import ALL
from tests.tiny import until_written

DATA_SEED = 7


class Notes:
    """Lines that a kill cannot halve, and that outlive it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def add(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())


class Noting(pl.Callback):
    """Notes every batch with its loss and all random streams, so that the first wrong one is named."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        where = f"epoch {trainer.current_epoch} batch {batch_idx} update {trainer.global_step}"
        self.notes.add(f"train {where} data={digest(batch)} loss={digest(outputs)} streams={digest(streams())}")
        until_written()  # a save that is still in flight would put off the next one, on a slow disk only

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        if not trainer.sanity_checking:
            where = f"epoch {trainer.current_epoch} loader {loader} batch {index} update {trainer.global_step}"
            self.notes.add(f"validate {where} data={digest(batch)} streams={digest(streams())}")


class Lines(Logger):
    """A logger whose curve is in the notes, among the batches that it is drawn from."""

    name = "lines"
    version = 0

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self.notes = notes

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.notes.add(f"log step {step} {name}={value!r}")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: every launch hands them over anew."""


class Death(pl.Callback):
    """Sends this program a signal in the n-th call of one hook of this launch: SIGKILL, or the one that is named."""

    def __init__(self, place: str) -> None:
        place, _, name = place.partition("!")
        hook, _, number = place.partition(":")
        assert callable(getattr(pl.Callback, hook))
        self.left = int(number)
        self.signal = signal.Signals[name or "SIGKILL"]
        setattr(self, hook, self.reach)

    def reach(self, trainer: pl.Trainer, *_: Any) -> None:
        self.left -= not trainer.sanity_checking
        if self.left == 0 and not trainer.sanity_checking:
            until_written()
            os.kill(os.getpid(), self.signal)


def streams() -> list[Any]:
    """The global random streams."""
    return [torch.get_rng_state(), list(numpy.random.get_state()), repr(random.getstate())]


# ---- the launch


def main(arguments: list[str] | None = None) -> None:
    """Train the case named and write down its end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-at", metavar="HOOK:N")
    parser.add_argument("--max-epochs", type=int)
    parser.add_argument("--without", action="store_true", help="train as Lightning does it alone")
    given = parser.parse_args(arguments)
    launch(ALL[given.case].make, given)


def launch(make: Any, given: Namespace) -> None:
    """Everything that a user's script does, and the end of it in digests."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    seed_all()
    given.folder.mkdir(parents=True, exist_ok=True)
    setup = make()
    trainer = trainer_of(setup, given, Notes(given.folder / "notes"))
    trainer.fit(setup.module, **setup.data)
    (given.folder / "end.json").write_text(json.dumps(dict(end(trainer, setup)), indent=1), "utf-8")


def trainer_of(setup: Setup, given: Namespace, notes: Notes) -> pl.Trainer:
    """The Trainer of a case, with the one added line."""
    callbacks = [*setup.callbacks, Noting(notes)]
    if not given.without:
        callbacks.insert(setup.resume_at, resume(setup, given.folder))
    if given.kill_at:
        callbacks.append(Death(given.kill_at))
    options: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "logger": Lines(notes),
        "log_every_n_steps": 2,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(given.folder),
    }
    options |= setup.trainer | ({"max_epochs": given.max_epochs} if given.max_epochs else {})
    return pl.Trainer(callbacks=callbacks, **options)


def resume(setup: Setup, folder: Path) -> pl.Callback:
    """The line under test."""
    from resumable.lightning import Resume

    every = {"steps": SAVE_EVERY, "minutes": None}
    config = {"run": str(folder / "run"), "data_seed": DATA_SEED, "every": every, "progress": "never"}
    return Resume(config | setup.config)


# ---- the end


def end(trainer: pl.Trainer, setup: Setup) -> Iterator[tuple[str, str]]:
    """Everything that training left behind, by name: digests of tensors, and plain values as they are."""
    yield from _flat("weights", setup.module.state_dict())
    for number, optimizer in enumerate(trainer.optimizers):
        yield from _flat(f"optimizer {number}", optimizer.state_dict())
    for number, config in enumerate(trainer.lr_scheduler_configs):
        yield from _flat(f"scheduler {number}", config.scheduler.state_dict())
    for callback in trainer.callbacks:
        if not type(callback).__module__.startswith("resumable"):
            yield from _flat(f"callback {callback.state_key}", callback.state_dict())
    yield from _flat("precision", trainer.precision_plugin.state_dict())
    yield from _flat("datamodule", trainer.datamodule.state_dict() if trainer.datamodule else {})
    yield from _flat("memory", getattr(setup.module, "memory", {}))
    yield from _flat("hyper-parameters", dict(setup.module.hparams))
    yield from _flat("callback metrics", dict(trainer.callback_metrics))
    yield from _flat("logged metrics", dict(trainer.logged_metrics))
    yield from _flat("loops", trainer.fit_loop.state_dict())
    yield from _flat("trainer", {"epoch": trainer.current_epoch, "update": trainer.global_step})
    yield from _flat("batches", [trainer.num_training_batches, trainer.accumulate_grad_batches, trainer.max_epochs])
    yield from _flat("momenta", {name: getattr(part, "momentum", None) for name, part in setup.module.named_modules()})
    yield from _flat("streams", streams())


def _flat(where: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{where} / {key}", part)
    elif isinstance(value, list | tuple) and len(value) < 100:
        for index, part in enumerate(value):
            yield from _flat(f"{where}[{index}]", part)
    else:
        plain = value is None or isinstance(value, bool | int | float | str)
        yield where, repr(value) if plain else f"{type(value).__name__} {digest(value)}"


if __name__ == "__main__":
    main()
