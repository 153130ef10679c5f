"""A JSON document and named tensors back into a tree; imports nothing by name, evaluates nothing, trusts nothing."""

from __future__ import annotations

import base64
import collections
import math
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from resumable.state.codec.limits import are_crowded, is_text
from resumable.state.tensors.facts import DTYPES, TensorFacts, empty, fill

_NUMPY_DTYPE = re.compile(r"[<>|][biufcSUmM]\d{1,9}(\[([1-9]\d{0,8})?[A-Za-z]{1,2}\])?")


def decode(document: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that a document stands for; each key gives one tensor object, however often it is referred to.

    Tensors and large arrays share memory with `tensors`. Raises `ValueError` with the path of what is malformed.
    """
    return _Decoder(tensors).node(document, ())


class _MalformedError(ValueError):
    """Says already where."""


class _Decoder:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self._wrapped: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def node(self, node: Any, path: tuple[str, ...]) -> Any:
        if node is None or type(node) in (bool, int, float, str):
            return node
        if type(node) is list:
            return self._items(node, path)
        if type(node) is not dict:
            self.fail(path, f"a {type(node).__name__} in a document")
        if not any(key.startswith("$") for key in node):
            return {key: self.node(item, (*path, key)) for key, item in node.items()}
        return self._tagged(node, path)

    def fail(self, path: tuple[str, ...], reason: str, cause: Exception | None = None) -> NoReturn:
        raise _MalformedError(f"{'.'.join(path) or 'the document'}: {reason}") from cause

    def _tagged(self, node: dict[str, Any], path: tuple[str, ...]) -> Any:
        tag, content = next(iter(node.items()))
        if len(node) != 1 or tag not in _READERS:
            self.fail(path, f"unknown tag in {sorted(node)[:3]}")
        expected, read = _READERS[tag]
        if type(content) is not expected:
            self.fail(path, f"{tag} holds a {type(content).__name__}, expected a {expected.__name__}")
        try:
            return read(self, content, path)
        except _MalformedError:
            raise
        except (ValueError, TypeError, ArithmeticError, RuntimeError, KeyError, struct.error, MemoryError) as error:
            self.fail(path, f"malformed {tag}: {error!r}", cause=error)

    # Scalars

    def integer(self, content: str, path: tuple[str, ...]) -> int:
        if not re.fullmatch(r"-?0x[0-9a-f]+", content):
            self.fail(path, "malformed $int")
        return int(content, 16)

    def real(self, content: str, path: tuple[str, ...]) -> float:
        if not re.fullmatch(r"[0-9a-f]{16}", content):
            self.fail(path, "malformed $float")
        value: float = struct.unpack(">d", bytes.fromhex(content))[0]
        return value

    def imaginary(self, content: list[Any], path: tuple[str, ...]) -> complex:
        parts = [self.node(part, path) for part in content]
        if len(parts) != 2 or any(type(part) is not float for part in parts):
            self.fail(path, "malformed $complex")
        return complex(*parts)

    def text(self, content: str, path: tuple[str, ...]) -> str:
        return self.octets(content, path).decode("utf-8", "surrogatepass")

    def octets(self, content: str, path: tuple[str, ...]) -> bytes:
        return base64.b64decode(content, validate=True)

    def stored_octets(self, content: str, path: tuple[str, ...]) -> bytes:
        return self.tensor(content, path).contiguous().numpy().tobytes()

    # Containers

    def fixed(self, content: list[Any], path: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple(self._items(content, path))

    def mapping(self, content: list[Any], path: tuple[str, ...]) -> dict[Any, Any]:
        return dict(self._pairs(content, path))

    def ordered(self, content: list[Any], path: tuple[str, ...]) -> collections.OrderedDict[Any, Any]:
        return collections.OrderedDict(self._pairs(content, path))

    def counter(self, content: list[Any], path: tuple[str, ...]) -> collections.Counter[Any]:
        counter: collections.Counter[Any] = collections.Counter()
        for key, count in self._pairs(content, path):
            counter[key] = count
        return counter

    def unordered(self, content: list[Any], path: tuple[str, ...]) -> set[Any]:
        members = self._items(content, path)
        self._check_hashes(members, path)
        items = set(members)
        if len(items) != len(content):
            self.fail(path, "a set with a value twice")
        return items

    def frozen(self, content: list[Any], path: tuple[str, ...]) -> frozenset[Any]:
        return frozenset(self.unordered(content, path))

    # NumPy and torch

    def array(self, content: dict[str, Any], path: tuple[str, ...]) -> np.ndarray[Any, Any]:
        dtype, shape, order = self._numpy_dtype(content["dtype"], path), content["shape"], content["order"]
        self._check_shape(shape, path)
        data = self.octets(content["data"], path)
        if order not in ("C", "F") or len(content) != 4 or len(data) != math.prod(shape) * dtype.itemsize:
            self.fail(path, "malformed $ndarray")
        self._check_values(data, dtype, path)
        return np.ndarray(shape, dtype, buffer=bytearray(data) or None, order=order)

    def scalar(self, content: dict[str, Any], path: tuple[str, ...]) -> Any:
        dtype = self._numpy_dtype(content["dtype"], path)
        data = self.octets(content["data"], path)
        if len(content) != 2 or len(data) != dtype.itemsize:
            self.fail(path, "malformed $scalar")
        self._check_values(data, dtype, path)
        return np.ndarray((), dtype, buffer=data or None)[()]

    def stored_array(self, content: str, path: tuple[str, ...]) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = self.tensor(content, path).numpy()
        return array

    def tensor(self, content: str, path: tuple[str, ...]) -> Tensor:
        if content not in self.tensors:
            self.fail(path, f"no tensor {content!r}")
        return self.tensors[content]

    def inline(self, content: dict[str, Any], path: tuple[str, ...]) -> Tensor:
        self._check_shape(content["shape"], path)
        strides = content["strides"]
        data = bytearray(self.octets(content["data"], path))
        facts = TensorFacts(content["dtype"], tuple(content["shape"]), None if strides is None else tuple(strides))
        if len(data) != facts.nbytes or len(content) != 4:
            self.fail(path, "malformed $inline")
        tensor = empty(facts)
        if data:
            flat = torch.frombuffer(data, dtype=torch.uint8)
            fill(tensor, flat.view(facts.torch_dtype).view(facts.shape))
        return tensor

    def leaf(self, content: dict[str, Any], path: tuple[str, ...]) -> Tensor:
        return self._wrap("$leaf", content, path, lambda tensor: tensor.detach().requires_grad_())

    def parameter(self, content: dict[str, Any], path: tuple[str, ...]) -> Tensor:
        return self._wrap("$parameter", content, path, torch.nn.Parameter)

    def frozen_parameter(self, content: dict[str, Any], path: tuple[str, ...]) -> Tensor:
        return self._wrap("$frozen", content, path, lambda tensor: torch.nn.Parameter(tensor, requires_grad=False))

    def dtype(self, content: str, path: tuple[str, ...]) -> torch.dtype:
        if content not in DTYPES:
            self.fail(path, f"unknown dtype {content!r}")
        return DTYPES[content]

    def size(self, content: list[Any], path: tuple[str, ...]) -> torch.Size:
        self._check_shape(content, path)
        return torch.Size(content)

    def device(self, content: str, path: tuple[str, ...]) -> torch.device:
        if not re.fullmatch(r"[a-z]{1,32}(:\d{1,4})?", content):
            self.fail(path, "malformed $device")
        return torch.device(content)

    # Parts

    def _items(self, content: list[Any], path: tuple[str, ...]) -> list[Any]:
        return [self.node(item, (*path, str(index))) for index, item in enumerate(content)]

    def _pairs(self, content: list[Any], path: tuple[str, ...]) -> list[tuple[Any, Any]]:
        pairs: list[tuple[Any, Any]] = []
        for pair in content:
            if type(pair) is not list or len(pair) != 2:
                self.fail(path, "expected pairs of key and value")
            key = self.node(pair[0], path)
            pairs.append((key, self.node(pair[1], (*path, str(key)))))
        self._check_hashes([key for key, _ in pairs], path)
        if len(dict(pairs)) != len(pairs):
            self.fail(path, "a key stands twice")
        return pairs

    def _check_hashes(self, keys: list[Any], path: tuple[str, ...]) -> None:
        if are_crowded(keys):
            self.fail(path, "more keys of one hash than chance explains")

    def _wrap(
        self, tag: str, content: dict[str, Any], path: tuple[str, ...], make: Callable[[Tensor], Tensor]
    ) -> Tensor:
        tensor = self.node(content, path)
        if not isinstance(tensor, Tensor):
            self.fail(path, f"{tag} holds no tensor")
        # One parameter under two names is still one parameter.
        if (tag, id(tensor)) not in self._wrapped:
            self._wrapped[tag, id(tensor)] = tensor, make(tensor)  # both kept, so that no `id` comes twice
        return self._wrapped[tag, id(tensor)][1]

    def _numpy_dtype(self, text: Any, path: tuple[str, ...]) -> np.dtype[Any]:
        if type(text) is not str or not _NUMPY_DTYPE.fullmatch(text):
            self.fail(path, f"malformed NumPy dtype {text!r}")
        return np.dtype(text)

    def _check_values(self, data: bytes, dtype: np.dtype[Any], path: tuple[str, ...]) -> None:
        if not is_text(data, dtype):
            self.fail(path, "malformed text in an array")

    def _check_shape(self, shape: Any, path: tuple[str, ...]) -> None:
        if type(shape) is not list or len(shape) > 64 or any(type(n) is not int or not 0 <= n < 2**48 for n in shape):
            self.fail(path, "malformed shape")


_Reader = Callable[[_Decoder, Any, tuple[str, ...]], Any]
_READERS: Mapping[str, tuple[type, _Reader]] = {
    "$int": (str, _Decoder.integer),
    "$float": (str, _Decoder.real),
    "$complex": (list, _Decoder.imaginary),
    "$string": (str, _Decoder.text),
    "$bytes": (str, _Decoder.octets),
    "$octets": (str, _Decoder.stored_octets),
    "$tuple": (list, _Decoder.fixed),
    "$dict": (list, _Decoder.mapping),
    "$ordered": (list, _Decoder.ordered),
    "$counter": (list, _Decoder.counter),
    "$set": (list, _Decoder.unordered),
    "$frozenset": (list, _Decoder.frozen),
    "$ndarray": (dict, _Decoder.array),
    "$array": (str, _Decoder.stored_array),
    "$scalar": (dict, _Decoder.scalar),
    "$tensor": (str, _Decoder.tensor),
    "$inline": (dict, _Decoder.inline),
    "$leaf": (dict, _Decoder.leaf),
    "$parameter": (dict, _Decoder.parameter),
    "$frozen_parameter": (dict, _Decoder.frozen_parameter),
    "$dtype": (str, _Decoder.dtype),
    "$size": (list, _Decoder.size),
    "$device": (str, _Decoder.device),
}
