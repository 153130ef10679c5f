"""Return the documents of containers: one `Writer` for each type. Independent of what is in them."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resumable.state.codec.document_writer import DocumentWriter
from resumable.state.codec.limits import are_crowded
from resumable.state.codec.tree import FACTORIES, Document, NamedValues, Path
from resumable.state.codec.value_documents import array_document, is_unicode
from resumable.state.tensors.document_tags import CONTAINERS
from resumable.state.tensors.number_lists import DTYPES, tag_of

# A list of numbers stays in the document for longer, where `diff` and paths find its items.
INLINE_LIST_BYTES = 2**20


def sequence(writer: DocumentWriter, value: list[object], path: Path, depth: int) -> Document:
    tag = tag_of(value) if writer.arrays else None
    if tag is None:
        return _items(writer, value, path, depth)
    return {tag: array_document(writer, np.array(value, dtype=DTYPES[tag]), path, inline_bytes=INLINE_LIST_BYTES)}


def fixed(writer: DocumentWriter, value: tuple[object, ...], path: Path, depth: int) -> Document:
    return {"$tuple": _items(writer, value, path, depth + 1)}


def mapping(writer: DocumentWriter, value: dict[Any, object], path: Path, depth: int) -> Document:
    if all(map(_is_name, value)):
        writer.enter(value, path)
        writer.count_text(sum(map(len, value)), path)
        nodes = {key: writer.node(item, (*path, key), depth + 1) for key, item in value.items()}
        writer.leave(value)
        return nodes
    return {"$dict": _pairs(writer, value, path, depth)}


def ordered(writer: DocumentWriter, value: collections.OrderedDict[object, object], path: Path, depth: int) -> Document:
    return {"$ordered": _pairs(writer, value, path, depth)}


def queue(writer: DocumentWriter, value: collections.deque[object], path: Path, depth: int) -> Document:
    writer.features.add(CONTAINERS)
    writer.enter(value, path)
    items = sequence(writer, list(value), path, depth + 2)
    writer.leave(value)
    return {"$deque": {"maxlen": value.maxlen, "items": items}}


def defaulting(
    writer: DocumentWriter, value: collections.defaultdict[object, object], path: Path, depth: int
) -> Document:
    factory = next((name for name, made in FACTORIES.items() if made is value.default_factory), "")
    if factory == "":
        found = getattr(value.default_factory, "__name__", value.default_factory)
        writer.refuse(
            path,
            f"a defaultdict of {found} cannot be stored",
            "make it of int, float, list, dict or set, or keep a plain dict and call setdefault()",
        )
    writer.features.add(CONTAINERS)
    return {"$defaultdict": {"factory": factory, "items": mapping(writer, value, path, depth + 2)}}


def named(writer: DocumentWriter, value: NamedValues, path: Path, depth: int) -> Document:
    writer.features.add(CONTAINERS)
    writer.count_text(len(value.type_name), path)
    items = mapping(writer, dict(zip(value.fields, value, strict=True)), path, depth + 2)
    return {"$namedtuple": {"type": value.type_name, "items": items}}


def counter(writer: DocumentWriter, value: collections.Counter[object], path: Path, depth: int) -> Document:
    return {"$counter": _pairs(writer, value, path, depth)}


def unordered(writer: DocumentWriter, value: set[object], path: Path, depth: int) -> Document:
    return {"$set": _sorted(writer, value, path, depth)}


def frozen(writer: DocumentWriter, value: frozenset[object], path: Path, depth: int) -> Document:
    return {"$frozenset": _sorted(writer, value, path, depth)}


def _items(writer: DocumentWriter, values: Iterable[object], path: Path, depth: int) -> list[Document]:
    writer.enter(values, path)
    nodes = [writer.node(item, (*path, str(index)), depth + 1) for index, item in enumerate(values)]
    writer.leave(values)
    return nodes


def _pairs(writer: DocumentWriter, value: Mapping[Any, object], path: Path, depth: int) -> list[Document]:
    _refuse_crowded(writer, value, path)
    writer.enter(value, path)
    nodes: list[Document] = [
        [_hashable(writer, key, (*path, str(key)), depth + 3), writer.node(item, (*path, str(key)), depth + 3)]
        for key, item in value.items()
    ]
    writer.leave(value)
    return nodes


def _sorted(writer: DocumentWriter, value: Iterable[object], path: Path, depth: int) -> list[Document]:
    _refuse_crowded(writer, value, path)
    nodes = [_hashable(writer, item, (*path, "*"), depth + 2) for item in value]
    return sorted(nodes, key=lambda node: json.dumps(node, sort_keys=True))


def _refuse_crowded(writer: DocumentWriter, keys: Iterable[object], path: Path) -> None:
    if are_crowded(keys):
        writer.refuse(path, "more keys share one hash than the format allows", "use strings as keys")


def _hashable(writer: DocumentWriter, value: object, path: Path, depth: int) -> Document:
    if type(value) in (Tensor, torch.nn.Parameter):
        writer.refuse(path, "a tensor as a key or in a set cannot be stored", "use a name for it")
    return writer.node(value, path, depth)


def _is_name(key: object) -> bool:
    """Return whether a key can be a JSON name: Unicode, and without the `$` that marks a tag."""
    return type(key) is str and key[:1] != "$" and is_unicode(key)
