"""Kills a writer, or fails it, at one system call that touches its folder; knows nothing of what the writer means.

A dry run under strace counts the calls; then each is hit once, in a fresh child. strace's counter is per thread and per
system call, so a phase of the work in which one thread does everything is traced at a time, from a stop of the child
before it to a stop after it. Every injection is proved from the trace: it landed, once, at a call on the folder.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.forks import Child, Forks, Place
from tests.faults.subjects import Subject
from tests.faults.verdicts import Verdict, judge

KILL, FAULTS = "SIGKILL", ("SIGKILL", "ENOSPC", "EIO")

CALLS = (
    *("write", "writev", "pwrite64", "pwritev", "pwritev2", "copy_file_range", "sendfile", "ftruncate", "fallocate"),
    *("openat", "creat", "fsync", "fdatasync", "sync_file_range", "rename", "renameat", "renameat2", "link", "linkat"),
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
)


@dataclass(frozen=True)
class Phase:
    """A part of the work: from one stop to another. `before`: the step that is safe when it begins, 0 for a new run."""

    name: str
    begin: str
    end: str
    before: int = 1


OPEN_NEW = Phase("opening a new run", "open", "start", 0)
START = Phase("the first save", "start", "saved 0", 0)
OPEN_AGAIN = Phase("opening a run again", "open", "start")
SAVE = Phase("a save and its pruning", "save 2", "saved 2")

UNTIL = 3
DETACH_SECONDS = 30.0


@dataclass(frozen=True)
class Point:
    """The `number`th `call` of a thread; `line` is how the dry run saw it."""

    call: str
    number: int
    line: str

    def __str__(self) -> str:
        return f"{self.call} {self.number}"


@dataclass(frozen=True)
class Injection:
    """One fault that landed: what the folder held then, and at the end of the program where it lived on."""

    fault: str
    point: Point
    verdicts: tuple[Verdict, ...]
    acknowledged: int | None
    exit_code: int
    output: str
    place: Place


class Bench:
    """One subject in one phase, under a folder that is made anew for every injection."""

    def __init__(self, forks: Forks, subject: Subject, phase: Phase, folder: Path) -> None:
        self.forks, self.subject, self.phase = forks, subject, phase
        self._folder = folder
        self._before = Place.make(folder / "before")
        if phase.before:
            child = forks.launch(subject, self._before, until=UNTIL, stops=[f"save {phase.before + 1}"])
            assert child.stopped_at() is not None
            child.kill()
            assert self._before.acknowledged() == phase.before

    def points(self) -> list[Point]:
        """Every call of the phase that changes something in the folder, in order."""
        place, child = self._launched()
        tracer = Tracer(child, place, CALLS)
        child.go_on()
        assert child.stopped_at() == self.phase.end, child.output()
        tracer.detach()
        child.kill()
        return tracer.points()

    def inject(self, fault: str, point: Point) -> Injection:
        """Do `fault` at `point`, prove that it landed there, and judge what is left."""
        place, child = self._launched()
        effect = "signal=KILL" if fault == KILL else f"error={fault}"
        tracer = Tracer(child, place, [point.call], f"inject={point.call}:{effect}:when={point.number}")
        child.go_on()
        lives = child.stopped_at() is not None
        tracer.detach() if lives else tracer.wait()
        verdicts = [self._judge_copy(place)] if lives else []
        if lives:
            child.go_on()
        exit_code = child.exit_code()
        tracer.prove(fault, exit_code)
        verdicts.append(self._judge(place))
        return Injection(fault, point, tuple(verdicts), place.acknowledged(), exit_code, child.output(), place)

    def sweep(self, faults: Sequence[str] = FAULTS, *, every: int = 1) -> Iterator[Injection]:
        """Every fault at every point, or at each `every`th, beginning with the last."""
        points = self.points()
        for fault in faults:
            for point in reversed(points[::-1][::every]):
                yield self.inject(fault, point)

    def _launched(self) -> tuple[Place, Child]:
        place = Place(self._folder / "place")
        shutil.rmtree(place.folder, ignore_errors=True)
        shutil.copytree(self._before.folder, place.folder)
        child = self.forks.launch(self.subject, place, until=UNTIL, stops=[self.phase.begin, self.phase.end])
        assert child.stopped_at() == self.phase.begin, child.output()
        return place, child

    def _judge(self, place: Place) -> Verdict:
        return judge(lambda: self.subject.load(place.run), acknowledged=place.acknowledged())

    def _judge_copy(self, place: Place) -> Verdict:
        copy = Place(self._folder / "copy")
        shutil.rmtree(copy.folder, ignore_errors=True)
        shutil.copytree(place.folder, copy.folder)
        return self._judge(copy)


class Tracer:
    """strace on a child that waits at a stop, until `detach` or its end."""

    def __init__(self, child: Child, place: Place, calls: Sequence[str], *expressions: str) -> None:
        self._place = place
        self._log = place.folder / "trace"
        options = [f"trace={','.join(calls)}", *expressions]
        self._strace = subprocess.Popen(
            ["strace", "-f", "-y", "-s", "0", "-o", str(self._log), "-p", str(child.pid)]
            + [word for option in options for word in ("-e", option)],
            stderr=subprocess.PIPE,
            text=True,
        )
        # The child waits in a system call, and is asked to stop in there before this line is printed: so everything
        # that it does from now on is traced.
        assert self._strace.stderr
        line = self._strace.stderr.readline()
        assert "attached" in line, line

    def detach(self) -> None:
        """Let go of a child that waits at a stop."""
        self._strace.terminate()
        self.wait()

    def wait(self) -> None:
        """Wait for its end, which follows that of the child."""
        self._strace.communicate(timeout=DETACH_SECONDS)

    def points(self) -> list[Point]:
        """The calls on the folder that change something there; all in one thread, or numbers would mean nothing."""
        counts: Counter[tuple[str, str]] = Counter()
        found = []
        for thread, call, rest in self._begun():
            counts[thread, call] += 1
            if self._changes(call, rest):
                found.append((thread, Point(call, counts[thread, call], rest)))
        assert len({thread for thread, _ in found}) == 1, found
        return [point for _, point in found]

    def prove(self, fault: str, exit_code: int) -> None:
        """`AssertionError` unless the fault landed, once, at a call that changes something in the folder."""
        if fault == KILL:
            assert exit_code == -signal.SIGKILL, exit_code
            landed = self._begun()[-1:]
        else:
            landed = list(self._injected())
        landed = [begun for begun in landed if self._changes(*begun[1:])]
        assert len(landed) == 1, (fault, self._lines())

    def _injected(self) -> Iterator[tuple[str, str, str]]:
        # Another thread's call, in the middle, splits a line in two; the second half alone says that it was hit.
        last: dict[str, tuple[str, str, str]] = {}
        for line in self._lines():
            if begun := _begun(line):
                last[begun[0]] = begun
            if line.endswith("(INJECTED)"):
                yield last[line.split()[0]]

    def _changes(self, call: str, rest: str) -> bool:
        creates = call != "openat" or "O_CREAT" in rest
        return creates and re.search(re.escape(str(self._place.folder)) + r'([">]|/run[/">])', rest) is not None

    def _begun(self) -> list[tuple[str, str, str]]:
        return [begun for line in self._lines() if (begun := _begun(line))]

    def _lines(self) -> list[str]:
        return self._log.read_text("utf-8", "replace").splitlines()


def _begun(line: str) -> tuple[str, str, str] | None:
    """Thread, call and the rest of a line of strace's at which a call begins."""
    match = re.match(r"(\d+) +(\w+)\((.*)", line)
    return (match[1], match[2], match[3]) if match else None
