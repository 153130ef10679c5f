"""Many kept checkpoints of a model with AdamW that has as many tensors as GPT-2: first save, `ls`, two reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resumable import Run
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from tests.bench.memory import highest
from tests.bench.ours import config
from tests.bench.rooms import in_a_room
from tests.bench.startup import with_compiled
from tests.bench.states import Training
from tests.store.building import multiply

PARAMETERS = 148  # and three tensors of the optimizer for each
LAUNCHED, READ, FIRST_STEP = 300, 150, 100  # the checkpoints of each run, and the step of the first of them
_LISTED = """
import pathlib, re, sys
from resumable.cli import main
try:
    main()
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


def measure(*, folder: Path, pairs: int = 10) -> dict[str, Any]:
    """Seconds of processor time and memory at the highest of `pairs` samples each; a process for each first save."""
    launched, read = (_run(folder / str(count), count) for count in (LAUNCHED, READ))
    saves = [in_a_room(_first_save, launched, folder / f"launch{number}", threads=1) for number in range(pairs)]
    listed = partial(_listed_mib, launched, folder / "compiled")
    listed()  # compiles what it imports
    reads: dict[str, Callable[[], object]] = {
        f"latest() among {READ}": lambda: Run(str(read)).latest(),
        f"at() among {READ}": lambda: Run(str(read)).at(FIRST_STEP),
    }
    return {
        f"the first save among {LAUNCHED}": {
            "cpu_seconds": [cpu_seconds for cpu_seconds, _ in saves],
            "extra_mib": [extra_mib for _, extra_mib in saves],
        },
        f"ls of {LAUNCHED}": {"peak_mib": [listed() for _ in range(pairs)]},
        **{name: {"cpu_seconds": _cpu_seconds(call, pairs)} for name, call in reads.items()},
    }


def _training() -> Training:
    """Parameters of 4 x 4 with AdamW, after one step."""
    model = nn.ParameterList([nn.Parameter(torch.randn(4, 4)) for _ in range(PARAMETERS)])
    training = Training(model, torch.optim.AdamW(model.parameters()), torch.zeros(0))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.optimizer.step()
    training.optimizer.zero_grad()
    return training


def _run(path: Path, count: int) -> Path:
    """A run with `count` checkpoints, and that from which they were made."""
    checkpointer = Checkpointer(config(path, "eager"), _training().objects())
    _save(checkpointer, 1)
    checkpointer.close()
    multiply(path, count - 1)
    return path


def _save(checkpointer: Checkpointer, step: int) -> None:
    checkpointer.save(Position(step=step), reason="bench")
    checkpointer.drain()


def _first_save(run: Path, copy: Path) -> tuple[float, float]:
    """Processor time and memory of the first save of a launch; the same in a run of one checkpoint is not counted."""
    training = _training()
    _first(training, _run(copy / "small", 1))
    before, opened = _opened(training, Path(shutil.copytree(run, copy / "run", copy_function=os.link)))
    with highest() as most:
        without = most()
        spent = _spent(partial(_save, opened, before + 1))
        extra_mib = (most() - without) / 2**20
    opened.close()
    shutil.rmtree(copy)
    return spent, extra_mib


def _first(training: Training, run: Path) -> None:
    step, checkpointer = _opened(training, run)
    _save(checkpointer, step + 1)
    checkpointer.close()


def _opened(training: Training, run: Path) -> tuple[int, Checkpointer]:
    checkpointer = Checkpointer(config(run, "eager"), training.objects())
    checkpointer.restore()
    assert checkpointer.newest_step is not None
    return checkpointer.newest_step, checkpointer


def _cpu_seconds(call: Callable[[], object], count: int) -> list[float]:
    call()  # imports what it needs
    return [_spent(call) for _ in range(count)]


def _spent(call: Callable[[], object]) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before


def _listed_mib(run: Path, compiled: Path) -> float:
    command = [sys.executable, "-c", _LISTED, "ls", str(run)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env=with_compiled(compiled))
    return int(ended.stderr.split()[-1]) / 2**10
