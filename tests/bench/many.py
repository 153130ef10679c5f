"""Many small tensors: the CPU time of the training thread in a save, and that of torch.save, of one state in turns."""

from __future__ import annotations

import os
import time

import torch
from torch import nn

from tests.bench.figures import Figure, Measured, Setting
from tests.bench.ours import Resumable
from tests.bench.states import Training
from tests.bench.timing import rounds

COUNTS = (3000, 10_000)


def _training(count: int) -> Training:
    """Parameters of 8 x 8 with AdamW, after one step."""
    model = nn.ParameterList([nn.Parameter(torch.randn(8, 8)) for _ in range(count)])
    training = Training(model, torch.optim.AdamW(model.parameters(), foreach=True), torch.zeros(0))
    _train(training)
    return training


def _train(training: Training) -> None:
    for parameter in training.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.optimizer.step()
    training.optimizer.zero_grad()


def _many(setting: Setting) -> Measured:
    measured = Measured()
    for count in COUNTS:
        _of(count, setting, measured)
    return measured


def _of(count: int, setting: Setting, measured: Measured) -> None:
    training, path = _training(count), setting.folder / "state.pt"
    saver = Resumable(training, setting.folder / str(count), mode="eager")
    names = {"ours": f"{count} parameters", "torch": f"torch.save, {count} parameters"}
    for number, order in enumerate(rounds([*names], setting.pairs + 2)):
        sink = measured if number >= 2 else Measured()  # the first saves learn the structure
        _train(training)
        for who in order:
            if who == "ours":
                sink.add(names[who], stall_cpu_seconds=_stall_seconds(saver))
            else:
                sink.add(names[who], cpu_seconds=_torch_seconds(training, path))
    saver.close()


def _stall_seconds(saver: Resumable) -> float:
    started = time.thread_time()
    saver.save()
    stalled = time.thread_time() - started
    saver.wait()
    saver.tidy()
    return stalled


def _torch_seconds(training: Training, path: os.PathLike[str]) -> float:
    started = time.thread_time()
    with open(path, "wb") as file:
        torch.save(training.state(), file)
        file.flush()
        os.fsync(file.fileno())
    return time.thread_time() - started


FIGURES = [Figure("many", "many small tensors", _many, once=True)]
