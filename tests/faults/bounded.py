"""Runs a function in a fork under limits of memory and CPU time, and says what it took; knows no run."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resumable.errors import ResumableError

CPU_SECONDS = 30
MEMORY_BYTES = 2**30


@dataclass(frozen=True)
class Spent:
    """What the function gave, or the `ResumableError` that it raised, and how much memory it took beyond the start."""

    result: Any
    error: str | None
    message: str
    peak_bytes: int
    cpu_seconds: float


def bounded(work: Callable[[], Any], *, memory_bytes: int = MEMORY_BYTES, cpu_seconds: int = CPU_SECONDS) -> Spent:
    """The outcome of `work`, whose result is JSON; fails the test for any other error, and where a limit was passed."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _limit(memory_bytes, cpu_seconds)
            with os.fdopen(writer, "w") as pipe:
                json.dump(_outcome(work), pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise AssertionError(f"killed by {signal.Signals(os.WTERMSIG(status)).name}: a limit was passed, or worse")
    outcome = json.loads(text)
    assert not outcome["unexpected"], outcome["unexpected"]
    spent = Spent(*(outcome[key] for key in ("result", "error", "message", "peak_bytes", "cpu_seconds")))
    assert spent.peak_bytes <= memory_bytes, f"{spent.peak_bytes / 2**20:.0f} MiB"
    return spent


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    # Address space is taken in larger pieces than are used: it only stops what is far beyond; the peak is measured.
    space_bytes = _status("VmSize") + 2 * memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (space_bytes, space_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _outcome(work: Callable[[], Any]) -> dict[str, Any]:
    result, error, message, unexpected = None, None, "", ""
    before_bytes = _status("VmRSS")
    try:
        result = work()
    except ResumableError as caught:
        error, message = type(caught).__name__, str(caught)
    except BaseException:
        unexpected = traceback.format_exc()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "result": result,
        "error": error,
        "message": message,
        "unexpected": unexpected,
        "peak_bytes": max(0, used.ru_maxrss * 1024 - before_bytes),
        "cpu_seconds": used.ru_utime + used.ru_stime,
    }


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        [line] = [line for line in file if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024
