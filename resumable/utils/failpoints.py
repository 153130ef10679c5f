"""Failpoints: named instants at which a drill kills this program with SIGKILL. Independent of the code around them.

`RESUMABLE_KILL=POINT:STEP[+SECONDS][@RUN]` arms one kill: at the first `reach(POINT, step)` with `step >= STEP`, at
once or `SECONDS` later from a thread, that is, at any instruction. With RUN, the name of a run's folder, it fires only
once the loops of that run are made. The variable is read at import and when loops are made (`arm`), since reading the
environment at every failpoint of every step would cost microseconds each.
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
    run: str | None = None

    @classmethod
    def parse(cls, text: str) -> Kill:
        match = re.fullmatch(r"([a-z.]+):(\d+)(?:\+([0-9.]+))?(?:@([A-Za-z0-9._-]+))?", text)
        if not match or match[1] not in POINTS:
            raise ValueError(f"RESUMABLE_KILL={text!r}: expected POINT:STEP[+SECONDS][@RUN] with a point of {POINTS}")
        return cls(match[1], int(match[2]), float(match[3] or 0), match[4])

    def __str__(self) -> str:
        delay = f"+{self.delay_seconds}" if self.delay_seconds else ""
        return f"{self.point}:{self.step}{delay}" + (f"@{self.run}" if self.run else "")


_armed = os.environ.get("RESUMABLE_KILL")
_run: str | None = None  # the folder of the run whose loops were made last
_last_step = 0
_fired = False


def arm(run: str | None = None) -> None:
    """Read again which kill is armed, now that the loops of `run` are made."""
    global _armed, _run, _last_step
    _armed, _last_step = os.environ.get("RESUMABLE_KILL"), 0
    _run = run.rstrip("/").rpartition("/")[2] if run else None


def reach(point: str, step: int) -> None:
    """Kill the program if a kill is armed for `point` in `step`; return otherwise."""
    global _fired, _last_step
    if _armed is None:
        return
    _last_step = max(_last_step, step)
    kill = Kill.parse(_armed)
    if _fired or kill.point != point or step < kill.step or kill.run not in (None, _run):
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
