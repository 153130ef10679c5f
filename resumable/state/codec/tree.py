"""The types of the codec: trees that can be stored, and the JSON documents that describe them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array: TypeAlias = npt.NDArray[np.generic]
Scalar: TypeAlias = bool | int | float | complex | str | bytes | np.generic | None
TorchValue: TypeAlias = Tensor | torch.dtype | torch.Size | torch.device

FACTORIES: Mapping[str | None, Callable[[], object] | None] = {
    None: None,
    "int": int,
    "float": float,
    "list": list,
    "dict": dict,
    "set": set,
}
"""What a defaultdict may call for a missing key, by the name that is stored."""

Path: TypeAlias = tuple[str, ...]
"""The keys that lead to a value in a tree."""


class NamedValues(tuple[Any, ...]):
    """The values of a named tuple, with the names of its type and of its fields. A plain tuple in all else."""

    type_name: str
    fields: tuple[str, ...]

    @classmethod
    def of(cls, type_name: str, fields: tuple[str, ...], values: Iterable[object]) -> NamedValues:
        """Return the values of a named tuple of this type."""
        made = cls(values)
        made.type_name, made.fields = type_name, fields
        return made


@dataclass(frozen=True)
class PartName:
    """The place of an object that is stored under this name of its own."""

    name: str


Tree: TypeAlias = "Scalar | Array | TorchValue | PartName | Sequence[Tree] | Mapping[Any, Tree] | Set[Tree]"
"""A value that the codec restores exactly: plain values, tensors and arrays, and containers of them."""

Document: TypeAlias = "bool | int | float | str | list[Document] | dict[str, Document] | None"
"""JSON. A dict with one key that begins with `$` is a value of another type; `$tensor` refers to a tensor by key."""
