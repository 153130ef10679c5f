"""The documents of small tensors that stand in a document, made again where the bytes of the tensors changed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from resumable.state.codec.small_tensors import inline_document
from resumable.state.codec.tree import Document
from resumable.state.tensors.described import Memory, memory_of
from resumable.state.tensors.facts import TensorFacts, bytes_of, facts_of

_Kind = tuple[tuple[str, ...], TensorFacts]  # the tags around the tensor, and its facts


class InlineTensors:
    """Small tensors of one structure, by number, with their bytes of the last call."""

    def __init__(self, tensors: Sequence[Tensor], documents: Iterable[Document]) -> None:
        stored = [memory_of(tensor) is Memory.AS_STORED for tensor in tensors]
        self._sizes = [tensor.nbytes if plain else 0 for tensor, plain in zip(tensors, stored, strict=True)]
        self._otherwise = [number for number, plain in enumerate(stored) if not plain]
        kinds: dict[_Kind, int] = {}
        self._kind_of = [
            kinds.setdefault((_tags(document), facts_of(tensor)), len(kinds))
            for tensor, document in zip(tensors, documents, strict=True)
        ]
        self._kinds = [*kinds]
        self._seen = self._read(tensors)

    def renewed(self, tensors: Sequence[Tensor]) -> dict[int, Document]:
        """Return the documents of the tensors whose bytes are not those of the last call; equal ones share theirs."""
        found = self._read(tensors)
        if found == self._seen:
            return {}
        changed = [number for number, (then, now) in enumerate(zip(self._seen, found, strict=True)) if then != now]
        self._seen = found
        # The steps of all parameters are equal in nearly every optimizer.
        contents = [(self._kind_of[number], found[number]) for number in changed]
        made = {content: _document(self._kinds[content[0]], content[1]) for content in {*contents}}
        return dict(zip(changed, map(made.__getitem__, contents), strict=True))

    def _read(self, tensors: Sequence[Tensor]) -> list[bytes]:
        found = [*map(ctypes.string_at, map(Tensor.data_ptr, tensors), self._sizes)]
        for number in self._otherwise:
            found[number] = bytes(bytes_of(tensors[number]))
        return found


def _tags(document: Any) -> tuple[str, ...]:
    tags: list[str] = []
    while "$inline" not in document:
        ((tag, document),) = document.items()
        tags.append(tag)
    return tuple(tags)


def _document(kind: _Kind, data: bytes) -> Document:
    tags, facts = kind
    document = inline_document(facts, data)
    for tag in reversed(tags):
        document = {tag: document}
    return document
