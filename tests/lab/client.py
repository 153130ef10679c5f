"""Launches scenarios in forks, crashes and reruns them, and compares the ends. Independent of any scenario."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resumable import Run
from tests.harness.client import ForkServer, shared_server
from tests.lab.compare import differences

PREEMPTED, INTERRUPTED = 75, 130


@dataclass(frozen=True)
class Launch:
    """One launch of a scenario: what ends it (a kill point, a signal that it sends itself, or nothing), and how.

    `kill` is RESUMABLE_KILL's POINT:STEP[+SECONDS]; `options` are laid over the scenario's common ones.
    """

    kill: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    exit: int = 0


def killed(point: str, **options: Any) -> Launch:
    """A launch that ends by SIGKILL at the named point."""
    return Launch(kill=point, options=options, exit=-signal.SIGKILL)


def signalled(name: str, step: int, **options: Any) -> Launch:
    """A launch that sends itself a signal in the body of `step` and leaves with the exit code that says so."""
    code = INTERRUPTED if name == "SIGINT" else PREEMPTED
    return Launch(options={"signal": name, "signal_at": step, **options}, exit=code)


@dataclass(frozen=True)
class Ended:
    """What one launch left: exit code (negative for a signal), printed lines, batches seen, the kill that landed."""

    exit: int
    output: str
    batches: dict[str, str]
    kill: dict[str, Any] | None


class Bench:
    """The run folders of one test, under `folder`, and the scenario that is run in them."""

    def __init__(self, lab: ForkServer, folder: Path, scenario: str, **options: Any) -> None:
        self.lab = lab
        self.folder = folder
        self.scenario = scenario
        self.options = options
        self._launches = 0

    def path(self, run: str) -> Path:
        """The folder of a run."""
        return self.folder / run

    def url(self, run: str) -> str:
        """What a launch is told as its run."""
        return str(self.path(run))

    def open(self, run: str) -> Run:
        """The read side of a run."""
        return Run(self.url(run))

    def launch(self, run: str, launch: Launch | None = None) -> Ended:
        """Launch once, and assert that it ended as it was meant to, where it was meant to."""
        launch = launch or Launch()
        self._launches += 1
        side = self.folder / f"{run}.{self._launches:03}"
        log = Path(f"{side}.kill")
        env = {"RESUMABLE_KILL": launch.kill, "RESUMABLE_KILL_LOG": str(log)} if launch.kill else {}
        batches = Path(f"{side}.batches")
        code = self.lab.launch(
            "tests.lab.scenarios:run",
            out=Path(f"{side}.out"),
            environment=env,
            name=self.scenario,
            url=self.url(run),
            options={**self.options, **launch.options},
            batches=str(batches),
        )
        output = Path(f"{side}.out").read_text("utf-8", "replace")
        kill = json.loads(log.read_text("utf-8")) if log.exists() else None
        ended = Ended(code, output, _read_batches(batches), kill)
        assert code == launch.exit, f"{launch} of {self.scenario} ended with {code}:\n{output}"
        if launch.kill:
            _assert_landed(launch.kill, ended)
        return ended

    def crash_and_rerun(self, launches: Sequence[Launch], *, reference: Launch | None = None) -> list[Ended]:
        """Run once undisturbed and once through `launches` and a last, undisturbed one; assert that all is equal.

        Compared are the final checkpoints, bit for bit, and the batches and losses of every step that ran, also of
        those that ran again. Returns what the launches of the disturbed run left.
        """
        whole = self.launch("whole", reference)
        ended = [self.launch("crashed", launch) for launch in [*launches, Launch()]]
        self.assert_equal("crashed", "whole", ended, [whole])
        return ended

    def crash_until_finished(self, *runs: Sequence[Launch], reference: Launch | None = None) -> None:
        """As `crash_and_rerun`, for kills at random: those left when the final save is committed are dropped.

        Each sequence of launches is a run of its own, compared with the same undisturbed one; it ends with a launch
        that has the options of its last one.
        """
        whole = self.launch("whole", reference)
        for number, launches in enumerate(runs):
            name = f"crashed-{number}"
            ended = []
            for launch in launches:
                ended.append(self.launch(name, launch))
                if self._is_finished(name):
                    break
            ended.append(self.launch(name, Launch(options=launches[-1].options)))
            self.assert_equal(name, "whole", ended, [whole])

    def _is_finished(self, run: str) -> bool:
        checkpoints = self.open(run).checkpoints()
        return bool(checkpoints) and checkpoints[-1].manifest.finished

    def assert_equal(self, run: str, other: str, ended: Sequence[Ended], reference: Sequence[Ended]) -> None:
        """The final checkpoints of two runs hold the same bits, and their launches saw the same batches."""
        expected: dict[str, str] = {}
        for launch in reference:
            expected |= launch.batches
        seen: set[str] = set()
        for number, launch in enumerate(ended, 1):
            for where, line in launch.batches.items():
                assert expected.get(where) == line, f"launch {number} differs at {where}: {line}, {expected.get(where)}"
            seen |= launch.batches.keys()
        missing = expected.keys() - seen
        assert not missing, f"never ran: {sorted(missing)}"
        different = differences(self.open(run), self.open(other))
        assert not different, "\n".join(different[:20])


def shared_lab() -> ForkServer:
    """Return the one fork server of this pytest worker that has imported all scenarios."""
    return shared_server("tests.lab.scenarios:preload")


def _read_batches(path: Path) -> dict[str, str]:
    """`where -> digests` of one launch, where no step may have run twice."""
    if not path.exists():
        return {}
    lines = [line.rsplit(" ", 1) for line in path.read_text("utf-8").splitlines()]
    batches = dict(lines)
    assert len(batches) == len(lines), "one launch saw the same step twice"
    return batches


def _assert_landed(kill: str, ended: Ended) -> None:
    point, _, rest = kill.partition(":")
    assert ended.kill is not None, f"{kill} did not land:\n{ended.output}"
    assert ended.kill["point"] == point
    assert ended.kill["step"] >= int(rest.partition("+")[0])
