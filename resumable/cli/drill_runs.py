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
from dataclasses import dataclass, replace
from pathlib import Path

from resumable.cli.run_command import Ended, launch
from resumable.config.run_variable import DRILL
from resumable.errors import ResumableError
from resumable.run.checkpoint import Checkpoint
from resumable.run.run import Run
from resumable.store.layout import ATTEMPTS, CHECKPOINTS, RUN_FILE
from resumable.utils.failpoints import Kill

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
    """What one run of the undisturbed command was like; `name` is its folder's."""

    name: str
    start: Checkpoint
    final: Checkpoint

    @property
    def steps(self) -> int:
        return self.final.step

    @property
    def seconds(self) -> float:
        """How long it trained, without the time that Python and torch take to start."""
        return max(self.final.manifest.created - self.start.manifest.created, 0.0)


@dataclass(frozen=True)
class Attempt:
    """One launch of the drilled command. Where no kill landed, `killed_at_step` and `point` are None.

    `run` is the one that was to be killed, or the last where none was; steps are those of that run.
    """

    attempt: int
    run: str
    resumed_from_step: int
    steps_replayed: int
    armed: str | None
    point: str | None
    killed_at_step: int | None


class Rehearsal:
    """One command, one scratch folder, and below it two folders with all runs that the command trains.

    `show` is told every line that the command prints. Every failure of it that is no kill is a `ResumableError`.
    """

    def __init__(self, command: Sequence[str], scratch: Path, *, show: Callable[[str], None]) -> None:
        self.command = command
        self.scratch = scratch
        self._show = show
        self._alone: str | None = None  # the one run that the command trains, whatever it calls it at each launch

    def undisturbed(self) -> list[Reference]:
        """Run the command once from beginning to end; returns its runs in the order in which they began."""
        folder = self.scratch / REFERENCE
        ended = launch(self.command, environment=_environment(_where(folder), UNDISTURBED), show=self._show)
        if ended.code:
            raise ResumableError(
                f"the command failed without being disturbed: {ended}{_quoted(ended)}",
                "make it run to its end once; it is launched in this folder, with RESUMABLE_RUN set to a scratch run",
            )
        references = [Reference(name, found[0], found[-1]) for name, found in _runs(folder)]
        for reference in references:
            _refuse_undrillable(reference)
        return sorted(references, key=lambda reference: reference.start.manifest.created)

    def disturbed(
        self,
        references: Sequence[Reference],
        kills: Sequence[Kill],
        announce: Callable[[int, int, Kill | None], None],
    ) -> Iterator[Attempt]:
        """Launch the command with one kill after the other armed, and at last with none, until it has finished.

        `announce` is told the number of each attempt, the step that it resumes from, and the kill.
        """
        self._alone = references[0].name if len(references) == 1 else None
        for reference in references:
            _copy_start(reference, self.scratch / REFERENCE / reference.name, self._drilled(reference.name))
        killed_at: dict[str, int] = {}
        for number, armed in enumerate([*kills, None], start=2):  # attempt 1 wrote the start
            name = (armed.run if armed else None) or references[-1].name
            resumed = Run(str(self._drilled(name))).latest()
            announce(number, resumed.step, armed)
            point, killed_now = self._attempt(armed)
            self._refuse_renamed({reference.name for reference in references})
            replayed = max(killed_at.get(name, 0) - resumed.step, 0)
            yield Attempt(number, name, resumed.step, replayed, str(armed) if armed else None, point, killed_now)
            if killed_now is None:
                break
            killed_at[name] = killed_now
        for reference in references:
            self._refuse_unfinished(reference.name)

    def final(self, reference: Reference) -> Checkpoint:
        """Where the drilled run ended that this is the reference of."""
        return Run(str(self._drilled(reference.name))).latest()

    def _drilled(self, name: str) -> Path:
        return self.scratch / DRILLED / name

    def _attempt(self, armed: Kill | None) -> tuple[str | None, int | None]:
        log = self.scratch / "kills.jsonl"
        log.unlink(missing_ok=True)
        kill = {"RESUMABLE_KILL": str(armed), "RESUMABLE_KILL_LOG": str(log)} if armed else {}
        ended = launch(self.command, environment=_environment(self._where(), kill), show=self._show)
        # The log and not the exit code: between us and the training there may be a launcher with one of its own.
        if log.exists():
            line = json.loads(log.read_text().splitlines()[-1])
            return line["point"], line["step"]
        if ended.code:
            raise ResumableError(
                f"the command failed after a resume, not by a kill of the drill: {ended}{_quoted(ended)}",
                f"{self._setting()} with the same command shows it again",
            )
        return None, None

    def _where(self) -> dict[str, str]:
        return _where(self.scratch / DRILLED, self._alone)

    def _setting(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self._where().items() if value)

    def _refuse_renamed(self, names: set[str]) -> None:
        found = {child.name for child in (self.scratch / DRILLED).iterdir() if (child / RUN_FILE).exists()}
        others = sorted(found - names)
        if others:
            raise ResumableError(
                f"the command trains other runs each time that it is launched: {', '.join(others)}, expected "
                f"{', '.join(sorted(names))}",
                "name each run the same at every launch, without a time or a random part; otherwise no launch goes on",
            )

    def _refuse_unfinished(self, name: str) -> None:
        final = Run(str(self._drilled(name))).latest()
        if not final.manifest.finished:
            raise ResumableError(
                f"the command ended without a failure, but its run {name} stands unfinished at step {final.step}",
                f"launch it with {self._setting()} to see why its loops do not go on",
            )


