"""Small tensors that stand in a document, as if they were stored under keys. Decodes no value, and imports no torch."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import xxhash

from resumable.state.tensors.document_tags import items_below
from resumable.state.tensors.records import Piece, TensorRecord

KeyOf = Callable[[tuple[str, ...]], str]

_PAIRS = ("$dict", "$ordered", "$counter")
_AROUND = ("$leaf", "$parameter", "$frozen_parameter")
_FACTS = {"dtype", "shape", "strides", "data"}


@dataclass(frozen=True)
class InlineRecords:
    """A document that refers to all its tensors by key; the records and the nodes of those that stood in it."""

    document: Any
    records: dict[str, TensorRecord] = field(default_factory=dict)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Any, key_of: KeyOf, taken: Collection[str]) -> InlineRecords:
        """Give each tensor in the document the key that it would have in a file.

        Args:
            document: The document of an object.
            key_of: Returns the key of the tensor at a path.
            taken: The keys of the object's other tensors.
        """
        walk = _Walk(key_of, taken)
        referring = walk.node(document, ())
        return cls(referring, walk.records, walk.nodes)


def key_in_optimizer(path: tuple[str, ...]) -> str:
    """Return the key of the tensor at a path in the tree of an optimizer."""
    return ".".join(path[1:] if path[:1] == ("state",) else path)


class _Walk:
    def __init__(self, key_of: KeyOf, taken: Collection[str]) -> None:
        self._key_of = key_of
        self._taken = taken
        self.records: dict[str, TensorRecord] = {}
        self.nodes: dict[str, dict[str, Any]] = {}

    def node(self, node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [self.node(item, (*path, str(index))) for index, item in enumerate(node)]
        if not isinstance(node, dict):
            return node
        tag = next(iter(node), "") if len(node) == 1 else ""
        if not tag.startswith("$"):
            return {key: self.node(item, (*path, key)) for key, item in node.items()}
        return self._tagged(node, tag, node[tag], path)

    def _tagged(self, node: dict[str, Any], tag: str, content: Any, path: tuple[str, ...]) -> Any:
        if tag in _AROUND or (tag == "$tuple" and isinstance(content, list)):
            return {tag: self.node(content, path)}
        if below := items_below(tag, content):
            return {tag: {**below[1], "items": self.node(below[0], path)}}
        if tag in _PAIRS and isinstance(content, list):
            return {tag: [self._pair(pair, path) for pair in content]}
        record = _record_of(content) if tag == "$inline" else None
        return node if record is None else {"$tensor": self._named(record, node, path)}

    def _pair(self, pair: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(pair, list) or len(pair) != 2:
            return pair  # malformed, as the decoder will say
        return [pair[0], self.node(pair[1], (*path, str(pair[0])))]

    def _named(self, record: TensorRecord, node: dict[str, Any], path: tuple[str, ...]) -> str:
        key = self._key_of(path)
        if not key.isascii():
            key = key.encode("utf-8", "backslashreplace").decode()
        while key in self._taken or key in self.records:
            key += "~"
        self.records[key], self.nodes[key] = record, node
        return key


def _record_of(content: Any) -> TensorRecord | None:
    """Return the record of a tensor in a document; None if it is malformed."""
    if not isinstance(content, dict) or content.keys() != _FACTS or type(content["dtype"]) is not str:
        return None
    shape, strides, data = content["shape"], content["strides"], content["data"]
    if not _are_sizes(shape) or not (strides is None or _are_sizes(strides)) or type(data) is not str:
        return None
    try:
        digest = xxhash.xxh3_128_hexdigest(base64.b64decode(data, validate=True))
    except binascii.Error:
        return None
    layout = None if strides is None else tuple(strides)
    return TensorRecord(content["dtype"], tuple(shape), layout, None, (Piece(digest),))


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)
