"""Decode a JSON document and named tensors to a tree. Imports nothing by name, evaluates nothing, trusts no value."""

from __future__ import annotations

import base64
import collections
import math
import re
import struct
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from resumable.state.codec.limits import are_crowded, is_text
from resumable.state.codec.tree import FACTORIES, Array, Document, NamedValues, PartName, Path, Tree
from resumable.state.tensors import number_lists
from resumable.state.tensors.facts import DTYPES, TensorFacts, copy_bits, empty

_NUMPY_DTYPE = re.compile(r"[<>|][biufcSUmM]\d{1,9}(\[([1-9]\d{0,8})?[A-Za-z]{1,2}\])?")


def decode(document: Document, tensors: Mapping[str, Tensor]) -> Tree:
    """Decode a document; every reference to one key gives the same tensor object.

    Tensors and large arrays share memory with `tensors`.

    Raises:
        ValueError: The document is malformed; the message begins with the path of the first malformed value.
    """
    return _Decoder(tensors).node(document, ())


class _MalformedError(ValueError):
    """A malformed value, with its path in the message."""


class _Decoder:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self._listed: set[object] = set()  # the keys of tensors that became lists
        self._wrapped: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def node(self, node: Document, path: Path) -> Tree:
        if node is None or type(node) in (bool, int, float, str):
            return node
        if type(node) is list:
            return self._items(node, path)
        if type(node) is not dict:
            self.fail(path, f"a {type(node).__name__} in a document")
        if not any(key.startswith("$") for key in node):
            return {key: self.node(item, (*path, key)) for key, item in node.items()}
        return self._tagged(node, path)

    def fail(self, path: Path, reason: str, cause: Exception | None = None) -> NoReturn:
        raise _MalformedError(f"{'.'.join(path) or 'the document'}: {reason}") from cause

    def _tagged(self, node: dict[str, Document], path: Path) -> Tree:
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

    def integer(self, content: str, path: Path) -> int:
        if not re.fullmatch(r"-?0x[0-9a-f]+", content):
            self.fail(path, "malformed $int")
        return int(content, 16)

    def real(self, content: str, path: Path) -> float:
        if not re.fullmatch(r"[0-9a-f]{16}", content):
            self.fail(path, "malformed $float")
        value: float = struct.unpack(">d", bytes.fromhex(content))[0]
        return value

    def imaginary(self, content: list[Document], path: Path) -> complex:
        parts = [self.node(part, path) for part in content]
        floats = [part for part in parts if type(part) is float]
        if len(parts) != 2 or len(floats) != 2:
            self.fail(path, "malformed $complex")
        return complex(*floats)

    def text(self, content: str, path: Path) -> str:
        return self.octets(content, path).decode("utf-8", "surrogatepass")

    def octets(self, content: str, path: Path) -> bytes:
        return base64.b64decode(content, validate=True)

    def stored_octets(self, content: str, path: Path) -> bytes:
        return self.tensor(content, path).contiguous().numpy().tobytes()

    # Containers

    def fixed(self, content: list[Document], path: Path) -> tuple[Tree, ...]:
        return tuple(self._items(content, path))

    def floats(self, content: dict[str, Any], path: Path) -> list[Tree]:
        return self._numbers("$floats", content, path)

    def ints(self, content: dict[str, Any], path: Path) -> list[Tree]:
        return self._numbers("$ints", content, path)

    def mapping(self, content: list[Document], path: Path) -> dict[Hashable, Tree]:
        return dict(self._pairs(content, path))

    def ordered(self, content: list[Document], path: Path) -> collections.OrderedDict[Hashable, Tree]:
        return collections.OrderedDict(self._pairs(content, path))

    def queue(self, content: dict[str, Any], path: Path) -> collections.deque[Tree]:
        items, maxlen = self._filled(content, "maxlen", list, path)
        if maxlen is not None and (type(maxlen) is not int or not len(items) <= maxlen < 2**63):
            self.fail(path, "malformed $deque")
        return collections.deque(items, maxlen)

    def defaulting(self, content: dict[str, Any], path: Path) -> collections.defaultdict[Hashable, Tree]:
        items, factory = self._filled(content, "factory", dict, path)
        if (factory is not None and type(factory) is not str) or factory not in FACTORIES:
            self.fail(path, "malformed $defaultdict")
        return collections.defaultdict(FACTORIES[factory], items)

    def named(self, content: dict[str, Any], path: Path) -> NamedValues:
        items, name = self._filled(content, "type", dict, path)
        if type(name) is not str or not all(type(field) is str and field.isidentifier() for field in items):
            self.fail(path, "malformed $namedtuple")
        return NamedValues.of(name, tuple(items), items.values())

    def part(self, content: str, path: Path) -> PartName:
        return PartName(content)

    def counter(self, content: list[Document], path: Path) -> collections.Counter[Hashable]:
        counter: collections.Counter[Hashable] = collections.Counter()
        for key, count in self._pairs(content, path):
            counter[key] = count
        return counter

    def unordered(self, content: list[Document], path: Path) -> set[Tree]:
        members = self._items(content, path)
        self._check_hashes(members, path)
        items = set(members)
        if len(items) != len(content):
            self.fail(path, "a set with a duplicate value")
        return items

    def frozen(self, content: list[Document], path: Path) -> frozenset[Tree]:
        return frozenset(self.unordered(content, path))

    # NumPy and torch

    def array(self, content: dict[str, Any], path: Path) -> Array:
        dtype, shape, order = self._numpy_dtype(content["dtype"], path), content["shape"], content["order"]
        self._check_shape(shape, path)
        data = self.octets(content["data"], path)
        if order not in ("C", "F") or len(content) != 4 or len(data) != math.prod(shape) * dtype.itemsize:
            self.fail(path, "malformed $ndarray")
        self._check_values(data, dtype, path)
        return np.ndarray(shape, dtype, buffer=bytearray(data) or None, order=order)

    def scalar(self, content: dict[str, Any], path: Path) -> Tree:
        dtype = self._numpy_dtype(content["dtype"], path)
        data = self.octets(content["data"], path)
        if len(content) != 2 or len(data) != dtype.itemsize:
            self.fail(path, "malformed $scalar")
        self._check_values(data, dtype, path)
        return np.ndarray((), dtype, buffer=data or None)[()]

    def stored_array(self, content: str, path: Path) -> Array:
        array: Array = self.tensor(content, path).numpy()
        return array

    def tensor(self, content: str, path: Path) -> Tensor:
        if content not in self.tensors:
            self.fail(path, f"no tensor {content!r}")
        return self.tensors[content]

    def inline(self, content: dict[str, Any], path: Path) -> Tensor:
        self._check_shape(content["shape"], path)
        strides = content["strides"]
        data = bytearray(self.octets(content["data"], path))
        facts = TensorFacts(content["dtype"], tuple(content["shape"]), None if strides is None else tuple(strides))
        if len(data) != facts.nbytes or len(content) != 4:
            self.fail(path, "malformed $inline")
        tensor = empty(facts)
        if data:
            flat = torch.frombuffer(data, dtype=torch.uint8)
            copy_bits(tensor, flat.view(facts.torch_dtype).view(facts.shape))
        return tensor

    def leaf(self, content: dict[str, Any], path: Path) -> Tensor:
        return self._wrap("$leaf", content, path, lambda tensor: tensor.detach().requires_grad_())

    def parameter(self, content: dict[str, Any], path: Path) -> Tensor:
        return self._wrap("$parameter", content, path, torch.nn.Parameter)

    def frozen_parameter(self, content: dict[str, Any], path: Path) -> Tensor:
        return self._wrap("$frozen", content, path, lambda tensor: torch.nn.Parameter(tensor, requires_grad=False))

    def dtype(self, content: str, path: Path) -> torch.dtype:
        if content not in DTYPES:
            self.fail(path, f"unknown dtype {content!r}")
        return DTYPES[content]

    def size(self, content: list[Any], path: Path) -> torch.Size:
        self._check_shape(content, path)
        return torch.Size(content)

    def device(self, content: str, path: Path) -> torch.device:
        if not re.fullmatch(r"[a-z]{1,32}(:\d{1,4})?", content):
            self.fail(path, "malformed $device")
        return torch.device(content)

    # Parts

    def _numbers(self, tag: str, content: dict[str, Any], path: Path) -> list[Tree]:
        numbers = self.node(content, path)
        if not isinstance(numbers, np.ndarray) or numbers.ndim != 1 or numbers.dtype != number_lists.DTYPES[tag]:
            self.fail(path, f"{tag} holds no array of these numbers")
        # Items take four times the memory of the array, so no text may ask for one tensor often.
        key = content.get("$array")
        if key is not None and key in self._listed:
            self.fail(path, f"tensor {key!r} is in two lists")
        self._listed.add(key)
        numbers_list: list[Tree] = numbers.tolist()
        return numbers_list

    def _filled(self, content: dict[str, Any], key: str, kind: type, path: Path) -> tuple[Any, Any]:
        """Return the items, which are of this kind of container, and what stands beside them."""
        if content.keys() != {key, "items"}:
            self.fail(path, f"expected {key} and items")
        items = self.node(content["items"], path)
        if type(items) is not kind:
            self.fail(path, f"items are a {type(items).__name__}, expected a {kind.__name__}")
        return items, content[key]

    def _items(self, content: list[Document], path: Path) -> list[Tree]:
        return [self.node(item, (*path, str(index))) for index, item in enumerate(content)]

    def _pairs(self, content: list[Document], path: Path) -> list[tuple[Any, Any]]:
        pairs: list[tuple[Any, Any]] = []
        for pair in content:
            if type(pair) is not list or len(pair) != 2:
                self.fail(path, "expected pairs of key and value")
            key = self.node(pair[0], path)
            pairs.append((key, self.node(pair[1], (*path, str(key)))))
        self._check_hashes([key for key, _ in pairs], path)
        if len(dict(pairs)) != len(pairs):
            self.fail(path, "a duplicate key")
        return pairs

    def _check_hashes(self, keys: Iterable[object], path: Path) -> None:
        if are_crowded(keys):
            self.fail(path, "more keys share one hash than the format allows")

    def _wrap(self, tag: str, content: dict[str, Any], path: Path, make: Callable[[Tensor], Tensor]) -> Tensor:
        tensor = self.node(content, path)
        if not isinstance(tensor, Tensor):
            self.fail(path, f"{tag} holds no tensor")
        # A parameter with two names remains one parameter.
        if (tag, id(tensor)) not in self._wrapped:
            self._wrapped[tag, id(tensor)] = tensor, make(tensor)  # both kept alive, so that no `id` is reused
        return self._wrapped[tag, id(tensor)][1]

    def _numpy_dtype(self, text: object, path: Path) -> np.dtype[np.generic]:
        if type(text) is not str or not _NUMPY_DTYPE.fullmatch(text):
            self.fail(path, f"malformed NumPy dtype {text!r}")
        return np.dtype(text)

    def _check_values(self, data: bytes, dtype: np.dtype[np.generic], path: Path) -> None:
        if not is_text(data, dtype):
            self.fail(path, "malformed text in an array")

    def _check_shape(self, shape: object, path: Path) -> None:
        if type(shape) is not list or len(shape) > 64 or any(type(n) is not int or not 0 <= n < 2**48 for n in shape):
            self.fail(path, "malformed shape")


_Reader = Callable[[_Decoder, Any, Path], Tree]
_READERS: Mapping[str, tuple[type, _Reader]] = {
    "$int": (str, _Decoder.integer),
    "$float": (str, _Decoder.real),
    "$complex": (list, _Decoder.imaginary),
    "$string": (str, _Decoder.text),
    "$bytes": (str, _Decoder.octets),
    "$octets": (str, _Decoder.stored_octets),
    "$floats": (dict, _Decoder.floats),
    "$ints": (dict, _Decoder.ints),
    "$tuple": (list, _Decoder.fixed),
    "$dict": (list, _Decoder.mapping),
    "$ordered": (list, _Decoder.ordered),
    "$deque": (dict, _Decoder.queue),
    "$defaultdict": (dict, _Decoder.defaulting),
    "$namedtuple": (dict, _Decoder.named),
    "$object": (str, _Decoder.part),
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
