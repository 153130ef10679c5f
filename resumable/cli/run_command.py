"""Runs the user's command once and shows what it prints as it prints it; knows nothing of runs and kills."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from resumable.errors import ResumableError

TAIL_LINES = 20
DRAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Ended:
    """How a launch ended: its exit code, negative for a signal, and the last lines that it printed."""

    code: int
    tail: tuple[str, ...]

    def __str__(self) -> str:
        return f"signal {signal.Signals(-self.code).name}" if self.code < 0 else f"exit code {self.code}"


def launch(command: Sequence[str], *, environment: Mapping[str, str], show: Callable[[str], None]) -> Ended:
    """Run `command` to its end, handing each line it prints to `show`; blocks. `ResumableError` if it cannot start.

    It runs in a session of its own, and whatever of that session outlives it (loader workers of a killed training)
    is killed too, so that one launch never meets the remains of another.
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
            f"cannot run {command[0]!r}: {error.strerror}", "give the command that you train with: -- python train.py"
        ) from error
    assert child.stdout is not None
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    reader = threading.Thread(target=_relay, args=(child.stdout, tail, show), daemon=True)
    reader.start()
    try:
        # Not reaped yet, so that the number of its session cannot have become another's.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        reader.join(DRAIN_SECONDS)
    return Ended(child.returncode, tuple(tail))


def _relay(stream: IO[bytes], tail: deque[str], show: Callable[[str], None]) -> None:
    with stream:
        for raw in stream:
            # Of a bar that redraws itself only what it showed last.
            line = raw.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
            tail.append(line)
            show(line)
