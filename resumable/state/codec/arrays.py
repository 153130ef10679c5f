"""NumPy arrays as tensors, for the files of a checkpoint."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from resumable.state.codec.tree import Array

_KINDS = "biufc"


def fits_torch(dtype: np.dtype[np.generic]) -> bool:
    """Return whether torch has this dtype."""
    return dtype.kind in _KINDS and dtype.isnative and (dtype.itemsize <= 8 or dtype == np.complex128)


def as_tensor(value: Array) -> Tensor:
    """Return an array as a tensor, without a copy where torch has such strides."""
    # Torch has no negative strides, and none that are not whole elements.
    odd = any(stride < 0 or stride % value.itemsize for stride in value.strides)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(value) if odd else value)
