"""Dotted paths into a codec document, such as `optimizer.state.0.exp_avg`. Reads no tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from resumable.state.codec import Document, decode
from resumable.state.tensors.document_tags import items_below
from resumable.state.tensors.number_lists import items_of
from resumable.utils.messages import nearest

_PAIRS = ("$dict", "$ordered", "$counter")
_STORED = ("$tensor", "$array", "$octets")
# Bounds of the search for the nearest path.
_MAX_NAMES = 100_000
_MAX_NAME = 500


@dataclass(frozen=True)
class Part:
    """A part of a document, and its position in each container on the way; None for a part assembled from several."""

    document: Document
    at: tuple[int, ...] | None = ()


def named_children(document: Document) -> list[tuple[str, Document]]:
    """Return the children of a container with their names; items of a list are named by number."""
    if type(document) is list:
        return _numbered(document)
    if type(document) is not dict:
        return []
    numbers = items_of(document)
    if numbers is not None:
        return _numbered(numbers)
    tag = next(iter(document)) if len(document) == 1 else ""
    content: Any = document.get(tag)
    if tag in _PAIRS:
        return [(str(decode(key, {})), child) for key, child in content]
    if tag == "$tuple":
        return _numbered(content)
    if below := items_below(tag, content):
        return named_children(below[0])
    return [] if tag.startswith("$") else list(document.items())


def _numbered(items: list[Document]) -> list[tuple[str, Document]]:
    return [(str(number), item) for number, item in enumerate(items)]


def part_at(document: Document, path: str) -> Part | None:
    """Return the part at `path`; dots inside of keys are read as levels.

    In {"a.b": x, "a.c": y} the path "a" leads to {"b": x, "c": y}. If several parts have one path, the first wins.
    """
    named = named_children(document)
    for position, (name, child) in enumerate(named):
        if name == path:
            return Part(child, (position,))
    for position, (name, child) in enumerate(named):
        found = part_at(child, path[len(name) + 1 :]) if path.startswith(f"{name}.") else None
        if found is not None:
            return Part(found.document, None if found.at is None else (position, *found.at))
    below: list[Document] = [[name[len(path) + 1 :], child] for name, child in named if name.startswith(f"{path}.")]
    tag = "$ordered" if isinstance(document, dict) and "$ordered" in document else "$dict"
    return Part({tag: below}, None) if below else None


def stored_keys(document: Document) -> set[str]:
    """Return the keys of all tensors that a document refers to."""
    found: set[str] = set()
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if type(node) is dict:
            found.update(key for tag in _STORED if isinstance(key := node.get(tag), str))
            waiting.extend(node.values())
        elif type(node) is list:
            waiting.extend(node)
    return found


def named_tensors(document: Document, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted path of each tensor in a document, and its key."""
    for name, child in named_children(document):
        if isinstance(child, dict) and isinstance(key := child.get("$tensor"), str):
            yield prefix + name, key
        else:
            yield from named_tensors(child, f"{prefix}{name}.")


def nearest_paths(document: Document, path: str) -> list[str]:
    """Return the existing paths that are most similar to `path`."""
    paths = [name for name in islice(_paths(document, ""), _MAX_NAMES) if len(name) <= _MAX_NAME]
    return nearest(path[:_MAX_NAME], paths, cutoff=0.4, most=3)


def _paths(document: Document, prefix: str) -> Iterator[str]:
    for name, child in named_children(document):
        yield prefix + name
        yield from _paths(child, f"{prefix}{name}.")