def _where(folder: Path, run: str | None = None) -> dict[str, str]:
    """Put each run that the command trains into a folder of its own; or all it trains into that of the one `run`."""
    return {"RESUMABLE_RUN": str(folder / run if run else folder), DRILL: "" if run else "1"}


def _environment(where: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RESUMABLE_KILL")}
    # Unbuffered, or what was printed before a kill is lost with it.
    ours = {"PYTHONUNBUFFERED": "1", "RESUMABLE_RESUME": "auto"}
    return inherited | ours | where | more


def plan_kills(references: Sequence[Reference], *, count: int, seed: int) -> list[Kill]:
    """`count` kills as `draw_kills` draws them over all steps of all runs, each in the run that its step is of."""
    steps = sum(reference.steps for reference in references)
    drawn = draw_kills(count=count, seed=seed, steps=steps, step_seconds=step_seconds(references))
    return [_in_its_run(references, kill) for kill in drawn] if len(references) > 1 else drawn


def step_seconds(references: Sequence[Reference]) -> float:
    """The typical duration of a step."""
    return sum(reference.seconds for reference in references) / max(sum(each.steps for each in references), 1)


def _in_its_run(references: Sequence[Reference], kill: Kill) -> Kill:
    before = 0
    for reference in references:
        if kill.step <= before + reference.steps:
            break
        before += reference.steps
    return replace(kill, step=kill.step - before, run=reference.name)


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


def _runs(folder: Path) -> Iterator[tuple[str, list[Checkpoint]]]:
    found = [(child.name, Run(str(child)).checkpoints()) for child in sorted(folder.glob("*/")) if child.is_dir()]
    if not any(checkpoints for _, checkpoints in found):
        raise ResumableError(
            "the command ended without a failure, but wrote no run where RESUMABLE_RUN told it to",
            "does it train with a resumable.Trainer? Config.load(..., run=...) beats RESUMABLE_RUN: leave it out",
        )
    return ((name, checkpoints) for name, checkpoints in found if checkpoints)


def _refuse_undrillable(reference: Reference) -> None:
    if not reference.final.manifest.finished or not reference.steps:
        raise ResumableError(
            f"the command ended, but its run {reference.name} is not finished: it stands at step {reference.steps}",
            "let the loops of the trainer end by themselves, or call trainer.stop() before leaving them early",
        )
    if reference.start.step:
        raise ResumableError(
            f"the first checkpoint of the run {reference.name} is of step {reference.start.step}, expected step 0",
            "does the script override `keep`? Configure it in the file: the drill changes it by the environment",
        )


def _copy_start(reference: Reference, source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    shutil.copy2(source / RUN_FILE, target / RUN_FILE)
    shutil.copytree(source / ATTEMPTS, target / ATTEMPTS)
    start = Path(CHECKPOINTS) / reference.start.name
    shutil.copytree(source / start, target / start)


def _quoted(ended: Ended) -> str:
    return "".join(f"\n  | {line}" for line in ended.tail)
