"""What share of the time `overhead_percent` really costs: a GPT that trains with it and without saves; knows no peer.

Runs of equal length, in turn, each with its own start, which is left out. By wall time the share is what the steps of a
run took longer than those of the runs without saves beside it; the same is added up inside of a run from the waits, and
from its steps beside a save against its own others: less exposed to a machine whose speed wanders from run to run.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from resumable import Trainer
from tests.bench.states import training
from tests.bench.timing import clock, rounds

PERCENTS = (0.0, 2.0, 5.0)  # 0: no saves
WARM_UP_STEPS = 20
MOST_ROUNDS = 3  # each of three runs of 40 seconds: seven minutes in all, where ten rounds would be twenty-five


@dataclass
class Seen:
    """The steps of one run, with what training waited in each, and whether a save was written beside it."""

    seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    beside: list[bool] = field(default_factory=list)
    saves: int = 0

    @property
    def step_seconds(self) -> float:
        return fmean(self.seconds)

    def add(self, seconds: float, *, waited: float, beside: bool, saved: bool) -> None:
        self.seconds.append(seconds)
        self.waited.append(waited)
        self.beside.append(beside)
        self.saves += saved

    def share(self) -> float:
        """By the run's own steps, in percent."""
        quiet = [seconds - waited for seconds, waited, beside in self._steps() if not beside]
        usual = fmean(quiet) if quiet else median(self.seconds)
        slower = sum(seconds - waited - usual for seconds, waited, beside in self._steps() if beside)
        return 100 * (sum(self.waited) + slower) / sum(self.seconds)

    def _steps(self) -> list[tuple[float, float, bool]]:
        return list(zip(self.seconds, self.waited, self.beside, strict=True))


def measure(folder: Path, pairs: int, quick: bool) -> dict[str, Any]:
    """Percent of the time, stated and realised, of at most `pairs` runs each; `folder` is where they save.

    `wall_percent` compares with the runs without saves of the same round, `own_percent` within a run.
    """
    logging.getLogger("resumable").addHandler(logging.NullHandler())
    size, run_seconds = ("2MB", 10.0) if quick else ("120MB", 40.0)
    found: dict[str, Any] = {
        f"overhead_percent {percent:g}": {"wall_percent": [], "own_percent": [], "saves": [], "interval_seconds": []}
        for percent in PERCENTS
        if percent
    }
    for number, turn in enumerate(rounds(PERCENTS, min(pairs, MOST_ROUNDS))):
        seen = {percent: _train(size, folder / f"{number}-{percent:g}", percent, run_seconds) for percent in turn}
        for percent, run in seen.items():
            if percent:
                figures = found[f"overhead_percent {percent:g}"]
                figures["wall_percent"].append(100 * (1 - seen[0.0].step_seconds / run.step_seconds))
                figures["own_percent"].append(run.share())
                figures["saves"].append(run.saves)
                figures["interval_seconds"].append(sum(run.seconds) / max(run.saves, 1))
    return {"state": size, **found}


def _train(size: str, folder: Path, percent: float, run_seconds: float) -> Seen:
    trained, seen = training(size), Seen()
    every = {"steps": None, "minutes": None, "overhead_percent": percent or None}
    config = {"run": str(folder), "every": every, "keep": {"last": 1, "best": None}, "progress": "never"}
    with Trainer(config, **trained.objects()) as trainer:
        checkpointer = trainer._launch.checkpointer
        before = waited_before = saved_before = began = 0.0
        beside = False
        for step in trainer.steps(10**9):
            now, status = clock(), checkpointer.status
            waited, saved_at = status.stalled_seconds, status.saved_at_seconds
            if step > WARM_UP_STEPS:
                seen.add(now - before, waited=waited - waited_before, beside=beside, saved=saved_at != saved_before)
                if now - began > run_seconds:
                    trainer.stop()
            elif step == WARM_UP_STEPS:
                began = now
            before, waited_before, saved_before, beside = now, waited, saved_at, status.busy
            trained.step()
    return seen


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        count = int(sys.argv[1]) if len(sys.argv) > 1 else 1
        print(json.dumps(measure(Path(place), count, quick=count < 5), indent=1))
