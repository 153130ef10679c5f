"""The versions and the machine's properties that can change the bits of a training."""

from __future__ import annotations

import platform
from typing import Any

import numpy
import torch

from resumable.version import __version__


def versions() -> dict[str, str]:
    """Return the versions of the libraries whose change could change bits."""
    return {
        "resumable": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }


def environment() -> dict[str, Any]:
    """Return the properties of the machine, and the settings of torch, that could change bits."""
    # Requesting a device's name would initialize CUDA in a program that does not use it.
    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "devices": [torch.cuda.get_device_name(i) for i in used],
    }
