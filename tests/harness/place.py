"""Launches programs of a framework in forks, kills and reruns them, and compares. Independent of any framework.

A program is a function `(callbacks, **options)` that makes a trainer with these callbacks and trains. Launched in the
folder `here` of a test, it gets a callback that notes what happens and kills where it is asked to, and `Resume`.
Interrupted and uninterrupted run live at the same path, one after the other, so that nothing but bits tells them
apart.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from resumable import Run
from tests.harness.alarms import alarms_in
from tests.harness.client import ForkServer
from tests.harness.lines import assert_continue_each_other, resumed_from
from tests.lab.compare import differences

PREEMPTED = 75


@dataclass(frozen=True)
class Launch:
    """One launch: where a signal ends it ("train:8": in the end of step 8), and the step of its last checkpoint.

    The signal is SIGKILL, or the one behind an exclamation mark ("train:8!SIGTERM").
    """

    kill: str | None = None
    saved: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The expected exit code."""
        if self.kill is None:
            return 0
        return PREEMPTED if "!" in self.kill else -signal.SIGKILL


def killed(kill: str, *, saved: int, **options: Any) -> Launch:
    """A launch that ends by SIGKILL there, once the checkpoint of step `saved` is published."""
    return Launch(kill, saved, options)


def preempted(kill: str, *, saved: int, **options: Any) -> Launch:
    """A launch that SIGTERM ends there, with the checkpoint of step `saved`."""
    return Launch(f"{kill}!SIGTERM", saved, options)


@dataclass(frozen=True)
class Ended:
    """What one launch left: what happened, in order, and what it printed."""

    events: list[str]
    output: str

    @property
    def resumed_from(self) -> int | None:
        """The step of the checkpoint that it went on from."""
        return resumed_from(self.output)


class Place:
    """The folder of one test and the program that is run in it. A subclass says by which server and function."""

    server: ClassVar[Callable[[], ForkServer]]
    call: ClassVar[str]  # `module:function` of the child; it is given `program`, `events`, `kill` and `options`
    ignored: ClassVar[re.Pattern[str]]  # lines of differences that say nothing of the training

    def __init__(self, folder: Path, program: str, **options: Any) -> None:
        self.folder = folder
        self.program = program
        self.options = options
        self._launches = 0

    @property
    def here(self) -> Path:
        return self.folder / "here"

    def launch(self, launch: Launch | None = None) -> Ended:
        """Launch once, and assert that it ended as it was meant to."""
        launch = launch or Launch()
        self._launches += 1
        self.here.mkdir(exist_ok=True)
        until_a_later_second(self.here)
        side = self.folder / f"{self._launches:02}"
        code = (
            type(self)
            .server()
            .launch(
                self.call,
                out=Path(f"{side}.out"),
                folder=self.here,
                program=self.program,
                events=f"{side}.events",
                kill=launch.kill,
                options={**self.options, **launch.options},
            )
        )
        output = Path(f"{side}.out").read_text("utf-8", "replace")
        assert code == launch.exit_code, f"{launch} of {self.program} ended with {code}:\n{output}"
        assert alarms_in(output) == [], "nothing is missing in these programs"
        events = Path(f"{side}.events")
        return Ended(events.read_text("utf-8").splitlines() if events.exists() else [], output)

    def keep_as(self, name: str) -> Path:
        """Move what is here away under another name, so that the next launch begins with nothing."""
        return self.here.rename(self.folder / name)

    def crash_and_rerun(self, *launches: Launch) -> tuple[Ended, list[Ended]]:
        """Run undisturbed, then through `launches` and a last, undisturbed one; assert that all is equal.

        Compared are the final checkpoints, bit for bit, and every event of every launch, also of what ran twice.
        Returns what the undisturbed run left, and what each launch of the other one did.
        """
        whole = self.launch()
        reference = self.keep_as("whole")
        ended = [self.launch(launch) for launch in [*launches, Launch()]]
        for launch, after in zip(launches, ended[1:], strict=True):
            assert after.resumed_from == launch.saved, after.output
        continue_each_other(ended, whole)
        found = differences(Run(str(self.here / "run")), Run(str(reference / "run")))
        different = [line for line in found if not self.ignored.match(line)]
        assert not different, "\n".join(different[:20])
        return whole, ended


def continue_each_other(ended: Sequence[Ended], whole: Ended) -> None:
    """Assert that each launch did what the whole run did from some point on, and that none left anything out."""
    for number, launch in enumerate(ended, 1):
        assert launch.events, f"launch {number} did nothing:\n{launch.output}"
    assert_continue_each_other([launch.events for launch in ended], whole.events)


def until_a_later_second(folder: Path) -> None:
    """Wait until a new event file of TensorBoard comes after all that are below this folder, in the order of names.

    TensorBoard reads files in that order. A name has the second and then the process number, and is compared as text:
    in one second, process 10000 comes before process 9999. Only forked launches are quick enough to share a second.
    """
    newest = max((int(path.name.split(".")[3]) for path in folder.rglob("events.out.tfevents.*")), default=0)
    while (ahead := newest + 1 - time.time()) > 0:
        time.sleep(ahead)
