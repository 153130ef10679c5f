"""resumable as a contestant: its checkpointer alone, and its `Trainer` around a real loop; knows no peer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from resumable import Config, Trainer
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.errors import ConfigError
from tests.bench.states import Training
from tests.bench.timing import clock

EVERY_STEPS = 100


class NotThereYet(Exception):
    """What is to be measured does not exist in this version; says what."""


def config(folder: Path, mode: str) -> Config:
    """Deletes nothing: nobody's deletions are timed. `NotThereYet` for a mode that does not exist."""
    values: dict[str, Any] = {
        "run": str(folder),
        "data_seed": 1,
        "every": {"steps": EVERY_STEPS, "minutes": None},
        "keep": {"last": 1000, "best": None},
        "signals": [],
        "progress": "never",
    }
    if "staging" in Config.model_fields:
        values["staging"] = {"mode": mode}
    elif mode != "eager":
        raise NotThereYet(f"the config has no staging.mode: {mode}")
    try:
        return Config.load(values)
    except ConfigError as error:
        raise NotThereYet(error.message) from error


class Resumable:
    """The checkpointer without a loop. With overlap, `settle` is a step of the training: its optimizer waits."""

    def __init__(self, training: Training, folder: Path, *, mode: str) -> None:
        self._training, self._folder, self._overlaps = training, folder, mode == "overlap"
        self._checkpointer = Checkpointer(config(folder, mode), training.objects())
        self._step = 0

    def save(self) -> None:
        self._step += 1
        self._checkpointer.save(Position(step=self._step), reason="bench", late=self._overlaps)

    def busy(self) -> bool:
        return self._checkpointer._saving.pipeline._background.busy

    def wait(self) -> None:
        self._checkpointer.drain()

    def settle(self) -> float:
        if not self._overlaps:
            return 0.0
        before = self._checkpointer.status.stalled_seconds
        self._training.step()
        return self._checkpointer.status.stalled_seconds - before

    def tidy(self) -> None:
        remove_all_but_newest(self._folder)

    def close(self) -> None:
        self._checkpointer.close()


class Loop:
    """A real loop: `Trainer.steps` around whatever one turn does, a turn at a time."""

    def __init__(self, training: Training, folder: Path, *, mode: str) -> None:
        self._folder = folder
        self._trainer = Trainer(config(folder, mode), **training.objects())
        self._checkpointer = self._trainer._launch.checkpointer
        self._turns = iter(self._trainer.steps(10**9))
        self.turn()
        self._checkpointer.drain()

    def approach(self) -> None:
        """Empty turns, until a save is due at the end of this one: as the config says, not because it was asked for."""
        while (self._step + 1) % EVERY_STEPS:
            self.turn()

    def save(self) -> None:
        """End this turn, behind `approach`, with a checkpoint."""
        assert (self._step + 1) % EVERY_STEPS == 0
        self.turn()

    def turn(self) -> None:
        """End this turn."""
        self._step = next(self._turns)

    def stalled_seconds(self) -> float:
        """What the product itself counted that this training waited for saves."""
        return self._checkpointer.status.stalled_seconds

    def busy(self) -> bool:
        return self._checkpointer._saving.pipeline._background.busy

    def wait(self) -> None:
        self._checkpointer.drain()

    def settle(self) -> float:
        return 0.0

    def tidy(self) -> None:
        remove_all_but_newest(self._folder)

    def close(self) -> None:
        self._turns.close()  # type: ignore[attr-defined]
        self._trainer.close()


def remove_all_but_newest(run: Path) -> None:
    """Also behind the product's back: a run may lose what is old."""
    names = [path for path in (run / "checkpoints").iterdir() if path.is_dir()]
    for path in sorted(names, key=lambda path: path.name)[:-1]:
        (path / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(path)


def timed_save(loop: Loop) -> float:
    """Seconds from the end of a body to the start of the next, with a save between them."""
    started = clock()
    loop.save()
    return clock() - started
