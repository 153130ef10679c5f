"""Encode a tree whose structure is that of the tree before, from what was kept of its encoding.

A plan keeps what the structure determines: the documents, the keys of tensors, their aliases and their description.
Encoding again compares whole levels of the tree with the plan, and makes only the documents that changed: those of
numbers, and of small tensors that stand in the document.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from operator import attrgetter, call, eq, is_
from typing import Any

import torch
from torch import Tensor

from resumable.state.codec.advice import Advice, advice
from resumable.state.codec.encoder import Encoded, encode
from resumable.state.codec.inline_tensors import InlineTensors
from resumable.state.codec.tree import Document, Path
from resumable.state.tensors.described import DescribedTensors
from resumable.state.tensors.number_lists import is_of_numbers, number_document

_MAPPINGS = (dict, collections.OrderedDict)
_CONTAINERS = (*_MAPPINGS, list, tuple)
_TENSORS = (Tensor, torch.nn.Parameter)
_NUMBERS = (int, bool)
_PLANNED = {*_CONTAINERS, *_TENSORS, *_NUMBERS, float, str, type(None)}

_CHUNK = 512  # tensors, so that they stay in the caches of a core from one column to the next

_kind = attrgetter("dtype", "is_cpu", "requires_grad")
_shape = attrgetter("shape")


class Encodings:
    """Encodes the trees of one attempt, and keeps the plan of each while its structure is the same."""

    def __init__(self) -> None:
        self._plans: dict[str, EncodingPlan | None] = {}

    def encode(
        self,
        tree: object,
        *,
        key_of: Callable[[Path], str],
        where: str,
        advice: Advice = advice,
        inline: bool = False,
    ) -> Encoded:
        """Encode like `encode`; `key_of` and `inline` must be those of the earlier calls with the same `where`."""
        plan = self._plans.get(where)
        encoded = plan.encode(tree) if plan is not None else None
        if encoded is None:
            encoded = encode(tree, key_of=key_of, where=where, advice=advice, inline=inline)
            self._plans[where] = EncodingPlan.of(tree, encoded)
        return encoded


class EncodingPlan:
    """The encoding of one tree."""

    def __init__(self, levels: list[_Level], tensors: list[Tensor], encoded: Encoded, order: list[int]) -> None:
        self._levels = levels
        self._columns = [*_columns(tensors, [])]
        self._keys, self._order = [*encoded.tensors], order
        self._aliases, self._share = encoded.aliases, encoded.share
        self._description = encoded.tensors.description

    @classmethod
    def of(cls, tree: object, encoded: Encoded) -> EncodingPlan | None:
        """Plan to encode trees of this structure again; None if the tree has values for which there is no plan."""
        levels: list[_Level] = []
        tensors: list[Tensor] = []
        first: dict[str, int] = {}
        values, documents, parents = [tree], [encoded.document], [0]
        while values:
            level = _Level.of(values, documents, parents)
            if level is None:
                return None
            for at in level.tensors:
                key = _stored_key(documents[at])
                if key is not None:
                    first.setdefault(key, len(tensors))
                tensors.append(values[at])  # type: ignore[arg-type]
            levels.append(level)
            parts = [_parts(documents[at]) for at in level.containers]
            values = level.below(values)
            documents = [*chain.from_iterable(parts)]
            parents = [number for number, part in enumerate(parts) for _ in part]
        return cls(levels, tensors, encoded, [first[key] for key in encoded.tensors])

    def encode(self, tree: object) -> Encoded | None:
        """Return what a fresh encoding of this tree would return; None if its structure is another one."""
        found = self._matching(tree)
        if found is None:
            return None
        tensors: list[Any] = [
            values[at] for level, values in zip(self._levels, found, strict=True) for at in level.tensors
        ]
        addresses = self._addresses(tensors)
        if addresses is None:
            return None
        self._renew(found)
        pairs = zip(self._keys, map(tensors.__getitem__, self._order), strict=True)
        live = DescribedTensors(pairs, self._description, [addresses[number] for number in self._order])
        return Encoded(self._levels[0].documents[0], live, self._aliases, self._share)

    def _addresses(self, tensors: list[Tensor]) -> list[int] | None:
        """Return the addresses of tensors like those of the plan; None for other tensors."""
        addresses: list[int] = []
        try:
            is_same = all(map(eq, _columns(tensors, addresses), self._columns))
        except RuntimeError:
            return None
        return addresses if is_same else None

    def _matching(self, tree: object) -> list[list[object]] | None:
        """Return the values of each level if they match the plan, apart from tensors and numbers."""
        found: list[list[object]] = []
        values = [tree]
        for level in self._levels:
            if not level.matches(values):
                return None
            found.append(values)
            values = level.below(values)
        return found

    def _renew(self, found: Sequence[list[object]]) -> None:
        """Make the documents of numbers and small tensors that changed, and of the containers around them."""
        touched: set[int] = set()
        below: list[Document] = []
        for level, values in zip(reversed(self._levels), reversed(found), strict=True):
            changed = level.renew_numbers(values) + level.renew_tensors(values)
            for container in touched:
                changed.append(level.renew_container(container, below))
            touched = {level.parents[at] for at in changed}
            below = level.documents


@dataclass
class _Level:
    """All values of a tree at one depth, by their positions."""

    types: list[type]
    documents: list[Document]
    parents: list[int]  # by position, the number of the container at the level above
    containers: list[int]  # positions, as in the following
    tensors: list[int]
    texts: list[int]
    numbers: list[int]
    floats: list[int]
    mappings: list[int] = field(default_factory=list)
    items_of: list[Callable[[Any], Iterable[object]]] = field(default_factory=list)  # by container
    keys: list[object] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)  # by container, positions at the level below
    seen_texts: list[object] = field(default_factory=list)
    seen_numbers: list[object] = field(default_factory=list)
    seen_floats: list[object] = field(default_factory=list)
    small: list[int] = field(default_factory=list)  # positions of tensors that stand in the document
    inline: InlineTensors = field(default_factory=lambda: InlineTensors([], []))  # those at these positions

    @classmethod
    def of(cls, values: list[object], documents: list[Document], parents: list[int]) -> _Level | None:
        """Return the level; None if a value, or a key of a mapping, is of a type for which there is no plan."""
        types = [*map(type, values)]
        if not {*types} <= _PLANNED or any(type(document) is dict and "$dict" in document for document in documents):
            return None
        if any(type(value) is list and is_of_numbers(value) for value in values):
            return None
        containers, tensors, texts, numbers, floats = (
            [at for at, kind in enumerate(types) if kind in group]
            for group in (_CONTAINERS, _TENSORS, (str,), _NUMBERS, (float,))
        )
        level = cls(types, documents, parents, containers, tensors, texts, numbers, floats)
        level.mappings = [at for at in containers if types[at] in _MAPPINGS]
        level.items_of = [types[at].values if types[at] in _MAPPINGS else iter for at in containers]  # type: ignore
        level.keys, level.lengths = level.shape_of(values)
        level.spans = [*pairwise(accumulate(level.lengths, initial=0))]
        level.seen_texts, level.seen_numbers, level.seen_floats = (
            [values[at] for at in places] for places in (level.texts, level.numbers, level.floats)
        )
        level.small = [at for at in tensors if _stored_key(documents[at]) is None]
        level.inline = InlineTensors([values[at] for at in level.small], [documents[at] for at in level.small])  # type: ignore
        return level if {*map(type, level.keys)} <= {str} else None

    def matches(self, values: list[object]) -> bool:
        """Return whether these values differ at most in tensors, numbers, and the content of containers."""
        if [*map(type, values)] != self.types or [values[at] for at in self.texts] != self.seen_texts:
            return False
        keys, lengths = self.shape_of(values)
        return lengths == self.lengths and {*map(type, keys)} <= {str} and keys == self.keys

    def shape_of(self, values: list[Any]) -> tuple[list[object], list[int]]:
        """Return the keys of all mappings, one after the other, and the length of each container."""
        keys = chain.from_iterable(values[at] for at in self.mappings)
        return [*keys], [len(values[at]) for at in self.containers]

    def below(self, values: list[Any]) -> list[object]:
        """Return the values at the level below."""
        containers = [values[at] for at in self.containers]
        return [*chain.from_iterable(map(call, self.items_of, containers))]

    def renew_numbers(self, values: list[object]) -> list[int]:
        """Make the documents of numbers that are not those of the last call, and return their positions."""
        numbers, floats = [values[at] for at in self.numbers], [values[at] for at in self.floats]
        changed: list[int] = []
        if numbers != self.seen_numbers:
            changed += _different(self.numbers, map(eq, numbers, self.seen_numbers))
        # By identity: equal floats may differ in bits.
        changed += _different(self.floats, map(is_, floats, self.seen_floats))
        self.seen_numbers, self.seen_floats = numbers, floats
        for at in changed:
            self.documents[at] = number_document(values[at])  # type: ignore[arg-type]
        return changed

    def renew_tensors(self, values: list[Any]) -> list[int]:
        """Make the documents of small tensors whose bytes are not those of the last call; return their positions."""
        renewed = self.inline.renewed([values[at] for at in self.small])
        changed = [self.small[number] for number in renewed]
        for at, document in zip(changed, renewed.values(), strict=True):
            self.documents[at] = document
        return changed

    def renew_container(self, container: int, below: list[Document]) -> int:
        """Make the document of a container with changed parts, and return its position."""
        at, (start, stop) = self.containers[container], self.spans[container]
        self.documents[at] = _assembled(self.documents[at], self.types[at], below[start:stop])
        return at


def _different(places: Iterable[int], same: Iterable[bool]) -> list[int]:
    return [at for at, is_same in zip(places, same, strict=True) if not is_same]


def _columns(tensors: Sequence[Tensor], addresses: list[int]) -> Iterator[object]:
    """Yield all that the encoding of tensors depends on, as columns; append their addresses.

    Raises `RuntimeError` for tensors without strides or memory, such as sparse ones.
    """
    for start in range(0, len(tensors), _CHUNK):
        chunk = tensors[start : start + _CHUNK]
        kinds = [*map(_kind, chunk)]
        yield kinds
        yield [*map(_shape, chunk)]
        yield [*map(Tensor.stride, chunk)]
        yield [*map(Tensor.is_neg, chunk)]
        if not all(is_cpu and not (dtype.is_complex or requires_grad) for dtype, is_cpu, requires_grad in {*kinds}):
            yield [(tensor.device, tensor.is_conj(), tensor.grad_fn) for tensor in chunk]
        addresses.extend(map(Tensor.data_ptr, chunk))
    yield _sharing(tensors, addresses)


def _sharing(tensors: Sequence[Tensor], addresses: Sequence[int]) -> list[int] | None:
    """Return for each tensor the first one at its address, -1 without memory; None if all addresses differ."""
    if len({*addresses}) == len(addresses):
        return None
    first: dict[int, int] = {}
    pairs = enumerate(zip(tensors, addresses, strict=True))
    return [first.setdefault(address, number) if tensor.numel() else -1 for number, (tensor, address) in pairs]


def _stored_key(document: Any) -> str | None:
    """Return the key in the document of a tensor, below its other tags; None if the document holds the bytes."""
    while "$inline" not in document:
        ((tag, document),) = document.items()
        if tag == "$tensor":
            key: str = document
            return key
    return None


def _parts(document: Any) -> list[Document]:
    """Return the documents of a container's items."""
    if type(document) is list:
        return document
    if "$tuple" in document:
        items: list[Document] = document["$tuple"]
        return items
    if "$ordered" in document:
        return [item for _, item in document["$ordered"]]
    return [*document.values()]


def _assembled(document: Any, kind: type, parts: list[Document]) -> Document:
    """Return the document of a container of this type with other items."""
    if kind is list:
        return parts
    if kind is tuple:
        return {"$tuple": parts}
    if kind is dict:
        return dict(zip(document, parts, strict=True))
    return {"$ordered": [[key, item] for (key, _), item in zip(document["$ordered"], parts, strict=True)]}
