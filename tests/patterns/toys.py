"""What the programs of this folder share: the run, data, a small net, one update, and the last line."""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

RUN, *_words = sys.argv[1:] or ["runs/pattern"]
MENDED = "mended" in _words  # then the program does what the line of the audit says
LATER = "later" in _words  # then it is a relaunch, of a program that was changed meanwhile
CONFIG: dict[str, Any] = {"run": RUN, "every": {"steps": 3}, "keep": {"best": None}, "data_seed": 7}

torch.set_num_threads(1)
torch.manual_seed(0)
numpy.random.seed(0)
random.seed(0)

INPUTS = torch.randn(64, 8, generator=torch.Generator().manual_seed(5))
LABELS = (INPUTS.sum(1) > 0).long()
SAMPLES = TensorDataset(INPUTS, LABELS)


def net(inputs: int = 8, outputs: int = 2) -> nn.Sequential:
    """A small classifier with dropout."""
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, outputs))


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    """An optimizer with momentum."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def batches(data: Any = SAMPLES, size: int = 8) -> DataLoader[Any]:
    """Shuffled batches, eight in an epoch."""
    return DataLoader(data, batch_size=size, shuffle=True)


def loss_of(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The cross entropy of a batch."""
    return nn.functional.cross_entropy(model(x), y)


def pause() -> None:
    """Make a step so slow that the kill at the end of a save lands in the middle of the training."""
    time.sleep(0.003)


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimizer step."""
    pause()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def finish(*results: Any) -> None:
    """Print a digest of what the training produced: modules, tensors and plain values."""
    digest = hashlib.sha256()
    for value in results:
        for part in _bytes_of(value):
            digest.update(part)
    print("RESULT", digest.hexdigest()[:16])


def _bytes_of(value: Any) -> Iterable[bytes]:
    if isinstance(value, nn.Module):
        value = list(value.state_dict().values())
    if isinstance(value, Tensor):
        yield value.detach().numpy().tobytes()
    elif isinstance(value, numpy.ndarray):
        yield value.tobytes()
    elif isinstance(value, dict):
        yield from _bytes_of([*value.items()])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _bytes_of(each)
    else:
        yield repr(value).encode()
