"""What every scenario stands in: options, config, and the side file of what it saw; knows no loop and no data."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy
import torch
import xxhash

from resumable import Trainer
from resumable.state.staging.overlapped_copy import OptimizerGate
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.utils.threads import Background

DATA_SEED = 20_260_101
SAVE_EVERY = 4


class Script:
    """One launch of one scenario. `options` come from the test, and the same run may see others in its next launch."""

    def __init__(self, run: str, options: Mapping[str, Any], batches: str) -> None:
        self.run = run
        self.options = options
        if self.option("saves_in_turn", True):
            _put_no_save_off()
        FsspecStorage.patience_seconds = self.option("patience_seconds", FsspecStorage.patience_seconds)
        self._batches = os.open(batches, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def option(self, name: str, default: Any) -> Any:
        """The option of that name, or the default."""
        return self.options.get(name, default)

    def config(self, **changes: Any) -> dict[str, Any]:
        """The config of this laboratory with some keys changed, here or by the test's option `config`.

        A seed of None is drawn, as for any user.
        """
        config: dict[str, Any] = {
            "run": self.run,
            "data_seed": DATA_SEED,
            "every": {"steps": SAVE_EVERY, "minutes": None},
            "keep": {"last": 2},
        }
        return config | changes | self.option("config", {})

    def trainer(self, **objects: Any) -> Trainer:
        """A trainer with this laboratory's config."""
        return Trainer(self.config(), **objects)

    def saw(self, trainer: Trainer, *values: Any, where: str = "") -> None:
        """Note this step's batch and loss beside the run, in one write that no crash can halve; then signal if asked.

        A line is lost only if its step is run again, and a step that runs again must write the same line.
        """
        digests = ",".join(digest(value) for value in values)
        os.write(self._batches, f"epoch {trainer.epoch} step {trainer.step} {where} {digests}\n".encode())
        if trainer.step == self.option("signal_at", None):
            self.signal_itself()

    def signal_itself(self) -> None:
        """Send this program the signal that the test asked for."""
        os.kill(os.getpid(), signal.Signals[self.options["signal"]])


def _put_no_save_off() -> None:
    """Wait for a save that is in flight when the next comes due, so that each step is saved that should be."""

    def waited(background: Background) -> bool:
        background.wait()
        return False

    Background.busy = property(waited)
    OptimizerGate.settle_if_copied = OptimizerGate.settle  # a late save goes on only when it is judged


def seed_all() -> None:
    """Begin the global streams as in any other launch, as a careful user does."""
    torch.manual_seed(1)
    numpy.random.seed(2)
    random.seed(3)


def digest(value: Any) -> str:
    """A short digest of the exact bits of tensors, arrays and plain values in nested containers."""
    running = xxhash.xxh3_64()
    for leaf in _leaves(value):
        if isinstance(leaf, torch.Tensor):
            running.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            running.update(leaf.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(leaf, numpy.ndarray):
            running.update(leaf.tobytes())
        else:
            running.update(repr(leaf).encode())
    return running.hexdigest()


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


SCENARIOS: dict[str, Callable[[Script], None]] = {}


def scenario(function: Callable[[Script], None]) -> Callable[[Script], None]:
    """Register a scenario under the function's name."""
    assert function.__name__ not in SCENARIOS
    SCENARIOS[function.__name__] = function
    return function
