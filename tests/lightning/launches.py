"""Launches Lightning programs as forks of one server, kills and reruns them, and compares; knows no program.

A program is a function `(callbacks, **options)` that makes a `pl.Trainer` with these callbacks and fits. Launched in
the folder `here` of a test, it gets a `Watch`, which notes what happens and kills where it is asked to, and `Resume`.
Interrupted and uninterrupted run live at the same path, one after the other, so that nothing but bits tells them
apart.
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
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from resumable import Run
from tests.lab.compare import differences

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 120.0
LAUNCH_SECONDS = 60.0
EVERY_STEPS = 3
# TensorBoard puts a clock and a process number into the names of its files, which a checkpoint says the length of.
EVENT_FILES = re.compile(r"\.state\.objects\.lightning\.beside\.loggers\[\d\]\.files")


@dataclass(frozen=True)
class Launch:
    """One launch: where SIGKILL ends it ("train:8": in the end of step 8), once the save of step `saved` is there."""

    kill: str | None = None
    saved: int = 0
    options: dict[str, Any] = field(default_factory=dict)


def killed(kill: str, *, saved: int, **options: Any) -> Launch:
    """A launch that ends by SIGKILL there, once the checkpoint of step `saved` is published."""
    return Launch(kill, saved, options)


@dataclass(frozen=True)
class Ended:
    """What one launch left: what happened, in order, and what it printed."""

    events: list[str]
    output: str

    @property
    def resumed_from(self) -> int | None:
        found = re.search(r"RESUME\s+step=(\d+)", self.output)
        return int(found[1]) if found else None


class Place:
    """The folder of one test and the program that is run in it."""

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
        code = server().launch(
            program=self.program,
            folder=str(self.here),
            events=f"{side}.events",
            out=f"{side}.out",
            kill=launch.kill,
            options={**self.options, **launch.options},
        )
        output = Path(f"{side}.out").read_text("utf-8", "replace")
        expected = -signal.SIGKILL if launch.kill else 0
        assert code == expected, f"{launch} of {self.program} ended with {code}:\n{output}"
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
        different = [line for line in found if not EVENT_FILES.match(line)]
        assert not different, "\n".join(different[:20])
        return whole, ended


def continue_each_other(ended: Sequence[Ended], whole: Ended) -> None:
    """Each launch did what the whole run did from some point on, and none left anything out."""
    reached = 0
    for number, launch in enumerate(ended, 1):
        assert launch.events, f"launch {number} did nothing:\n{launch.output}"
        first = launch.events[0]
        assert first in whole.events, f"launch {number} begins with what never happens in one run: {first}"
        start = whole.events.index(first)
        assert start <= reached, f"launch {number} left out {whole.events[reached:start]}"
        reached = start + len(launch.events)
        expected = whole.events[start:reached]
        for happened, should in zip(launch.events, expected, strict=False):
            assert happened == should, f"launch {number}"
        assert len(launch.events) == len(expected), f"launch {number} goes on beyond the end"
    assert reached == len(whole.events), f"never happened: {whole.events[reached:]}"


def until_a_later_second(folder: Path) -> None:
    """Wait until a new event file of TensorBoard comes after all that are below this folder, in the order of names.

    TensorBoard reads files in that order. A name has the second and then the process number, and is compared as text:
    in one second, process 10000 comes before process 9999. Only forked launches are quick enough to share a second.
    """
    newest = max((int(path.name.split(".")[3]) for path in folder.rglob("events.out.tfevents.*")), default=0)
    while (ahead := newest + 1 - time.time()) > 0:
        time.sleep(ahead)


# -- the client -------------------------------------------------------------------------------------------------------


class Server:
    """One process with Lightning imported that forks a child for each launch. Start it with `with`."""

    def __enter__(self) -> Self:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RESUMABLE_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lightning.launches"],
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
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(LAUNCH_SECONDS)
        self._process.stdout.close()

    def launch(self, **request: Any) -> int:
        """Run one child to its end; its exit code, negative for a signal. A child that hangs ends with 1."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._reply(LAUNCH_SECONDS + 10)["exit"])

    def _reply(self, timeout_seconds: float) -> dict[str, Any]:
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_seconds)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self._process.kill()
            raise TimeoutError(f"the fork server did not answer within {timeout_seconds:.0f} s")
        reply: dict[str, Any] = json.loads(line)
        return reply


@functools.cache
def server() -> Server:
    """The one fork server of this pytest worker, started when it is first asked for, ended with the interpreter."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(Server())


# -- the server and its children --------------------------------------------------------------------------------------


def serve() -> None:
    """Fork a child per request until stdin ends. One at a time: a launch is over before the next begins."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_once()
    print(json.dumps({"ready": os.getpid()}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            replies.close()
            _run(request)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"exit": os.waitstatus_to_exitcode(status)}), file=replies, flush=True)


def _import_once() -> None:
    for name in (
        "torch._dynamo",  # what constructing an optimizer imports anyway, and what takes longest
        "torch.utils.tensorboard",
        "resumable.lightning",
        "tests.lightning.threads",
        "tests.lightning.watch",
    ):
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


def _run(request: dict[str, Any]) -> NoReturn:
    """The child: run the program and leave with its exit code; returns to nobody."""
    code = 70
    try:
        _begin(request)
        code = _exit_code_of(request)
        threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter ends: threads, then atexit
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _begin(request: dict[str, Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.chdir(request["folder"])
    # A child that hangs says where, and ends: nothing else would end it.
    faulthandler.dump_traceback_later(LAUNCH_SECONDS, exit=True)


def _exit_code_of(request: dict[str, Any]) -> int:
    from resumable.lightning import Resume
    from tests.lightning.watch import Watch

    config = {"run": "run", "every": {"steps": EVERY_STEPS, "minutes": None}, "keep": {"best": None}, "data_seed": 0}
    module, _, name = request["program"].partition(":")
    program = getattr(importlib.import_module(module), name)
    watch = Watch(Path(request["events"]), request["kill"])
    try:
        program([watch, Resume(config)], **request["options"])
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
