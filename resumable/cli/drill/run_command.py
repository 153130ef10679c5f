"""Run the user's command once, and pass on each line as it prints it. Independent of runs and kills."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from resumable.errors import ResumableError

TAIL_LINES = 20
DRAIN_SECONDS = 5.0

# Sequences of ECMA-48: CSI (colors, cursor), OSC (titles, links) and other strings, single escapes; then lone controls.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[]PX^_].*?(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


@dataclass(frozen=True)
class CommandResult:
    """The exit code of a command, negative for a signal, and the last lines that it printed."""

    code: int
    tail: tuple[str, ...]
    warm: bool = False
    """Whether the program ran in an interpreter that had imported torch before."""

    def __str__(self) -> str:
        return f"signal {signal.Signals(-self.code).name}" if self.code < 0 else f"exit code {self.code}"


Show = Callable[[str], None]
"""Called with each line that a command prints."""


def run_command(command: Sequence[str], *, environment: Mapping[str, str], show: Show) -> CommandResult:
    """Run `command` to its end, passing each line that it prints to `show`; blocks.

    It runs in its own session. Processes of that session that outlive it (loader workers of a killed training) are
    killed, so one launch never meets those of another. Raises `ResumableError` if the command cannot start.
    """
    try:
        child = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ResumableError(
            f"COMMAND: cannot run {command[0]!r}: {error.strerror}",
            "pass the command that you train with: -- python train.py",
        ) from error
    assert child.stdout is not None
    with relayed(child.stdout, show) as tail:
        try:
            # Not reaped yet, so the id of its session cannot have been reused.
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return CommandResult(child.returncode, tuple(tail))


@contextlib.contextmanager
def relayed(stream: IO[bytes], show: Show) -> Iterator[deque[str]]:
    """Pass each line of `stream` to `show` while the block runs, and give the last ones."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    reader = threading.Thread(target=_relay, args=(stream, tail, show), daemon=True)
    reader.start()
    try:
        yield tail
    finally:
        reader.join(DRAIN_SECONDS)


def _relay(stream: IO[bytes], tail: deque[str], show: Show) -> None:
    with stream:
        for raw in stream:
            line = _visible(raw)
            if line or not raw.strip():  # without the lines of bars that only move the cursor
                tail.append(line)
                show(line)


def _visible(raw: bytes) -> str:
    """Return what a line shows: without colors and cursor movements, and the last state of a bar that is redrawn."""
    return _CONTROL.sub("", raw.decode(errors="replace")).rstrip("\r\n").rpartition("\r")[2]
