"""The types of the codec: trees that can be stored, and the JSON documents that describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array: TypeAlias = npt.NDArray[np.generic]
Scalar: TypeAlias = bool | int | float | complex | str | bytes | np.generic | None
TorchValue: TypeAlias = Tensor | torch.dtype | torch.Size | torch.device

Path: TypeAlias = tuple[str, ...]
"""The keys that lead to a value in a tree."""

Tree: TypeAlias = "Scalar | Array | TorchValue | Sequence[Tree] | Mapping[Any, Tree] | Set[Tree]"
"""A value that the codec restores exactly: plain values, tensors and arrays, and containers of them."""

Document: TypeAlias = "bool | int | float | str | list[Document] | dict[str, Document] | None"
"""JSON. A dict with one key that begins with `$` is a value of another type; `$tensor` refers to a tensor by key."""
