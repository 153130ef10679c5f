"""Launches writers under test in forks of a server that has torch imported. Independent of any fault.

A child that reaches a point at which it was asked to stop says so and waits, so that a fault can be prepared there: a
tracer attached, a disk filled.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults.sharing import SHARING
from tests.faults.subjects import PEERS, SUBJECTS, Deaf, Subject
from tests.harness import client as harness
from tests.harness.client import LAUNCH_SECONDS, ForkServer
from tests.harness.server import MAX_MESSAGE_BYTES


@dataclass(frozen=True)
class Place:
    """Where one writer works: in `run`, which it makes; `told` holds an empty folder for each step it called safe."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Place:
        place = cls(folder)
        place.told.mkdir(parents=True)
        return place

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def told(self) -> Path:
        return self.folder / "told"

    def acknowledged(self) -> int | None:
        """The newest step that the writer called safe."""
        return max((int(path.name) for path in self.told.iterdir()), default=None)


class Child:
    """One launch of a writer. `pid` is its own; `exit_code` is negative for a signal, as in `subprocess`."""

    def __init__(self, launched: harness.Child, line: socket.socket, out: Path) -> None:
        self.pid = launched.pid
        self._launched = launched
        self._line = line
        self._out = out

    def stopped_at(self) -> str | None:
        """Wait until it stops at a point, and name that; None if it ended."""
        try:
            return self._line.recv(MAX_MESSAGE_BYTES).decode() or None
        except ConnectionResetError:
            return None

    def go_on(self) -> None:
        self._line.send(b"on")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.exit_code() == -signal.SIGKILL

    def exit_code(self) -> int:
        """Wait for its end, at which it is let go of; to be called once."""
        code = self._launched.exit_code()
        self._line.close()
        return code

    def output(self) -> str:
        """What it logged and printed."""
        return self._out.read_text("utf-8", "replace")


class Forks:
    """The server, for the length of a `with` block. One child at a time."""

    def __enter__(self) -> Self:
        self._outputs = tempfile.TemporaryDirectory()
        self._server = ForkServer("tests.faults.forks:save_with_everyone_once").__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)
        self._outputs.cleanup()

    def launch(self, subject: Subject, place: Place, *, until: int, stops: Sequence[str] = (), **options: Any) -> Child:
        """Start a child that trains on to step `until` and stops at the points named."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.settimeout(LAUNCH_SECONDS)
        out = Path(self._outputs.name) / "out"
        out.unlink(missing_ok=True)
        launched = self._server.start(
            "tests.faults.forks:train",
            out=out,
            line=theirs,
            subject=subject.name,
            place=str(place.folder),
            until=until,
            stops=list(stops),
            options=subject.options | options,
        )
        theirs.close()
        return Child(launched, mine, out)

    def finish(self, subject: Subject, place: Place, *, until: int, **options: Any) -> str:
        """Launch once more, undisturbed, and expect the end; what it logged."""
        child = self.launch(subject, place, until=until, **options)
        assert child.exit_code() == 0, child.output()
        return child.output()


# -- the child ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A child's ear: the other end of its line, where it stops, and the folder of what was told."""

    line: socket.socket
    stops: frozenset[str]
    told: Path

    def reach(self, point: str) -> None:
        if point in self.stops:
            self.line.send(point.encode())
            self.line.recv(MAX_MESSAGE_BYTES)

    def tell(self, step: int) -> None:
        with suppress(FileExistsError):
            (self.told / str(step)).mkdir()

    def watch(self) -> None:
        """Stop also where a folder is about to be made, by its name: in the middle of a save."""

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "os.mkdir":
                self.reach(f"mkdir {os.path.basename(arguments[0])}")

        sys.addaudithook(hook)


class Out(io.TextIOBase):
    """Text into a file by a system call that no writer under test makes, so that a fault in theirs never hits it."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._length = 0
        self._guard = threading.Lock()

    def write(self, text: str) -> int:
        data = text.encode()
        with self._guard:
            os.pwrite(self._file, data, self._length)
            self._length += len(data)
        return len(text)


def save_with_everyone_once() -> None:
    """Save with everyone once, for what they import when they are first used."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as sys.stderr:
        for subject in (*PEERS, *SHARING):
            place = Place.make(Path(folder) / subject.name)
            subject.train(place.run, 1, Deaf(), **subject.options)
    sys.stderr = sys.__stderr__


def train(
    line: socket.socket, subject: str, place: str, until: int, stops: Sequence[str], options: dict[str, Any]
) -> None:
    """Train with the named writer on to step `until`, stopping at the points named."""
    sys.stdout = sys.stderr = Out(1)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    where = Place(Path(place))
    ear = Line(line, frozenset(stops), where.told)
    ear.watch()
    {**SUBJECTS, **{each.name: each for each in SHARING}}[subject].train(where.run, until, ear, **options)
