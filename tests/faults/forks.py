"""Launches writers under test as forks of a server that has torch imported; knows no fault.

A child that reaches a point at which it was asked to stop says so and waits, so that a fault can be prepared there: a
tracer attached, a disk filled. `python -m tests.faults.forks FILE_DESCRIPTOR` is the server.
"""

from __future__ import annotations

import faulthandler
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from tests.faults.sharing import SHARING
from tests.faults.subjects import PEERS, SUBJECTS, Deaf, Subject

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 100.0
CHILD_SECONDS = 60.0
MAX_MESSAGE_BYTES = 65536


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

    def __init__(self, forks: Forks, line: socket.socket, out: Path) -> None:
        self._forks = forks
        self._line = line
        self._out = out
        self.pid = int(line.recv(MAX_MESSAGE_BYTES))

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
        """Wait for its end, at which it is let go of; asked once."""
        code = self._forks.answer()["exit"]
        self._line.close()
        return int(code)

    def output(self) -> str:
        """What it logged and printed."""
        return self._out.read_text("utf-8", "replace")


class Forks:
    """The server, for the length of a `with` block. One child at a time."""

    def __enter__(self) -> Self:
        self._outputs = tempfile.TemporaryDirectory()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forks", str(theirs.fileno())],
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._control.settimeout(START_SECONDS)
        self.answer()
        self._control.settimeout(CHILD_SECONDS + 10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        self._server.wait(CHILD_SECONDS + 10)
        self._outputs.cleanup()

    def launch(self, subject: Subject, place: Place, *, until: int, stops: Sequence[str] = (), **options: Any) -> Child:
        """Start a child that trains on to step `until` and stops at the points named."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.settimeout(CHILD_SECONDS)
        out = Path(self._outputs.name) / "out"
        request = {
            "subject": subject.name,
            "folder": str(place.folder),
            "until": until,
            "stops": list(stops),
            "options": subject.options | options,
            "out": str(out),
        }
        out.unlink(missing_ok=True)
        socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno()])
        theirs.close()
        return Child(self, mine, out)

    def finish(self, subject: Subject, place: Place, *, until: int, **options: Any) -> str:
        """Launch once more, undisturbed, and expect the end; what it logged."""
        child = self.launch(subject, place, until=until, **options)
        assert child.exit_code() == 0, child.output()
        return child.output()

    def answer(self) -> dict[str, Any]:
        reply = self._control.recv(MAX_MESSAGE_BYTES)
        if not reply:
            raise ConnectionError("the fork server ended")
        answered: dict[str, Any] = json.loads(reply)
        return answered


# -- the server and its children --------------------------------------------------------------------------------------


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


def serve(control: socket.socket) -> None:
    """Fork a child for each request until the other end is closed; answer with its exit code."""
    _import_once()
    control.send(b"{}")
    while True:
        try:
            data, files, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 1)
        except ConnectionResetError:  # the other end was closed before it read the last answer
            return
        if not data:
            return
        line = socket.socket(fileno=files[0])
        child = os.fork()
        if child == 0:
            control.close()
            _run(json.loads(data), line)
        line.close()
        _, status = os.waitpid(child, 0)
        control.send(json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode())


def _import_once() -> None:
    """Save with everyone once, for what they import when they are first used."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as sys.stderr:
        for subject in (*PEERS, *SHARING):
            place = Place.make(Path(folder) / subject.name)
            subject.train(place.run, 1, Deaf(), **subject.options)
    sys.stderr = sys.__stderr__


def _run(request: Mapping[str, Any], line: socket.socket) -> NoReturn:
    code = 1
    try:
        _begin(request["out"])
        line.send(str(os.getpid()).encode())
        place = Place(Path(request["folder"]))
        ear = Line(line, frozenset(request["stops"]), place.told)
        ear.watch()
        subject = {**SUBJECTS, **{each.name: each for each in SHARING}}[request["subject"]]
        subject.train(place.run, request["until"], ear, **request["options"])
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _begin(out: str) -> None:
    log = os.open(out, os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = Out(log)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    # A child that hangs says where, and ends: nothing else would end it.
    faulthandler.dump_traceback_later(CHILD_SECONDS, exit=True, file=log)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
