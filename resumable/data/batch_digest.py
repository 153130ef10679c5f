"""The digest of one batch: bytes of tensors, arrays, strings and numbers, and the types of other objects.

Independent of loaders and positions.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

# Where webdataset found a sample. A launch may find the same one in another folder.
_PLACES = frozenset({"__url__", "__local_path__"})

_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.jagged: ("offsets", "values"),
}
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_COLUMNS = 1024
_IN_NUMPY = {torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool}  # the usual ones
_MAX_OBJECTS = 200  # looked into for the tensors of an object
_PLAIN = (str, bytes, int, float, complex, type, ModuleType, FunctionType, type(None))


class BatchDigest(NamedTuple):
    """The digest of what is in main memory, and sums of what is on devices, which are not waited for."""

    digest: bytes
    sums: list[torch.Tensor]


def digest_batch(batch: object) -> BatchDigest:
    """Return the digest of a batch; batches of the same content have the same one, in any launch."""
    digester = _Digester()
    digester.add(batch)
    return BatchDigest(digester.running.digest(), digester.sums)


class _Digester:
    def __init__(self) -> None:
        self.running = xxhash.xxh3_128()
        self.sums: list[torch.Tensor] = []

    def add(self, item: object) -> None:
        if isinstance(item, torch.Tensor):
            self._add_tensor(item)
        elif isinstance(item, np.ndarray | np.generic):
            self._add_array(np.asarray(item))
        elif isinstance(item, Mapping):
            self._add_mapping(item)
        elif isinstance(item, list | tuple):
            self._add_items(item)
        elif isinstance(item, bytes | bytearray | memoryview):
            held = item.tobytes() if isinstance(item, memoryview) else item  # it may have gaps
            self._frame("b", len(held))
            self.running.update(held)
        elif isinstance(item, str):
            self.add(item.encode("utf-8", "surrogatepass"))
        elif isinstance(item, bool | int | float | complex | None):
            self._frame("n", repr(item))
        else:
            self._add_object(item)

    def _frame(self, *parts: object) -> None:
        self.running.update(f"{parts}".encode())

    def _add_mapping(self, items: Mapping[Any, Any]) -> None:
        self._frame("m", len(items))
        for key, value in items.items():
            if not (isinstance(key, str) and key in _PLACES):
                self.add(key)
                self.add(value)

    def _add_items(self, items: list[Any] | tuple[Any, ...]) -> None:
        self._frame("l", len(items))
        kinds = set(map(type, items))
        try:
            if kinds <= {int}:
                return self.running.update(array("q", items))
            if kinds == {float}:
                return self.running.update(array("d", items))
        except OverflowError:
            pass
        for item in items:
            self.add(item)

    def _add_array(self, values: np.ndarray[Any, Any]) -> None:
        self._frame("a", values.dtype.str, values.shape)
        if values.dtype.hasobject:
            self.add(values.ravel().tolist())
        else:
            self.running.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def _add_tensor(self, tensor: torch.Tensor) -> None:
        tensor = tensor.detach()
        parts = _parts(tensor)
        if parts is not None:
            self._frame("s", tensor.layout, len(parts))
            for part in parts:
                self._add_tensor(part)
            return
        self._frame("t", _name_of(tensor.dtype), tuple(tensor.shape))
        if tensor.layout is not torch.strided or tensor.device.type == "meta" or tensor.is_quantized:
            return
        if type(tensor) is not torch.Tensor or tensor.is_conj() or tensor.is_neg():
            tensor = tensor.as_subclass(torch.Tensor).resolve_conj().resolve_neg()
        if not tensor.is_cpu:
            self.sums.append(sums_of(tensor.contiguous().reshape(-1).view(torch.uint8)))
            return
        if tensor.dtype not in _IN_NUMPY:
            tensor = tensor.contiguous().reshape(-1).view(torch.uint8)
        values: Any = tensor.contiguous().numpy()
        self.running.update(values)

    def _add_object(self, item: object) -> None:
        self._frame("o", type(item).__qualname__)
        for tensor in _tensors_inside(item, {}):
            self.add(tensor)


_name_of = functools.cache(str)  # of a dtype


def _parts(tensor: torch.Tensor) -> list[torch.Tensor] | None:
    """Return the plain tensors that a sparse, nested or wrapped one is made of; None for a plain one."""
    if tensor.layout in _PARTS:
        return [getattr(tensor, name)() for name in _PARTS[tensor.layout]]
    if tensor.is_nested:
        return list(tensor.unbind())
    wrapper: Any = tensor
    if type(tensor) is not torch.Tensor and is_traceable_wrapper_subclass(wrapper):
        return [getattr(wrapper, name) for name in wrapper.__tensor_flatten__()[0]]
    return None


def sums_of(flat: torch.Tensor) -> torch.Tensor:
    """Return two sums over the bytes of a flat tensor, on its device: any other content or order changes them.

    Integers wrap around, so no order of summation changes a bit. Nothing as large as the tensor is allocated.
    """
    size = next(size for size in (8, 4, 2, 1) if flat.numel() % size == 0 and flat.storage_offset() % size == 0)
    words = flat.view(_WORDS[size])
    whole = words.numel() // _COLUMNS * _COLUMNS
    table = words[:whole].reshape(-1, _COLUMNS)
    sums = [table.sum(0, dtype=torch.int64), table.sum(1, dtype=torch.int64), words[whole:].to(torch.int64)]
    return torch.stack([_weighted(torch.cat([sums[0], sums[2]])), _weighted(sums[1])])


def _weighted(values: torch.Tensor) -> torch.Tensor:
    weights = torch.arange(1, 2 * values.numel() + 1, 2, device=values.device) * 0x9E3779B97F4A7C1
    return (values * weights).sum()


def _tensors_inside(item: object, seen: dict[int, object]) -> Iterator[object]:
    """Yield the tensors and arrays in the attributes of an object, in their order; an end is put to large objects."""
    if isinstance(item, torch.Tensor | np.ndarray):
        yield item
    elif id(item) not in seen and len(seen) < _MAX_OBJECTS:
        seen[id(item)] = item
        for value in _values_of(item):
            if not isinstance(value, _PLAIN):
                yield from _tensors_inside(value, seen)


def _values_of(item: object) -> Iterable[object]:
    if isinstance(item, Mapping):
        return list(item.values())[:_MAX_OBJECTS]
    if isinstance(item, list | tuple):
        return item[:_MAX_OBJECTS]
    return list(vars(item).values()) if hasattr(item, "__dict__") else ()
