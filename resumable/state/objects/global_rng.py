"""Capture and restore the global random streams of this program. Seeds none of them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resumable.state.codec.tree import Tree
from resumable.state.objects.adapter import mismatch_on_error
from resumable.state.objects.bounds_checks import check_numpy_stream, check_torch_stream


def capture_streams() -> dict[str, Tree]:
    """Return the states of the streams of Python, NumPy, torch on the CPU, and every accelerator in use."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "accelerators": {kind: states for kind, read in _READERS.items() if (states := read())},
    }


def restore_streams(tree: dict[str, Tree]) -> list[str]:
    """Restore every stream; return the names of those that this machine lacks, such as `cuda:1`.

    Raises:
        RunMismatchError: A state is not one of its stream.
    """
    with mismatch_on_error("rng"):
        return _restored(tree)


def _restored(tree: dict[str, Any]) -> list[str]:
    check_numpy_stream(tree["numpy"])
    check_torch_stream(tree["torch"])
    random.setstate(tree["python"])
    np.random.set_state(tree["numpy"])
    torch.set_rng_state(tree["torch"].clone())
    missing = []
    for kind, states in tree["accelerators"].items():
        present = _device_count(kind)
        for index, state in enumerate(states):
            if index < present:
                _write(kind, index, state.clone())
            else:
                missing.append(f"{kind}:{index}")
    return missing


def _cuda() -> list[Tensor]:
    in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.get_rng_state_all() if in_use else []


def _xpu() -> list[Tensor]:
    in_use: bool = torch.xpu.is_initialized()  # type: ignore[no-untyped-call]
    return torch.xpu.get_rng_state_all() if in_use else []


def _mps() -> list[Tensor]:
    # Apple's backend has no flag for "in use"; it has one device, and reading its state is cheap.
    return [torch.mps.get_rng_state()] if sys.platform == "darwin" and torch.backends.mps.is_available() else []


_READERS: dict[str, Callable[[], list[Tensor]]] = {"cuda": _cuda, "xpu": _xpu, "mps": _mps}


def _device_count(kind: str) -> int:
    counts: dict[str, Callable[[], int]] = {
        "cuda": torch.cuda.device_count,
        "xpu": torch.xpu.device_count,
        "mps": lambda: int(torch.backends.mps.is_available()),
    }
    return counts[kind]() if kind in counts else 0


def _write(kind: str, index: int, state: Tensor) -> None:
    if kind == "cuda":
        torch.cuda.set_rng_state(state, index)
    elif kind == "xpu":
        torch.xpu.set_rng_state(state, index)
    else:
        torch.mps.set_rng_state(state)
