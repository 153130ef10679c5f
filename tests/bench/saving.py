"""Stall and time to durable while nothing else runs; who keeps a buffer competes apart from who keeps none.

Three heats, because all the buffers together would not fit into a small machine. Each has its own yardsticks.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial

from tests.bench.contestants import (
    DCP_PROCESS,
    DCP_SAVE,
    DCP_THREAD,
    EAGER,
    LIGHTNING,
    OVERLAP,
    SAFETENSORS,
    TORCH_SAVE,
    Contestant,
)
from tests.bench.figures import Figure, Measured, Setting, entered, leave
from tests.bench.limits import Limits
from tests.bench.states import Training, training
from tests.bench.timing import clock, rounds

WARM_UP_ROUNDS = 1


def _heat(names: Sequence[str], setting: Setting) -> Measured:
    measured, subject = Measured(), training(setting.size)
    measured.state_bytes = subject.nbytes()
    limits = Limits(subject.tensors(), setting.folder)
    with entered(names, subject, setting, measured) as present:
        for number, order in enumerate(rounds([*present, "memcpy", "O_DIRECT write + fsync"], setting.pairs + 1)):
            sink = measured if number >= WARM_UP_ROUNDS else Measured()
            for name in order:
                if name == "memcpy":
                    sink.add(name, seconds=limits.memcpy())
                elif name == "O_DIRECT write + fsync":
                    sink.add(name, seconds=limits.write())
                elif name in present:
                    try:
                        sink.add(name, **once(present[name], subject))
                    except Exception as error:
                        leave(name, present, measured, error)
    limits.close()
    return measured


def once(contestant: Contestant, subject: Training) -> dict[str, float]:
    """One save of a state that changed, from start to durable, and what has to be tidied up after it, untimed."""
    subject.touch()
    gc.collect()
    started = clock()
    contestant.save()
    stall_seconds = clock() - started
    stall_seconds += contestant.settle()
    contestant.wait()
    durable_seconds = clock() - started
    contestant.tidy()
    return {"stall_seconds": stall_seconds, "durable_seconds": durable_seconds}


def _limits(setting: Setting) -> Measured:
    measured, subject = Measured(), training(setting.size)
    limits = Limits(subject.tensors(), setting.folder)
    measured.state_bytes = limits.nbytes
    yardsticks: dict[str, Callable[[], float]] = {
        "memcpy into a reused buffer": limits.memcpy,
        "torch copy_ within the buffer, all threads": limits.two_threads,
        "O_DIRECT write + fsync": limits.write,
        "cold read, buffered": limits.read,
        "XXH3-128": limits.digest,
    }
    limits.write()
    for number, order in enumerate(rounds(list(yardsticks), setting.pairs + 1)):
        for name in order:
            taken = yardsticks[name]()
            if number >= WARM_UP_ROUNDS:
                measured.add(name, seconds=taken, bytes_per_second=limits.nbytes / taken)
    limits.close()
    measured.notes.append("cold: posix_fadvise(DONTNEED) on the file, which was written past the page cache")
    return measured


FIGURES = [
    Figure("limits", "what memory and disk allow", _limits),
    Figure("save-kept", "saving alone: buffers kept", partial(_heat, (EAGER, OVERLAP, DCP_THREAD))),
    Figure(
        "save-blocking",
        "saving alone: no buffers kept",
        partial(_heat, (EAGER, TORCH_SAVE, SAFETENSORS, DCP_SAVE, LIGHTNING)),
    ),
    Figure("save-process", "saving alone: a process of its own", partial(_heat, (EAGER, DCP_PROCESS))),
]
