"""What a program reports while it trains, where it dies, and what it leaves at its end. Imports no framework."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import zlib
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import save_file

from tests.tiny import until_written


class Probe:
    """Writes a line for each event at once, by one system call, so that a kill loses none.

    `kill` is PLACE:UPDATE, and SIGKILL comes there. Saves in the background are waited for, so that where the next
    launch begins does not depend on the disk.
    """

    def __init__(self, side: Path, kill: str | None) -> None:
        self._side = side
        self._events = os.open(side.with_suffix(".events"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._kill = kill

    def batch(self, epoch: int, number: int, ids: torch.Tensor, content: torch.Tensor) -> None:
        """Report a batch before it is trained: its number in the training, its samples, and what was made of them."""
        crc = zlib.crc32(content.detach().contiguous().numpy().tobytes())
        self._write("batch", epoch=epoch, number=number, ids=ids.tolist(), content=crc)

    def log(self, step: int, **values: float) -> None:
        """Report values as a logger gets them."""
        self._write("log", step=step, values={name: float(value).hex() for name, value in values.items()})

    def reach(self, place: str, update: int) -> None:
        """Die here, if this is the place."""
        if self._kill == f"{place}:{update}":
            until_written()
            os.kill(os.getpid(), signal.SIGKILL)

    def end(self, model: Any, optimizer: Any) -> None:
        """Leave the weights, and digests of all that the training ended with."""
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        save_file(weights, self._side.with_suffix(".safetensors"))
        digests = {
            "weights": digest(weights),
            "optimizer": digest(optimizer.state_dict()),
            "torch": digest(torch.get_rng_state()),
            "numpy": digest(numpy.random.get_state()),
            "python": digest(random.getstate()),
        }
        self._side.with_suffix(".json").write_text(json.dumps(digests))

    def _write(self, event: str, **what: Any) -> None:
        os.write(self._events, f"{json.dumps({'event': event, **what})}\n".encode())


def digest(tree: Any) -> str:
    """Return a short digest of tensors, arrays and plain values in nested containers."""
    found = hashlib.sha256()
    _feed(found, tree)
    return found.hexdigest()[:8]


def _feed(found: Any, tree: Any) -> None:
    if isinstance(tree, dict):
        for key, value in tree.items():
            found.update(repr(key).encode())
            _feed(found, value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            _feed(found, value)
    elif isinstance(tree, (torch.Tensor, numpy.ndarray)):
        found.update(numpy.ascontiguousarray(tree).tobytes())
    else:
        found.update(repr(tree).encode())
