"""The course of a drill: an undisturbed run, a run that is killed again and again, both to their ends; prints nothing.

The undisturbed run saves only at its start and at its end, so saving is put to the proof as well. The other one begins
with a copy of its run.json and of its checkpoint of step 0, and saves as the user's config says. Hence a script that
seeds nothing has the same start in both, as it would after a crash before its first interval.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resumable.cli.launch import Ended, launch
from resumable.errors import NoCheckpointError, ResumableError
from resumable.killpoints import Kill
from resumable.run import Checkpoint, Run
from resumable.store.layout import ATTEMPTS, CHECKPOINTS, RUN_FILE

SAVE_POINTS = ("save.blob", "save.manifest", "save.published")
REFERENCE, DRILLED = "reference", "drilled"
FOREVER = "1000000000"
UNDISTURBED = {
    "RESUMABLE_EVERY__STEPS": "null",
    "RESUMABLE_EVERY__MINUTES": "null",
    "RESUMABLE_EVERY__EPOCHS": "null",
    "RESUMABLE_EVERY__OVERHEAD_PERCENT": "null",
    "RESUMABLE_KEEP__LAST": FOREVER,
    "RESUMABLE_KEEP__BEST": "null",
}


@dataclass(frozen=True)
class Reference:
    """What the undisturbed run was like."""

    start: Checkpoint
    final: Checkpoint

    @property
    def steps(self) -> int:
        return self.final.step

    @property
    def step_seconds(self) -> float:
        """The typical duration of a step, without the time that Python and torch take to start."""
        return max(self.final.manifest.created - self.start.manifest.created, 0.0) / max(self.steps, 1)


@dataclass(frozen=True)
class Attempt:
    """One launch of the drilled run. Where no kill landed, `killed_at_step` and `point` are None."""

    attempt: int
    resumed_from_step: int
    steps_replayed: int
    armed: str | None
    point: str | None
    killed_at_step: int | None


class Rehearsal:
    """One command, one scratch folder, and the two runs in it.

    `show` is told every line that the command prints. Every failure of it that is no kill is a `ResumableError`.
    """

    def __init__(self, command: Sequence[str], scratch: Path, *, show: Callable[[str], None]) -> None:
        self.command = command
        self.scratch = scratch
        self._show = show

    def undisturbed(self) -> Reference:
        """Run the command once from beginning to end."""
        folder = self.scratch / REFERENCE
        ended = launch(self.command, environment=self._environment(folder, UNDISTURBED), show=self._show)
        if ended.code:
            raise ResumableError(
                f"the command failed without being disturbed: {ended}{_quoted(ended)}",
                "make it run to its end once; it is launched in this folder, with RESUMABLE_RUN set to a scratch run",
            )
        checkpoints = _checkpoints(folder)
        reference = Reference(checkpoints[0], checkpoints[-1])
        if not reference.final.manifest.finished or not reference.steps:
            raise ResumableError(
                f"the command ended, but its run is not finished: it stands at step {reference.steps}",
                "let the loops of the trainer end by themselves, or call trainer.stop() before leaving them early",
            )
        if reference.start.step:
            raise ResumableError(
                f"the first checkpoint of the run is of step {reference.start.step}, expected step 0",
                "does the script override `keep`? Configure it in the file: the drill changes it by the environment",
            )
        return reference

    def disturbed(
        self, reference: Reference, kills: Sequence[Kill], announce: Callable[[int, int, Kill | None], None]
    ) -> Iterator[Attempt]:
        """Launch the command with one kill after the other armed, and at last with none, until it has finished.

        `announce` is told the number of each attempt, the step that it resumes from, and the kill.
        """
        folder = self.scratch / DRILLED
        _copy_start(reference, self.scratch / REFERENCE, folder)
        killed_at: int | None = None
        for number, armed in enumerate([*kills, None], start=2):  # attempt 1 wrote the start
            resumed = Run(str(folder)).latest()
            announce(number, resumed.step, armed)
            point, killed_now = self._attempt(folder, armed)
            replayed = max(killed_at - resumed.step, 0) if killed_at is not None else 0
            killed_at = killed_now
            yield Attempt(number, resumed.step, replayed, str(armed) if armed else None, point, killed_at)
            if killed_at is None:
                break
        self._refuse_unfinished(folder)

    def final(self) -> Checkpoint:
        """Where the drilled run ended."""
        return Run(str(self.scratch / DRILLED)).latest()

    def _attempt(self, folder: Path, armed: Kill | None) -> tuple[str | None, int | None]:
        log = self.scratch / "kills.jsonl"
        log.unlink(missing_ok=True)
        kill = {"RESUMABLE_KILL": str(armed), "RESUMABLE_KILL_LOG": str(log)} if armed else {}
        ended = launch(self.command, environment=self._environment(folder, kill), show=self._show)
        # The log and not the exit code: between us and the training there may be a launcher with one of its own.
        if log.exists():
            line = json.loads(log.read_text().splitlines()[-1])
            return line["point"], line["step"]
        if ended.code:
            raise ResumableError(
                f"the command failed after a resume, not by a kill of the drill: {ended}{_quoted(ended)}",
                f"RESUMABLE_RUN={folder} with the same command shows it again",
            )
        return None, None

    def _environment(self, folder: Path, more: dict[str, str]) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RESUMABLE_KILL")}
        # Unbuffered, or what was printed before a kill is lost with it.
        return {**inherited, "PYTHONUNBUFFERED": "1", "RESUMABLE_RUN": str(folder), "RESUMABLE_RESUME": "auto", **more}

    def _refuse_unfinished(self, folder: Path) -> None:
        final = Run(str(folder)).latest()
        if not final.manifest.finished:
            raise ResumableError(
                f"the command ended without a failure, but its run stands unfinished at step {final.step}",
                f"launch it with RESUMABLE_RUN={folder} to see why its loops do not go on",
            )


def draw_kills(*, count: int, seed: int, steps: int, step_seconds: float) -> list[Kill]:
    """`count` kills in the order of their steps, every third inside a save; the same for the same arguments.

    The others come up to `step_seconds` after a step, that is, anywhere.
    """
    source = random.Random(seed)
    where = range(1, steps + 1)
    chosen = sorted(source.sample(where, count) if count <= steps else source.choices(where, k=count))
    in_saves = set(source.sample(range(count), round(count / 3)))
    return [
        Kill(source.choice(SAVE_POINTS), step)
        if index in in_saves
        else Kill("step", step, round(source.random() * step_seconds, 4))
        for index, step in enumerate(chosen)
    ]


def _checkpoints(folder: Path) -> list[Checkpoint]:
    try:
        Run(str(folder)).latest()
    except NoCheckpointError as error:
        raise ResumableError(
            "the command ended without a failure, but wrote no run where RESUMABLE_RUN told it to",
            "does it train with a resumable.Trainer? Config.load(..., run=...) beats RESUMABLE_RUN: leave it out",
        ) from error
    return Run(str(folder)).checkpoints()


def _copy_start(reference: Reference, source: Path, target: Path) -> None:
    target.mkdir()
    shutil.copy2(source / RUN_FILE, target / RUN_FILE)
    shutil.copytree(source / ATTEMPTS, target / ATTEMPTS)
    start = Path(CHECKPOINTS) / reference.start.name
    shutil.copytree(source / start, target / start)


def _quoted(ended: Ended) -> str:
    return "".join(f"\n  | {line}" for line in ended.tail)
