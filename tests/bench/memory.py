"""Memory that saving takes: the highest there was, and whether thirty saves leave more than five; a process each.

Linux only: it reads /proc. The highest is the kernel's own mark (VmHWM) over some steps with saves, less that over as
many steps without; memory that was freed before is given back to the system first. Processes that a contestant starts
are looked at fifty times a second, without what they share with their parent.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tests.bench.contestants import CONTESTANTS, DCP_PROCESS, DCP_THREAD, EAGER, OVERLAP
from tests.bench.figures import Figure, Measured, Setting, entered
from tests.bench.rooms import RoomFailed, in_a_room
from tests.bench.saving import once
from tests.bench.states import training

PEAK_SAVES = 3
GROWTH_SAVES, QUICK_GROWTH_SAVES, GROWN_UP_AFTER = 30, 7, 5
_LOOK_EVERY_SECONDS = 0.02


def _of_each(names: tuple[str, ...], call: str, setting: Setting) -> Measured:
    """The same in one process for each contestant, one after the other."""
    import torch

    joined = Measured()
    for name in names:
        folder = setting.folder / str(len(joined.samples) + len(joined.absent))
        folder.mkdir()
        alone = Setting(setting.size, setting.pairs, folder)
        try:
            found: Measured = in_a_room(_CALLS[call], name, alone, threads=torch.get_num_threads())
        except RoomFailed as failure:
            joined.drop(name, str(failure))
            continue
        joined.samples |= found.samples
        joined.absent |= found.absent
        joined.state_bytes = found.state_bytes or joined.state_bytes
    return joined


def _peak(name: str, setting: Setting) -> Measured:
    measured, warm, subject = Measured(), training("2MB"), training(setting.size)
    measured.state_bytes = subject.nbytes()
    if name != DCP_PROCESS:  # imports and first calls are nobody's cost of a save; a second process is
        with entered([name], warm, _inside(setting, "warm"), Measured()) as present:
            for contestant in present.values():
                once(contestant, warm)
    with highest() as most:
        for _ in range(PEAK_SAVES):
            subject.step()
        without = most()
    with highest() as most, entered([name], subject, _inside(setting, "run"), measured) as present:
        for contestant in present.values():
            for _ in range(PEAK_SAVES):
                contestant.save()
                subject.step()
                contestant.wait()
                contestant.tidy()
            extra = most() - without
            measured.add(name, peak_bytes=extra, peak_states=extra / measured.state_bytes)
    return measured


def _growth(name: str, setting: Setting) -> Measured:
    measured, subject = Measured(), training(setting.size)
    measured.state_bytes = subject.nbytes()
    with entered([name], subject, setting, measured) as present:
        for contestant in present.values():
            after = []
            for _ in range(GROWTH_SAVES if setting.pairs >= 5 else QUICK_GROWTH_SAVES):
                once(contestant, subject)
                gc.collect()
                after.append(_status(os.getpid(), "VmRSS"))
            growth = after[-1] - after[GROWN_UP_AFTER - 1]
            measured.add(name, growth_bytes=growth, growth_states=growth / measured.state_bytes)
    return measured


_CALLS = {"peak": _peak, "growth": _growth}


def _inside(setting: Setting, name: str) -> Setting:
    folder = setting.folder / name
    folder.mkdir()
    return Setting(setting.size, setting.pairs, folder)


@contextmanager
def highest() -> Iterator[Callable[[], int]]:
    """A function that tells how many bytes there were at the highest since now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    stopping, seen = threading.Event(), [0]

    def look() -> None:
        while not stopping.wait(_LOOK_EVERY_SECONDS):
            seen[0] = max(seen[0], sum(_status(pid, "RssAnon") for pid in _descendants(os.getpid())))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield lambda: _status(os.getpid(), "VmHWM") + seen[0]
    finally:
        stopping.set()
        watcher.join()


def _status(pid: int, key: str) -> int:
    """Bytes; 0 for a process that has ended."""
    with suppress(OSError):
        found = re.search(rf"^{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    return 0


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found


FIGURES = [
    Figure("memory", "extra memory at the highest", partial(_of_each, tuple(CONTESTANTS), "peak")),
    Figure(
        "growth",
        "memory after 30 saves, less that after 5",
        partial(_of_each, (EAGER, OVERLAP, DCP_THREAD), "growth"),
        sizes=("2MB", "120MB"),
    ),
]
