"""How long a verified load into the existing objects takes, against the same files through safetensors, unverified.

Warm: the files are in the page cache. Cold: they were thrown out of it, file by file, right before. Both load what is
in the files into the very same tensors of a GPT with AdamW, one after the other, beginning in turns.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from resumable import Run
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.checkpointing.restore import Restoration
from resumable.run.checkpoint import Checkpoint
from resumable.state.objects.choose_adapter import Adapter, adapt
from resumable.state.objects.gradients import Gradients
from tests.bench.ours import config
from tests.bench.states import Training, flat, training
from tests.bench.timing import rounds, seconds


def measure(*, folder: Path, size: str = "1.5GB", pairs: int = 10) -> dict[str, Any]:
    """Seconds of `pairs` pairs each, warm and cold; what the restore at the first fetch adds; memory at its peak."""
    subject = training(size)
    _save(subject, folder / "run")
    checkpoint = Run(str(folder / "run")).latest()
    files = _files(folder / "run", checkpoint)
    return {
        "state_bytes": subject.nbytes(),
        "loading, warm": _pairs(subject, checkpoint, files, pairs, cold=False),
        "loading, cold": _pairs(subject, checkpoint, files, pairs, cold=True),
        "restore at the first fetch": {"seconds": _again(subject, checkpoint, pairs)},
        "verify": {"warm_seconds": [seconds(checkpoint.verify) for _ in range(pairs)]},
        "peak beside the state": {"bytes": _in_child(_peak, str(folder / "run"), size)},
    }


def _save(subject: Training, run: Path) -> None:
    checkpointer = Checkpointer(config(run, "eager"), subject.objects())
    checkpointer.save(Position(), reason="bench")
    checkpointer.drain()
    checkpointer.close()


def _files(run: Path, checkpoint: Checkpoint) -> dict[str, Path]:
    objects = {blob: name for name in checkpoint.manifest.objects for blob in checkpoint.blobs_of(name)}
    return {objects[blob]: run / record.path for blob, record in checkpoint.manifest.blobs.items() if blob in objects}


def _pairs(
    subject: Training, checkpoint: Checkpoint, files: Mapping[str, Path], pairs: int, *, cold: bool
) -> dict[str, Any]:
    into = _live(subject)
    contestants = {
        "resumable": lambda: _restoring(subject, checkpoint)(),
        "safetensors": lambda: _copy(files, into),
    }
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for order in rounds(list(contestants), pairs):
        for name in order:
            for path in files.values():
                _drop(path) if cold else _warm(path)
            with torch.no_grad():
                for tensor in into["model"].values():
                    tensor.zero_()
            samples[name].append(seconds(contestants[name]))
    return {name: {"seconds": taken} for name, taken in samples.items()}


def _restoring(subject: Training, checkpoint: Checkpoint) -> Callable[[], None]:
    adapters: dict[str, Adapter] = adapt(subject.objects())
    fresh = Checkpoint(checkpoint._catalog, checkpoint._name, checkpoint.manifest)  # with nothing read yet
    gradients = Gradients(adapters)
    gradients.close()
    return partial(Restoration(fresh).restore, adapters, gradients)


def _again(subject: Training, checkpoint: Checkpoint, times: int) -> list[float]:
    restore = _restoring(subject, checkpoint)
    restore()
    return [seconds(restore) for _ in range(times)]


def _live(subject: Training) -> dict[str, dict[str, Tensor]]:
    """The same tensors that the files hold, under the same keys."""
    names = [name for name, _ in subject.model.named_parameters()]
    state = subject.optimizer.state_dict()["state"]
    by_name = {f"model.{name}": state[number] for number, name in enumerate(names) if number in state}
    return {"model": dict(subject.model.state_dict()), "optimizer": flat(by_name)}


def _copy(files: Mapping[str, Path], into: Mapping[str, Mapping[str, Tensor]]) -> None:
    with torch.no_grad():
        for name, path in files.items():
            for key, tensor in load_file(path).items():
                into[name][key].copy_(tensor)


def _drop(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _warm(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(2**22)
        while file.readinto(buffer):
            pass


def _in_child(work: Any, *arguments: str) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result: int = pool.apply(work, arguments)
    return result


def _peak(run: str, size: str) -> int:
    """By how much memory grows at its peak over what the objects take up already."""
    subject, checkpoint = training(size), Run(run).latest()
    Path("/proc/self/clear_refs").write_text("5")  # the mark begins anew from what is used now
    before = _memory_bytes("VmRSS")
    _restoring(subject, checkpoint)()
    return _memory_bytes("VmHWM") - before


def _memory_bytes(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024
