"""The order of one whole pass, as arrays: drawn once, stored in checkpoints, and read by number. Imports no sampler."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash

MAX_INDICES = 10_000_000

_Integers = npt.NDArray[np.integer[Any]]

# What single indices, and batches of them, are made of, by the names in a checkpoint.
_ITEMS: Mapping[type, str] = {int: "int", np.int64: "numpy", torch.Tensor: "tensor"}
_BATCHES: Mapping[type, str] = {list: "list", tuple: "tuple", np.ndarray: "array", torch.Tensor: "tensor"}
_ITEM_OF: Mapping[str, Callable[[int], object]] = {"int": int, "numpy": np.int64, "tensor": torch.tensor}
_BATCH_OF: Mapping[str, Callable[[list[Any]], object]] = {
    "list": list,
    "tuple": tuple,
    "array": lambda integers: np.array(integers, dtype=np.int64),
    "tensor": lambda integers: torch.tensor(integers, dtype=torch.int64),
}
_DTYPES = (np.dtype("<i4"), np.dtype("<i8"))


class PackedOrder:
    """The indices that a sampler drew for each batch of one pass; immutable.

    `ends` holds the end of each batch in `values`; it is None where each batch is one index.
    """

    def __init__(self, values: _Integers, ends: _Integers | None, *, item: str, batch: str | None) -> None:
        self._values, self._ends = values, ends
        self._item, self._batch = item, batch
        self.name = _digest(f"{item} {batch}", values, ends)

    def __len__(self) -> int:
        return len(self._values if self._ends is None else self._ends)

    def __getitem__(self, number: int) -> object:
        """Return the index, or the batch of indices, of this number from 0."""
        if self._ends is None or self._batch is None:
            return _ITEM_OF[self._item](int(self._values[number]))
        start = self._ends[number - 1] if number else 0
        integers = self._values[start : self._ends[number]].tolist()
        return _BATCH_OF[self._batch](integers if self._item == "int" else [*map(_ITEM_OF[self._item], integers)])

    def __deepcopy__(self, memo: object) -> PackedOrder:
        return self

    def tree(self) -> dict[str, Any]:
        """Return what a checkpoint stores."""
        return {"item": self._item, "batch": self._batch, "values": self._values, "ends": self._ends}

    @classmethod
    def of_tree(cls, tree: Any) -> PackedOrder:
        """Return the order of a tree from a checkpoint; `ValueError` where it holds none."""
        if not isinstance(tree, dict) or tree.keys() != {"item", "batch", "values", "ends"}:
            raise ValueError("expected item, batch, values and ends")
        item, batch, values, ends = (tree[key] for key in ("item", "batch", "values", "ends"))
        if item not in _ITEM_OF or (batch is not None and batch not in _BATCH_OF) or (batch is None) != (ends is None):
            raise ValueError(f"unknown indices: {item!r} in {batch!r}")
        _refuse_other_array(values, "values")
        if ends is not None:
            _refuse_other_array(ends, "ends")
            edges = np.concatenate([[0], ends, [len(values)]])
            if (edges[1:] < edges[:-1]).any() or edges[-2] != len(values):
                raise ValueError("ends: expected ascending positions up to the last of the values")
        return cls(values, ends, item=item, batch=batch)


class Packing:
    """Takes the indices of one pass, one after the other, as long as they are all of one kind."""

    def __init__(self, most: int) -> None:
        """`most` is the largest number of indices, those in batches each counted."""
        self._most = most
        self._values, self._ends = array("q"), array("q")
        self._kind: tuple[str, str | None] | None = None

    def add(self, index: object) -> bool:
        """Take one index, or one batch of indices; return False, and take nothing, where they cannot be packed."""
        found = _kind_of(index)
        if found is None or self._kind not in (None, found):
            return False
        integers = [index] if found[1] is None else index
        if len(self._values) + len(integers) > self._most:  # type: ignore[arg-type]
            return False
        before = len(self._values)
        try:
            self._values.extend(map(int, integers))  # type: ignore[call-overload]
        except OverflowError:
            del self._values[before:]
            return False
        self._kind = found
        self._ends.append(len(self._values))
        return True

    def packed(self) -> PackedOrder:
        """Return the order of everything that was taken."""
        item, batch = self._kind or ("int", None)
        ends = None if batch is None else _narrow(self._ends)
        return PackedOrder(_narrow(self._values), ends, item=item, batch=batch)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[object]:
        order = self.packed()
        return (order[number] for number in range(len(order)))


def _kind_of(index: object) -> tuple[str, str | None] | None:
    """Return the names of what an index is made of; None where that is no integer, and no flat batch of integers."""
    if type(index) in (list, tuple):
        kinds = set(map(type, index))  # type: ignore[call-overload]
        item = _ITEMS.get(kinds.pop()) if len(kinds) == 1 else None
        is_plain = item != "tensor" or all(map(_is_scalar, index))  # type: ignore[call-overload]
        return (item, _BATCHES[type(index)]) if item is not None and is_plain else None
    if isinstance(index, torch.Tensor | np.ndarray) and type(index) in _BATCHES and index.ndim == 1:
        return ("int", _BATCHES[type(index)]) if index.dtype in (torch.int64, np.dtype(np.int64)) else None
    item = _ITEMS.get(type(index))
    return (item, None) if item is not None and (item != "tensor" or _is_scalar(index)) else None


def _is_scalar(tensor: Any) -> bool:
    return tensor.ndim == 0 and tensor.dtype == torch.int64 and tensor.is_cpu and not tensor.requires_grad


def _narrow(integers: array[int]) -> _Integers:
    values = np.frombuffer(integers, dtype=np.int64) if integers else np.empty(0, dtype=np.int64)
    is_narrow = not len(values) or (values.min() >= -(2**31) and values.max() < 2**31)
    return values.astype("<i4" if is_narrow else "<i8")


def _digest(kind: str, values: _Integers, ends: _Integers | None) -> str:
    digest = xxhash.xxh3_128(kind.encode())
    for part in (values, ends):
        digest.update(b"" if part is None else f"{part.dtype.str}{len(part)}".encode())
        digest.update(b"" if part is None else np.ascontiguousarray(part).view(np.uint8).data)
    return digest.hexdigest()


def _refuse_other_array(value: object, name: str) -> None:
    if not isinstance(value, np.ndarray) or value.dtype not in _DTYPES or value.ndim != 1:
        raise ValueError(f"{name}: expected a row of integers")
    if len(value) > MAX_INDICES:
        raise ValueError(f"{name}: {len(value)} integers, expected at most {MAX_INDICES}")
