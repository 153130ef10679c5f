"""Says exactly what a value is, in type, order and bits; written without the product, which it is to judge."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def exact_digest(value: Any) -> str:
    """SHA-256 (hex) of everything about a value; which tensors are one is a part of it."""
    return hashlib.sha256("\n".join(_lines(value, {})).encode("utf-8", "surrogatepass")).hexdigest()


def _lines(value: Any, seen: dict[int, int]) -> Iterator[str]:
    if isinstance(value, torch.Tensor):
        yield _tensor(value, seen)
    elif isinstance(value, np.ndarray | np.generic):
        order = "F" if isinstance(value, np.ndarray) and not value.flags.c_contiguous else "C"
        yield f"numpy {type(value).__name__} {value.dtype.str} {value.shape} {order} {value.tobytes().hex()}"
    elif type(value) in (dict, OrderedDict, Counter):
        yield f"{type(value).__name__} of {len(value)}"
        for key, item in value.items():
            yield from _lines(key, seen)
            yield from _lines(item, seen)
    elif isinstance(value, defaultdict | deque) or hasattr(value, "_fields") or hasattr(value, "fields"):
        extra = getattr(value, "maxlen", getattr(value, "default_factory", getattr(value, "_fields", None)))
        yield f"{type(value).__name__} {extra}"
        yield from _lines(list(value.items() if isinstance(value, defaultdict) else value), seen)
    elif type(value).__name__ == "PartName":
        yield f"the object {value.name}"
    elif type(value) in (list, tuple, torch.Size):
        yield f"{type(value).__name__} of {len(value)}"
        for item in value:
            yield from _lines(item, seen)
    elif type(value) in (set, frozenset):
        yield f"{type(value).__name__} of {len(value)}"
        yield from sorted("\n".join(_lines(item, seen)) for item in value)
    elif type(value) is float:
        yield f"float {value.hex()}"
    else:
        assert value is None or type(value) in (bool, int, complex, str, bytes, torch.dtype, torch.device), type(value)
        yield f"{type(value).__name__} {value!r}"


def _tensor(value: torch.Tensor, seen: dict[int, int]) -> str:
    number = seen.setdefault(value.data_ptr() or id(value), len(seen))  # detached, a tensor is the same one
    flat = value.detach().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    facts = (type(value).__name__, value.dtype, tuple(value.shape), tuple(value.stride()), value.requires_grad)
    return f"tensor {number} {facts} {hashlib.sha256(data).hexdigest()}"
