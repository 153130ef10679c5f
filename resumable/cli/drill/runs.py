"""The runs of a drill: one undisturbed, one that is killed again and again, both to their ends. Prints nothing.

The undisturbed launch and the first one that is killed start as the user's own command does. The others start warm,
where that is possible: see `warm_server`.

The undisturbed run saves only at its start and at its end, so that the drill tests saving, too. The killed run begins
with a copy of its run.json and of its first checkpoint, and saves as the user's config says. Hence a script that
seeds nothing has the same start in both, as it would after a crash before its first interval.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resumable.cli.drill.printed_lines import MAX_LINES
from resumable.cli.drill.run_command import CommandResult, Show, run_command
from resumable.cli.drill.warm_python import WarmPython
from resumable.config.run_variable import DRILL
from resumable.errors import ResumableError
from resumable.run.checkpoint import Checkpoint
from resumable.run.run import Run
from resumable.store.journal.records import MetricsRecord
from resumable.store.layout import ATTEMPTS, CHECKPOINTS, RUN_FILE
from resumable.utils.failpoints import Kill

REFERENCE, DRILLED = "reference", "drilled"
FIRST = 2  # the number of the first launch of the killed run: attempt 1 wrote the start
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
    """One run of the undisturbed command; `name` is the name of its folder."""

    name: str
    start: Checkpoint
    final: Checkpoint

    @property
    def steps(self) -> int:
        """The steps that it trained; a run that takes a training over does not begin at 0."""
        return self.final.step - self.start.step

    @property
    def seconds(self) -> float:
        """The duration of its training, without the time that Python and torch take to start."""
        return max(self.final.manifest.created - self.start.manifest.created, 0.0)


@dataclass(frozen=True)
class DrillAttempt:
    """One launch of the killed command. Where no kill landed, `killed_at_step` and `point` are None.

    `run` is the run to kill, or the last run where none was armed; steps are those of that run.
    """

    attempt: int
    run: str
    resumed_from_step: int
    steps_replayed: int
    armed: str | None
    point: str | None
    killed_at_step: int | None
    warm: bool


class DrillRuns:
    """Launches one command, with all its runs in two folders below `scratch`: undisturbed, and killed.

    `show` is called with every line that the command prints, and `warm` starts what is not to start as the user's own
    command. A failure that is not a kill raises `ResumableError`.
    """

    def __init__(self, command: Sequence[str], scratch: Path, *, show: Show, warm: WarmPython) -> None:
        self.command = command
        self.scratch = scratch
        self.printed: dict[str, deque[str]] = {side: deque(maxlen=MAX_LINES) for side in (REFERENCE, DRILLED)}
        self._show = show
        self._warm = warm
        self._alone: str | None = None  # the only run of the command, which may have another name at each launch

    def run_undisturbed(self) -> list[Reference]:
        """Run the command once from beginning to end, and return its runs in the order in which they began."""
        folder = self.scratch / REFERENCE
        environment = launch_environment(_where(folder), UNDISTURBED)
        ended = run_command(self.command, environment=environment, show=self._record(REFERENCE))
        if ended.code:
            raise ResumableError(
                f"COMMAND failed in the undisturbed run: {ended}{_tail(ended)}",
                "make it run to its end once; it is launched in this folder, with RESUMABLE_RUN set to a scratch run",
            )
        references = [Reference(name, found[0], found[-1]) for name, found in _runs(folder)]
        for reference in references:
            _refuse_undrillable(reference)
        return sorted(references, key=lambda reference: reference.start.manifest.created)

    def run_killed(
        self,
        references: Sequence[Reference],
        kills: Sequence[Kill],
        announce: Callable[[int, int, Kill | None], None],
    ) -> Iterator[DrillAttempt]:
        """Launch the command with one kill armed after the other, and at last with none, until it has finished.

        `announce` is called with the number of each attempt, the step that it resumes from, and the kill.
        """
        self._alone = references[0].name if len(references) == 1 else None
        for reference in references:
            _copy_start(reference, self.scratch / REFERENCE / reference.name, self._drilled(reference.name))
        killed_at: dict[str, int] = {}
        for number, armed in enumerate([*kills, None], start=FIRST):
            name = (armed.run if armed else None) or references[-1].name
            resumed = Run(str(self._drilled(name))).latest()
            announce(number, resumed.step, armed)
            (point, killed_now), warm = self._launch(armed, cold=number == FIRST)
            self._refuse_renamed({reference.name for reference in references})
            replayed = max(killed_at.get(name, 0) - resumed.step, 0)
            text = str(armed) if armed else None
            yield DrillAttempt(number, name, resumed.step, replayed, text, point, killed_now, warm)
            if killed_now is None:
                break
            killed_at[name] = killed_now
        for reference in references:
            self._refuse_unfinished(reference.name)

    def final(self, reference: Reference) -> Checkpoint:
        """Return the last checkpoint of the killed run that belongs to `reference`."""
        return Run(str(self._drilled(reference.name))).latest()

    def metrics(self, side: str, reference: Reference) -> list[MetricsRecord]:
        """Return what the run of `reference` logged on this side."""
        return Run(str(self.scratch / side / reference.name)).metrics_history()

    def _drilled(self, name: str) -> Path:
        return self.scratch / DRILLED / name

    def _record(self, side: str) -> Show:
        def show(line: str) -> None:
            self.printed[side].append(line)
            self._show(line)

        return show

    def _launch(self, armed: Kill | None, *, cold: bool) -> tuple[tuple[str | None, int | None], bool]:
        """Launch once more; return where it was killed, at which step, and whether it started warm."""
        log = self.scratch / "kills.jsonl"
        log.unlink(missing_ok=True)
        kill = {"RESUMABLE_KILL": str(armed), "RESUMABLE_KILL_LOG": str(log)} if armed else {}
        environment, show = launch_environment(self._where(), kill), self._record(DRILLED)
        warm = None if cold else self._warm.launch(environment, show)
        ended = warm or run_command(self.command, environment=environment, show=show)
        # Trust the log, not the exit code: a launcher around the training may have its own.
        if log.exists():
            line = json.loads(log.read_text().splitlines()[-1])
            return (line["point"], line["step"]), ended.warm
        if ended.code:
            raise ResumableError(
                f"COMMAND failed after a resume, and no kill of the drill was the cause: {ended}{_tail(ended)}",
                f"reproduce it: {self._setting()} with the same command",
            )
        return (None, None), ended.warm

    def _where(self) -> dict[str, str]:
        return _where(self.scratch / DRILLED, self._alone)

    def _setting(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self._where().items() if value)

    def _refuse_renamed(self, names: set[str]) -> None:
        found = {child.name for child in (self.scratch / DRILLED).iterdir() if (child / RUN_FILE).exists()}
        unexpected = sorted(found - names)
        if unexpected:
            raise ResumableError(
                f"COMMAND trains runs of other names at each launch: {', '.join(unexpected)}, expected "
                f"{', '.join(sorted(names))}",
                "name each run the same at every launch, without a time or a random part, so that it can resume",
            )

    def _refuse_unfinished(self, name: str) -> None:
        final = Run(str(self._drilled(name))).latest()
        if not final.manifest.finished:
            raise ResumableError(
                f"COMMAND ended with exit code 0, but its run {name} is unfinished at step {final.step}",
                f"launch it with {self._setting()} to see why its loops stop early",
            )


def _where(folder: Path, run: str | None = None) -> dict[str, str]:
    """Return the variables that place each run in its own folder below `folder`; or all runs in that of `run`."""
    return {"RESUMABLE_RUN": str(folder / run if run else folder), DRILL: "" if run else "1"}


def launch_environment(where: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a launch: that of the drill, `where` its runs are, and `more`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RESUMABLE_KILL")}
    # Unbuffered, or a kill loses what was printed before it.
    ours = {"PYTHONUNBUFFERED": "1", "RESUMABLE_RESUME": "auto", "RESUMABLE_JOURNAL__MODE": "metrics"}
    return {**inherited, **ours, **where, **more}


def _runs(folder: Path) -> Iterator[tuple[str, list[Checkpoint]]]:
    found = [(child.name, Run(str(child)).checkpoints()) for child in sorted(folder.glob("*/")) if child.is_dir()]
    if not any(checkpoints for _, checkpoints in found):
        raise ResumableError(
            "COMMAND ended with exit code 0, but wrote no run into the folder of RESUMABLE_RUN",
            "does it train with a resumable.Trainer? Config.load(..., run=...) overrides RESUMABLE_RUN: leave it out",
        )
    return ((name, checkpoints) for name, checkpoints in found if checkpoints)


def _refuse_undrillable(reference: Reference) -> None:
    if not reference.final.manifest.finished or not reference.steps:
        raise ResumableError(
            f"COMMAND ended, but its run {reference.name} is unfinished at step {reference.final.step}",
            "let the loops of the trainer end by themselves, or call trainer.stop() before leaving them early",
        )
    if reference.start.manifest.reason != "start":
        raise ResumableError(
            f"{reference.name}: its first checkpoint is of step {reference.start.step}, expected that of its beginning",
            "does the script override `keep`? Set it in the config file: the drill changes it by the environment",
        )


def _copy_start(reference: Reference, source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    shutil.copy2(source / RUN_FILE, target / RUN_FILE)
    shutil.copytree(source / ATTEMPTS, target / ATTEMPTS)
    start = Path(CHECKPOINTS) / reference.start.name
    shutil.copytree(source / start, target / start)


def _tail(ended: CommandResult) -> str:
    return "".join(f"\n  | {line}" for line in ended.tail)
