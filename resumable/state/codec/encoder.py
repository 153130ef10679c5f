"""Encode a tree of plain values and tensors as a JSON document and named tensors. Independent of objects and files.

Types are exact: a value that cannot be restored with its own type is refused, with its path.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor

from resumable.errors import StateError
from resumable.state.codec.advice import advice
from resumable.state.codec.arrays import as_tensor, fits_torch
from resumable.state.codec.limits import are_crowded, is_text
from resumable.state.codec.named_tuples import named_values
from resumable.state.codec.small_tensors import base64_text, inline_document, is_small
from resumable.state.codec.tree import FACTORIES, Array, Document, NamedValues, PartName, Path
from resumable.state.tensors.described import DescribedTensors, Description
from resumable.state.tensors.document_tags import CONTAINERS, PARTS
from resumable.state.tensors.facts import bytes_of, facts_of, refusal, same_place
from resumable.state.tensors.number_lists import DTYPES, number_document, tag_of

# Strict JSON allows 64 levels; the rest is for the file that contains the document.
MAX_DOCUMENT_DEPTH = 56
MAX_NODES = 1_000_000
MAX_TEXT_BYTES = 32 * 2**20
# Bytes and arrays of this size or more are stored as tensors: JSON is for small values.
INLINE_BYTES = 1024
# A list of numbers stays in the document for longer, where `diff` and paths find its items.
INLINE_LIST_BYTES = 2**20


@dataclass(frozen=True)
class Encoded:
    """A JSON document, the tensors that it refers to by key, and the stored key of each alias.

    `share` is the part of the values or of the text that one document may have, whichever is larger. `features` are
    those parts of the format in the document that not every reader knows.
    """

    document: Document
    tensors: DescribedTensors
    aliases: dict[str, str]
    share: float
    features: frozenset[str] = frozenset()


Advice = Callable[[object], str]


def encode(
    tree: object,
    *,
    key_of: Callable[[Path], str] | None,
    where: str,
    advice: Advice = advice,
    arrays: bool = True,
    inline: bool = False,
) -> Encoded:
    """Encode `tree` as a document that refers to the live tensors; none of them is copied.

    Args:
        tree: The value to encode; a value that is not a `Tree` is refused.
        key_of: Returns the key of the tensor at a path. With None, tensors are written into the document.
        where: The name of the tree, with which paths in messages begin.
        advice: Returns the hint for a value that cannot be stored.
        arrays: Write long lists of numbers as arrays. Versions 1 and 2 of the format had none.
        inline: Write small tensors of the host into the document, except aliases and tensors that have one.

    Raises:
        StateError: A value cannot be restored exactly; the error names the path of the first one.
    """
    encoder = _Encoder(key_of, where, advice, arrays=arrays, inline=inline)
    document = encoder.node(tree, (), 1)
    if encoder.shared:  # the first of two aliases was written before the second was found
        encoder = _Encoder(key_of, where, advice, arrays=arrays, inline=inline, shared=encoder.shared)
        document = encoder.node(tree, (), 1)
    tensors = DescribedTensors(encoder.tensors, Description.of(encoder.tensors))
    return Encoded(document, tensors, encoder.aliases, encoder.share, frozenset(encoder.features))


class _Encoder:
    def __init__(
        self,
        key_of: Callable[[Path], str] | None,
        where: str,
        advice: Advice,
        *,
        arrays: bool,
        inline: bool,
        shared: Collection[object] = (),
    ) -> None:
        self.key_of = key_of
        self.arrays = arrays
        self.inline = inline
        self.shared = {*shared}  # the places of more than one small tensor
        self._small: set[object] = set()  # the places of small tensors
        self.advice = advice
        self.where = where
        self.tensors: dict[str, Tensor] = {}
        self.aliases: dict[str, str] = {}
        self.features: set[str] = set()
        self._keys: dict[int, list[str]] = {}  # by address: at most one key per memory
        self._open: set[int] = set()
        self._nodes = 0
        self._text_bytes = 0

    @property
    def share(self) -> float:
        return max(self._nodes / MAX_NODES, self._text_bytes / MAX_TEXT_BYTES)

    def node(self, given: object, path: Path, depth: int) -> Document:
        value = given
        if value is None or type(value) is bool:
            return value
        write = _WRITERS.get(type(value))
        if write is None and isinstance(value, tuple):
            value, write = named_values(value), _Encoder.named
        if write is None or value is None:
            self._refuse_type(given, path)
        self._nodes += 1
        if depth > MAX_DOCUMENT_DEPTH or self._nodes > MAX_NODES:
            self._refuse_size(path, depth)
        return write(self, value, path, depth)

    def refuse(self, path: Path, reason: str, hint: str) -> NoReturn:
        raise StateError(f"{'.'.join((self.where, *path))}: {reason}", hint)

    # Scalars

    def number(self, value: float, path: Path, depth: int) -> Document:
        return number_document(value)

    def imaginary(self, value: complex, path: Path, depth: int) -> Document:
        return {"$complex": [number_document(value.real), number_document(value.imag)]}

    def text(self, value: str, path: Path, depth: int) -> Document:
        self._count_text(len(value), path)
        if _is_unicode(value):
            return value
        return {"$string": base64_text(value.encode("utf-8", "surrogatepass"))}

    def octets(self, value: bytes, path: Path, depth: int) -> Document:
        if self.key_of is not None and len(value) >= INLINE_BYTES:
            return {"$octets": self._stored(torch.frombuffer(bytearray(value), dtype=torch.uint8), path)}
        return {"$bytes": self._base64(value, path)}

    # Containers

    def sequence(self, value: list[object], path: Path, depth: int) -> Document:
        tag = tag_of(value) if self.arrays else None
        if tag is None:
            return self._items(value, path, depth)
        return {tag: self._array(np.array(value, dtype=DTYPES[tag]), path, inline_bytes=INLINE_LIST_BYTES)}

    def fixed(self, value: tuple[object, ...], path: Path, depth: int) -> Document:
        return {"$tuple": self._items(value, path, depth + 1)}

    def mapping(self, value: dict[Any, object], path: Path, depth: int) -> Document:
        if all(map(_is_name, value)):
            self._enter(value, path)
            self._count_text(sum(map(len, value)), path)
            nodes = {key: self.node(item, (*path, key), depth + 1) for key, item in value.items()}
            self._leave(value)
            return nodes
        return {"$dict": self._pairs(value, path, depth)}

    def ordered(self, value: collections.OrderedDict[object, object], path: Path, depth: int) -> Document:
        return {"$ordered": self._pairs(value, path, depth)}

    def queue(self, value: collections.deque[object], path: Path, depth: int) -> Document:
        self.features.add(CONTAINERS)
        self._enter(value, path)
        items = self.sequence(list(value), path, depth + 2)
        self._leave(value)
        return {"$deque": {"maxlen": value.maxlen, "items": items}}

    def defaulting(self, value: collections.defaultdict[object, object], path: Path, depth: int) -> Document:
        factory = next((name for name, made in FACTORIES.items() if made is value.default_factory), "")
        if factory == "":
            found = getattr(value.default_factory, "__name__", value.default_factory)
            self.refuse(
                path,
                f"a defaultdict of {found} cannot be stored",
                "make it of int, float, list, dict or set, or keep a plain dict and call setdefault()",
            )
        self.features.add(CONTAINERS)
        return {"$defaultdict": {"factory": factory, "items": self.mapping(value, path, depth + 2)}}

    def named(self, value: NamedValues, path: Path, depth: int) -> Document:
        self.features.add(CONTAINERS)
        self._count_text(len(value.type_name), path)
        items = self.mapping(dict(zip(value.fields, value, strict=True)), path, depth + 2)
        return {"$namedtuple": {"type": value.type_name, "items": items}}

    def part(self, value: PartName, path: Path, depth: int) -> Document:
        self.features.add(PARTS)
        return {"$object": value.name}

    def counter(self, value: collections.Counter[object], path: Path, depth: int) -> Document:
        return {"$counter": self._pairs(value, path, depth)}

    def unordered(self, value: set[object], path: Path, depth: int) -> Document:
        return {"$set": self._sorted(value, path, depth)}

    def frozen(self, value: frozenset[object], path: Path, depth: int) -> Document:
        return {"$frozenset": self._sorted(value, path, depth)}

    # NumPy and torch

    def array(self, value: Array, path: Path, depth: int) -> Document:
        if value.dtype.hasobject or value.dtype.fields is not None or value.dtype.kind == "V":
            self.refuse(path, f"an array of dtype {value.dtype} cannot be stored", "keep one plain array per field")
        return self._array(value, path, inline_bytes=INLINE_BYTES)

    def _array(self, value: Array, path: Path, *, inline_bytes: int) -> Document:
        if self.key_of is not None and value.nbytes >= inline_bytes and fits_torch(value.dtype):
            return {"$array": self._stored(as_tensor(value), path)}
        order: Literal["F", "C"] = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        content = value.tobytes(order=order)
        if not is_text(content, value.dtype):
            self.refuse(path, "an array of invalid Unicode cannot be stored", "fill it before the first save")
        data = self._base64(content, path)
        return {"$ndarray": {"dtype": value.dtype.str, "shape": list(value.shape), "order": order, "data": data}}

    def scalar(self, value: np.generic, path: Path, depth: int) -> Document:
        return {"$scalar": {"dtype": value.dtype.str, "data": self._base64(value.tobytes(), path)}}

    def tensor(self, value: Tensor, path: Path, depth: int) -> Document:
        reason = refusal(value)
        if reason is not None:
            self.refuse(path, *reason)
        stands_here = self.key_of is None or (self.inline and self._is_alone(value))
        plain: Document = self._inline(value, path) if stands_here else {"$tensor": self._stored(value, path)}
        return {"$leaf": plain} if value.requires_grad else plain

    def parameter(self, value: torch.nn.Parameter, path: Path, depth: int) -> Document:
        tag = "$parameter" if value.requires_grad else "$frozen_parameter"
        return {tag: self.tensor(value.detach(), path, depth + 1)}

    def dtype(self, value: torch.dtype, path: Path, depth: int) -> Document:
        return {"$dtype": str(value).removeprefix("torch.")}

    def size(self, value: torch.Size, path: Path, depth: int) -> Document:
        return {"$size": list(value)}

    def device(self, value: torch.device, path: Path, depth: int) -> Document:
        return {"$device": str(value)}

    # Parts

    def _items(self, values: Iterable[object], path: Path, depth: int) -> list[Document]:
        self._enter(values, path)
        nodes = [self.node(item, (*path, str(index)), depth + 1) for index, item in enumerate(values)]
        self._leave(values)
        return nodes

    def _pairs(self, value: Mapping[Any, object], path: Path, depth: int) -> list[Document]:
        self._refuse_crowded(value, path)
        self._enter(value, path)
        nodes: list[Document] = [
            [self._hashable(key, (*path, str(key)), depth + 3), self.node(item, (*path, str(key)), depth + 3)]
            for key, item in value.items()
        ]
        self._leave(value)
        return nodes

    def _sorted(self, value: Iterable[object], path: Path, depth: int) -> list[Document]:
        self._refuse_crowded(value, path)
        nodes = [self._hashable(item, (*path, "*"), depth + 2) for item in value]
        return sorted(nodes, key=lambda node: json.dumps(node, sort_keys=True))

    def _refuse_crowded(self, keys: Iterable[object], path: Path) -> None:
        if are_crowded(keys):
            self.refuse(path, "more keys share one hash than the format allows", "use strings as keys")

    def _hashable(self, value: object, path: Path, depth: int) -> Document:
        if type(value) in (Tensor, torch.nn.Parameter):
            self.refuse(path, "a tensor as a key or in a set cannot be stored", "use a name for it")
        return self.node(value, path, depth)

    def _stored(self, tensor: Tensor, path: Path) -> str:
        assert self.key_of is not None
        key = self.key_of(path)
        if not key.isascii():
            key = key.encode("utf-8", "backslashreplace").decode()
        # Different paths may give one key ("a.b" and a, b), and one key is reserved by the format.
        while key in self.tensors or key in self.aliases or key == "__metadata__":
            key += "~"
        if tensor.numel():
            near = self._keys.setdefault(tensor.data_ptr(), [])
            stored = self._same(tensor, near) if near else None
            if stored is not None:
                self.aliases[key] = stored
                return stored
            near.append(key)
        self.tensors[key] = tensor.detach()
        return key

    def _same(self, tensor: Tensor, near: Iterable[str]) -> str | None:
        """Return the key of the tensor that shares this memory and layout, if there is one."""
        place = same_place(tensor)
        return next((key for key in near if same_place(self.tensors[key]) == place), None)

    def _is_alone(self, tensor: Tensor) -> bool:
        """Return whether a tensor is small, and has no alias among those seen so far."""
        if not is_small(tensor):
            return False
        place = same_place(tensor)
        if place is not None:
            (self.shared if place in self._small else self._small).add(place)
        return place not in self.shared

    def _inline(self, tensor: Tensor, path: Path) -> Document:
        data = bytes_of(tensor)
        self._count_text(len(data) * 4 // 3, path)
        return inline_document(facts_of(tensor), data)

    def _base64(self, data: bytes | memoryview, path: Path) -> str:
        self._count_text(len(data) * 4 // 3, path)
        return base64_text(data)

    def _enter(self, value: object, path: Path) -> None:
        if id(value) in self._open:
            self.refuse(path, f"this {type(value).__name__} contains itself", "break the cycle")
        self._open.add(id(value))

    def _leave(self, value: object) -> None:
        self._open.discard(id(value))  # an error skips this: it ends the encoding

    def _refuse_size(self, path: Path, depth: int) -> NoReturn:
        if depth > MAX_DOCUMENT_DEPTH:
            self.refuse(path, f"nested deeper than {MAX_DOCUMENT_DEPTH} levels", "flatten it")
        self.refuse(path, f"more than {MAX_NODES} values in one object", "keep them in a tensor or a NumPy array")

    def _count_text(self, size: int, path: Path) -> None:
        self._text_bytes += size
        if self._text_bytes > MAX_TEXT_BYTES:
            self.refuse(path, f"more than {MAX_TEXT_BYTES} bytes of text in one object", "keep them in a tensor")

    def _refuse_type(self, value: object, path: Path) -> NoReturn:
        name = type(value).__name__
        self.refuse(path, f"{name} cannot be stored", self.advice(value))


def _is_name(key: object) -> bool:
    """Return whether a key can be a JSON name: Unicode, and without the `$` that marks a tag."""
    return type(key) is str and key[:1] != "$" and _is_unicode(key)


def _is_unicode(value: str) -> bool:
    return value.isascii() or not any(0xD800 <= ord(character) <= 0xDFFF for character in value)


_Writer = Callable[[_Encoder, Any, Path, int], Document]
_WRITERS: dict[type, _Writer] = {
    int: _Encoder.number,
    float: _Encoder.number,
    complex: _Encoder.imaginary,
    str: _Encoder.text,
    bytes: _Encoder.octets,
    list: _Encoder.sequence,
    tuple: _Encoder.fixed,
    dict: _Encoder.mapping,
    collections.OrderedDict: _Encoder.ordered,
    collections.deque: _Encoder.queue,
    collections.defaultdict: _Encoder.defaulting,
    NamedValues: _Encoder.named,
    PartName: _Encoder.part,
    collections.Counter: _Encoder.counter,
    set: _Encoder.unordered,
    frozenset: _Encoder.frozen,
    np.ndarray: _Encoder.array,
    Tensor: _Encoder.tensor,
    torch.nn.Parameter: _Encoder.parameter,
    torch.dtype: _Encoder.dtype,
    torch.Size: _Encoder.size,
    torch.device: _Encoder.device,
}
_WRITERS.update(dict.fromkeys(set(np.sctypeDict.values()) - {np.object_, np.void}, _Encoder.scalar))
