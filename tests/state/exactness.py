"""What "the very same" means in these tests, and trees of everything that can be stored; knows no storage."""

from __future__ import annotations

import collections
import struct
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from resumable.state.tensors.facts import bytes_of, facts_of


def exactly(left: Any, right: Any) -> bool:
    """Equal in type, order and bits, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack(">d", left) == struct.pack(">d", right)
    if isinstance(left, complex):
        return exactly(left.real, right.real) and exactly(left.imag, right.imag)
    if isinstance(left, collections.defaultdict) and left.default_factory is not right.default_factory:
        return False
    if isinstance(left, collections.deque):
        return left.maxlen == right.maxlen and exactly(list(left), list(right))
    if isinstance(left, dict):
        return exactly(list(left.items()), list(right.items()))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(exactly, left, right))
    if isinstance(left, np.ndarray | np.generic):
        return bool(left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes())
    if isinstance(left, torch.Tensor):
        facts = facts_of(left) == facts_of(right) and left.requires_grad == right.requires_grad
        return facts and bytes_of(left) == bytes_of(right)
    return bool(left == right)


DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e8m0fnu,
    torch.complex64,
    torch.complex128,
    torch.bool,
    torch.uint8,
    torch.uint16,
    torch.int64,
)
keys = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=8)
scalars = keys | st.floats() | st.complex_numbers() | st.characters().map(str) | st.integers(-(2**300), 2**300)


def trees_of(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Nested containers of these."""
    return st.recursive(leaves, _containers, max_leaves=20)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4).map(collections.OrderedDict)
        | st.dictionaries(keys, st.integers(), max_size=4).map(collections.Counter)
        | st.tuples(st.none() | st.integers(4, 9), st.lists(inner, max_size=4)).map(
            lambda made: collections.deque(made[1], made[0])
        )
        | st.tuples(st.sampled_from([None, int, float, list, dict, set]), st.dictionaries(keys, inner, max_size=4)).map(
            lambda made: collections.defaultdict(*made)
        )
        | st.sets(keys, max_size=4)
        | st.frozensets(keys, max_size=4)
    )


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any bits in any shape, row by row or not; some require grad, and some of these are parameters."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    count = int(np.prod(shape)) * dtype.itemsize
    data = draw(st.binary(min_size=count, max_size=count))
    if dtype is torch.bool:
        data = bytes(byte % 2 for byte in data)
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if count else torch.empty(0, dtype=torch.uint8)
    tensor = flat.view(dtype).view(shape).clone()
    if draw(st.booleans()):
        tensor = tensor.permute(draw(st.permutations(range(tensor.ndim))))
    kind = draw(st.sampled_from(["plain", "leaf", "parameter", "frozen"]))
    if kind == "plain" or not (dtype.is_floating_point or dtype.is_complex):
        return tensor
    return tensor.requires_grad_() if kind == "leaf" else torch.nn.Parameter(tensor, requires_grad=kind == "parameter")


trees = trees_of(scalars)
trees_of_tensors = trees_of(scalars | tensors())
