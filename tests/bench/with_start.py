"""What the first checkpoints of a run cost, step 0 among them, against DCP's `async_save`; a process each.

Processor time of all threads, from what each of them sets up until its last save is durable. Every tensor changes
between the saves, which is not counted. A copy of the state in memory has pages that nobody touched before, and how
much a first touch takes depends on the host: the same of as many bytes, and nothing else, stands beside.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy
import torch

from tests.bench.contestants import DCP_THREAD, EAGER, DcpThread
from tests.bench.figures import Figure, Measured, Setting
from tests.bench.ours import Loop
from tests.bench.rooms import in_a_room
from tests.bench.states import Training, training
from tests.bench.timing import rounds

SAVES = 3
TOUCHED = "a first touch of the state's bytes"


class Saver(Protocol):
    """Someone whose saves are counted."""

    def save(self) -> None: ...
    def wait(self) -> None: ...
    def close(self) -> None: ...


class Started:
    """The product's loop, whose step 0 is the first of the saves."""

    def __init__(self, subject: Training, folder: Path) -> None:
        self._subject, self._folder = subject, folder
        self._loop: Loop | None = None

    def save(self) -> None:
        if self._loop is None:
            self._loop = Loop(self._subject, self._folder, mode="eager")
        else:
            self._loop.approach()
            self._loop.save()

    def wait(self) -> None:
        if self._loop is not None:
            self._loop.wait()

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()


SAVERS: Mapping[str, Callable[[Training, Path], Saver]] = {EAGER: Started, DCP_THREAD: DcpThread}


def _with_start(setting: Setting) -> Measured:
    measured = Measured(state_bytes=training(setting.size).nbytes())
    for number, order in enumerate(rounds(list(SAVERS), setting.pairs)):
        for name in order:
            folder = setting.folder / f"{number}-{list(SAVERS).index(name)}"
            folder.mkdir()
            spent = in_a_room(_of_each, name, setting.size, folder, threads=torch.get_num_threads())
            measured.add(name, cpu_seconds=spent / SAVES)
        measured.add(TOUCHED, cpu_seconds=in_a_room(_touched, measured.state_bytes, threads=1) / SAVES)
    return measured


def _of_each(name: str, size: str, folder: Path) -> float:
    """Seconds of the saves; those of a small training before them are imports and first calls."""
    _spent(SAVERS[name], training("2MB"), folder / "warm")
    return _spent(SAVERS[name], training(size), folder / "run")


def _touched(nbytes: int) -> float:
    started = time.process_time()
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    numpy.frombuffer(memory, numpy.uint8)[:] = 1
    return time.process_time() - started


def _spent(saver_of: Callable[[Training, Path], Saver], subject: Training, folder: Path) -> float:
    started, changing = time.process_time(), 0.0
    saver = saver_of(subject, folder)
    for number in range(SAVES):
        before = time.process_time()
        if number:
            subject.touch()
        changing += time.process_time() - before
        saver.save()
        saver.wait()
    spent = time.process_time() - started - changing
    saver.close()
    return spent


FIGURES = [Figure("with-start", "the first saves of a run, step 0 among them", _with_start)]
