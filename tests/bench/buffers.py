"""A buffer of 1 GiB of which 1,000 bytes change before each save, against one that changes everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy

from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from tests.bench.figures import Figure, Measured, Setting
from tests.bench.frozen import written_bytes
from tests.bench.ours import config, remove_all_but_newest
from tests.bench.timing import clock, rounds

ROWS, ROW_BYTES = 2**18, 2**12
CHANGED_BYTES = 1000


class _Buffered:
    """A run whose only state is a large array."""

    def __init__(self, folder: Path, *, everywhere: bool) -> None:
        self._folder, self._everywhere = folder, everywhere
        self._rows = numpy.zeros((ROWS, ROW_BYTES), numpy.uint8)
        self._checkpointer = Checkpointer(config(folder, "eager"), {"buffer": {"rows": self._rows}})
        self._step = 0

    def change(self) -> None:
        if self._everywhere:
            self._rows += 1
        else:
            self._rows[self._step * 7001 % ROWS, :CHANGED_BYTES] += 1

    def save(self) -> dict[str, float]:
        before, started = written_bytes(), clock()
        self._step += 1
        self._checkpointer.save(Position(step=self._step), reason="bench")
        stall_seconds = clock() - started
        self._checkpointer.drain()
        durable_seconds = clock() - started
        written = written_bytes() - before
        remove_all_but_newest(self._folder)
        return {"stall_seconds": stall_seconds, "durable_seconds": durable_seconds, "written_bytes": written}

    def close(self) -> None:
        self._checkpointer.close()


def _buffer(setting: Setting) -> Measured:
    measured = Measured(state_bytes=ROWS * ROW_BYTES)
    savers = {
        "1,000 bytes changed": _Buffered(setting.folder / "little", everywhere=False),
        "a full save": _Buffered(setting.folder / "all", everywhere=True),
    }
    for number, order in enumerate(rounds(list(savers), setting.pairs + 1)):
        sink = measured if number else Measured()  # the first writes all
        for name in order:
            savers[name].change()
            sink.add(name, **savers[name].save())
    for saver in savers.values():
        saver.close()
    return measured


FIGURES = [Figure("buffer", "a buffer of 1 GiB", _buffer, once=True)]
