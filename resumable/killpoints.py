"""Named instants at which a drill ends this very program with SIGKILL; knows nothing of what happens there.

`RESUMABLE_KILL=POINT:STEP[+SECONDS]` arms one kill: at the first `reach(POINT, step)` with `step >= STEP`, at once or
`SECONDS` later from a thread, that is, at any instruction. It is read at import and when loops are made (`arm`): a look
into the environment at every point of every step would cost microseconds each.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from dataclasses import dataclass

POINTS = (
    "step",
    "fetch",
    "epoch",
    "evaluate",
    "save.capture",
    "save.blob",
    "save.manifest",
    "save.published",
    "save.prune",
)


@dataclass(frozen=True)
class Kill:
    """One armed kill: where, from which step on, and how many seconds after that."""

    point: str
    step: int
    delay_seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Kill:
        match = re.fullmatch(r"([a-z.]+):(\d+)(?:\+([0-9.]+))?", text)
        if not match or match[1] not in POINTS:
            raise ValueError(f"RESUMABLE_KILL={text!r}: expected POINT:STEP[+SECONDS] with a point of {POINTS}")
        return cls(match[1], int(match[2]), float(match[3] or 0))

    def __str__(self) -> str:
        return f"{self.point}:{self.step}" + (f"+{self.delay_seconds}" if self.delay_seconds else "")


_armed = os.environ.get("RESUMABLE_KILL")
_last_step = 0
_fired = False


def arm() -> None:
    """Look again whether this program is to be killed."""
    global _armed
    _armed = os.environ.get("RESUMABLE_KILL")


def reach(point: str, step: int) -> None:
    """Say that the program is at `point` in `step`; returns, unless a kill is armed for it."""
    global _fired, _last_step
    if _armed is None:
        return
    _last_step = max(_last_step, step)
    kill = Kill.parse(_armed)
    if _fired or kill.point != point or step < kill.step:
        return
    _fired = True
    if kill.delay_seconds:
        threading.Thread(target=_end, args=(point, kill.delay_seconds), daemon=True).start()
    else:
        _end(point, 0.0)


def _end(point: str, delay_seconds: float) -> None:
    time.sleep(delay_seconds)
    path = os.environ.get("RESUMABLE_KILL_LOG")
    if path:
        line = json.dumps({"point": point, "step": _last_step}) + "\n"
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(log, line.encode())
        os.close(log)
    os.kill(os.getpid(), signal.SIGKILL)
