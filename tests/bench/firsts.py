"""The first saves of an attempt against its later ones: step 0 of a fresh run, and the first after a resume."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

from tests.bench.figures import Figure, Measured, Setting
from tests.bench.memory import highest
from tests.bench.ours import Loop, timed_save
from tests.bench.states import Training, training
from tests.bench.timing import clock

STEPS_BEFORE = 3


def _firsts(setting: Setting) -> Measured:
    measured, subject = Measured(), training(setting.size)
    measured.state_bytes = subject.nbytes()
    for number in range(setting.pairs):
        folder = setting.folder / str(number)
        with highest() as most:
            before = most()
            fresh = Loop(subject, folder, mode="eager")
            extra_mib = (most() - before) / 2**20
        measured.add("step 0 of a fresh run", stall_seconds=fresh.stalled_seconds(), extra_mib=extra_mib)
        fresh.close()
        resumed = Loop(subject, folder, mode="eager")
        _saves(subject, resumed, folder, measured)
        resumed.close()
        shutil.rmtree(folder)
        gc.collect()
    measured.notes.append(f"the first save after a resume comes after {STEPS_BEFORE} steps")
    return measured


def _saves(subject: Training, loop: Loop, folder: Path, measured: Measured) -> None:
    for number in range(3):
        for _ in range(STEPS_BEFORE if number == 0 else 1):
            subject.step()
            loop.turn()
        loop.approach()
        subject.step()
        started = clock()
        stall_seconds = timed_save(loop)
        loop.wait()
        durable_seconds = clock() - started
        loop.tidy()
        if number != 1:  # the second is neither the first nor as settled as the later ones
            who = "a later save" if number else "the first save after a resume"
            measured.add(who, stall_seconds=stall_seconds, durable_seconds=durable_seconds)


FIGURES = [Figure("first", "the first save against later ones", _firsts)]
