"""What a restart costs beyond imports, against `torch.load` and `load_state_dict` of the same state; a process each.

The files are in the page cache. Processor time of all threads: to find, verify and claim, the restore before the loop,
and the one at the first fetch, which compares. The optimizer has no state yet, as in a program that was just started.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from tests.bench.ours import config
from tests.bench.rooms import in_a_room
from tests.bench.states import Training, training
from tests.bench.timing import rounds


def measure(*, folder: Path, size: str = "1.5GB", pairs: int = 10) -> dict[str, Any]:
    """Seconds of processor time of `pairs` restarts each, in turns."""
    subject = training(size)
    _save(subject, folder)
    contestants: dict[str, Callable[[Training, Path], None]] = {"resumable": _resumable, "torch.load": _torch}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for order in rounds(list(contestants), pairs):
        for name in order:
            spent = in_a_room(_spent, contestants[name], size, folder, threads=torch.get_num_threads())
            samples[name].append(spent)
    return {"state_bytes": subject.nbytes(), **{name: {"cpu_seconds": taken} for name, taken in samples.items()}}


def _save(subject: Training, folder: Path) -> None:
    torch.save(subject.state(), folder / "state.pt")
    checkpointer = Checkpointer(config(folder / "run", "eager"), subject.objects())
    checkpointer.save(Position(), reason="bench")
    checkpointer.drain()
    checkpointer.close()
    _resumable(subject, folder)  # imports what only a restart needs
    os.sync()


def _spent(restart: Callable[[Training, Path], None], size: str, folder: Path) -> float:
    subject = training(size)
    subject.optimizer.state.clear()
    before = time.process_time()
    restart(subject, folder)
    return time.process_time() - before


def _resumable(subject: Training, folder: Path) -> None:
    checkpointer = Checkpointer(config(folder / "run", "eager"), subject.objects())
    checkpointer.restore()
    checkpointer.restore()
    checkpointer.close()


def _torch(subject: Training, folder: Path) -> None:
    state = torch.load(folder / "state.pt", weights_only=True)
    subject.model.load_state_dict(state["model"])
    subject.optimizer.load_state_dict(state["optimizer"])
