"""Launches cases as forks of one server that has Lightning imported, kills and reruns them; knows no case.

Interrupted and uninterrupted runs of a case live at the same path, one after the other, so that nothing but bits can
tell them apart.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import importlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from resumable import Run
from tests.lab.compare import differences

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 120.0
LAUNCH_SECONDS = 60.0
PREEMPTED = 75


@dataclass(frozen=True)
class Ended:
    """What one launch left: its lines in the notes, what it printed, and, of one that came to its end, digests."""

    notes: list[str]
    output: str
    end: dict[str, str]

    @property
    def resumed_from(self) -> int | None:
        """The step of the checkpoint that it went on from."""
        found = re.search(r"RESUME\s+step=(\d+)", self.output)
        return int(found[1]) if found else None


class Bench:
    """All runs of one case, one after the other at one path."""

    def __init__(self, folder: Path, case: str) -> None:
        self.folder, self.case = folder, case
        self.folder.mkdir(parents=True)
        self._kept = 0

    @functools.cached_property
    def whole(self) -> Ended:
        """The uninterrupted run, made once."""
        with self.afresh("whole"):
            return self.launch()

    @contextlib.contextmanager
    def afresh(self, name: str) -> Iterator[Path]:
        """An empty folder for a run, which is kept under that name afterwards."""
        here = self.folder / "here"
        try:
            yield here
        finally:
            shutil.rmtree(self.folder / name, ignore_errors=True)  # of a try that failed
            here.rename(self.folder / name)

    def launch(self, *options: str, exit: int = 0) -> Ended:
        """Launch once, and assert that it ended as it was meant to."""
        self._kept += 1
        here, out = self.folder / "here", self.folder / f"{self._kept:02}.out"
        before = len(_lines(here / "notes"))
        code = server().launch(arguments=[self.case, str(here), *options], out=str(out))
        output = out.read_text("utf-8", "replace")
        assert code == exit, f"{self.case} {' '.join(options)} ended with {code}, not {exit}:\n{output}"
        end = json.loads((here / "end.json").read_text("utf-8")) if exit == 0 else {}
        return Ended(_lines(here / "notes")[before:], output, end)

    def crash_and_rerun(self, *places: str) -> list[Ended]:
        """Let launches die at those places, one after the other, and then one live; assert that all is as if none had.

        Compared are everything that each launch noted, the digests of the end, and the last checkpoints, bit for bit.
        """
        whole = self.whole
        with self.afresh(f"{self._kept:02}") as here:
            ended = [self.launch("--kill-at", place, exit=_exit_of(place)) for place in places]
            ended.append(self.launch())
            assert_continue_each_other(ended, whole)
            assert_equal_ends(ended[-1].end, whole.end)
            found = differences(Run(str(here / "run")), Run(str(self.folder / "whole" / "run")))
            assert not found, "\n".join(found[:20])
        return ended


def _exit_of(place: str) -> int:
    return PREEMPTED if place.endswith("!SIGTERM") else -signal.SIGKILL


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []


def assert_continue_each_other(ended: list[Ended], whole: Ended) -> None:
    """Each launch noted what the whole run did from some point on, and together they left nothing out."""
    _assert_equal_lines(ended[0].notes, whole.notes[: len(ended[0].notes)], "the first launch")
    last = ended[-1].notes
    _assert_equal_lines(last, whole.notes[len(whole.notes) - len(last) :], "the last launch")
    reached = len(ended[0].notes)
    for number, launch in enumerate(ended[1:], 2):
        assert launch.resumed_from, f"launch {number} did not resume behind step 0:\n{launch.output}"
        if launch.notes:
            start = whole.notes.index(launch.notes[0])
            assert start <= reached, f"launch {number} left out {whole.notes[reached:start]}"
            reached = start + len(launch.notes)
            _assert_equal_lines(launch.notes, whole.notes[start:reached], f"launch {number}")
    assert reached == len(whole.notes), f"never ran: {whole.notes[reached:]}"


def _assert_equal_lines(found: list[str], expected: list[str], who: str) -> None:
    for number, (one, other) in enumerate(zip(found, expected, strict=False)):
        assert one == other, f"{who}, line {number} of {len(found)}, {len(expected)} expected:\n{one}\n{other}"
    assert len(found) == len(expected), f"{who} noted {len(found)} lines, expected {len(expected)}: {found[-3:]}"


def assert_equal_ends(found: dict[str, str], expected: dict[str, str]) -> None:
    """The same names in the same order, with the same digests; the first that differ are named."""
    different = [
        f"{key}: {found.get(key)}, expected {expected.get(key)}"
        for key in {**expected, **found}
        if found.get(key) != expected.get(key)
    ]
    assert not different, f"{len(different)} differ: " + "\n".join(different[:12])


# ---- the client


class Server:
    """One program with Lightning imported that forks a child for each launch. Start it with `with`."""

    def __enter__(self) -> Self:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RESUMABLE_")}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.lightning.running"],
            cwd=REPOSITORY,
            env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reply(START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait(LAUNCH_SECONDS)
        self._server.stdout.close()

    def launch(self, **request: Any) -> int:
        """Run one child to its end; its exit code, negative for a signal. A child that hangs ends with 1."""
        assert self._server.stdin
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._reply(LAUNCH_SECONDS + 10)["exit"])

    def _reply(self, timeout_seconds: float) -> dict[str, Any]:
        assert self._server.stdout
        ready, _, _ = select.select([self._server.stdout], [], [], timeout_seconds)
        line = self._server.stdout.readline() if ready else ""
        if not line:
            self._server.kill()
            raise TimeoutError(f"the fork server did not answer within {timeout_seconds:.0f} s")
        reply: dict[str, Any] = json.loads(line)
        return reply


@functools.cache
def server() -> Server:
    """The one fork server of this pytest worker, started when it is first asked for, ended with the interpreter."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(Server())


# ---- the server and its children


def serve() -> None:
    """Fork a child per request until stdin ends. One at a time: a launch is over before the next begins."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in ("resumable.lightning", "tests.lightning.script"):
        importlib.import_module(name)
    # What constructing an optimizer imports anyway, and what takes longest.
    import torch._dynamo

    torch.set_num_threads(1)
    print(json.dumps({"ready": os.getpid()}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            replies.close()
            _run(request)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"exit": os.waitstatus_to_exitcode(status)}), file=replies, flush=True)


def _run(request: dict[str, Any]) -> NoReturn:
    """The child: train, and leave as the interpreter would; returns to nobody."""
    code = 70
    try:
        _begin(request["out"])
        code = _exit_code_of(request["arguments"])
        threading._shutdown()  # as the interpreter ends: threads, then atexit
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _begin(out: str) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    # A child that hangs says where, and ends: nothing else would end it.
    faulthandler.dump_traceback_later(LAUNCH_SECONDS, exit=True)


def _exit_code_of(arguments: list[str]) -> int:
    from tests.lightning.script import main

    try:
        main(arguments)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
