"""Dotted paths into a codec document: `optimizer.state.0.exp_avg`; reads no tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from resumable.state.codec import decode
from resumable.utils.messages import nearest

_PAIRS = ("$dict", "$ordered", "$counter")
_STORED = ("$tensor", "$array", "$octets")
# Among how many names, and how long ones, the nearest are looked for.
_MAX_NAMES = 100_000
_MAX_NAME = 500


@dataclass(frozen=True)
class Part:
    """A part of a document, and the position in each container on the way to it; None where it was put together."""

    document: Any
    at: tuple[int, ...] | None = ()


def children(document: Any) -> list[tuple[str, Any]]:
    """The parts of a container by name; none of anything else. Names of a list are numbers."""
    tag = next(iter(document)) if type(document) is dict and len(document) == 1 else ""
    if tag in _PAIRS:
        return [(str(decode(key, {})), child) for key, child in document[tag]]
    if tag == "$tuple":
        return [(str(number), child) for number, child in enumerate(document[tag])]
    if type(document) is dict and not tag.startswith("$"):
        return list(document.items())
    return [(str(number), child) for number, child in enumerate(document)] if type(document) is list else []


def part_at(document: Any, path: str) -> Part | None:
    """What `path` leads to. Keys that hold dots themselves are read as if the dots were levels.

    So of {"a.b": x, "a.c": y} the path "a" gives {"b": x, "c": y}. Where several things have one path, the first wins.
    """
    named = children(document)
    for position, (name, child) in enumerate(named):
        if name == path:
            return Part(child, (position,))
    for position, (name, child) in enumerate(named):
        found = part_at(child, path[len(name) + 1 :]) if path.startswith(f"{name}.") else None
        if found is not None:
            return Part(found.document, None if found.at is None else (position, *found.at))
    below = [[name[len(path) + 1 :], child] for name, child in named if name.startswith(f"{path}.")]
    tag = "$ordered" if type(document) is dict and "$ordered" in document else "$dict"
    return Part({tag: below}, None) if below else None


def stored_keys(document: Any) -> set[str]:
    """The keys of all tensors that a document refers to."""
    found: set[str] = set()
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if type(node) is dict:
            found.update(node[tag] for tag in _STORED if type(node.get(tag)) is str)
            waiting.extend(node.values())
        elif type(node) is list:
            waiting.extend(node)
    return found


def named_tensors(document: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted path of each tensor in a document, and its key."""
    for name, child in children(document):
        if type(child) is dict and type(child.get("$tensor")) is str:
            yield prefix + name, child["$tensor"]
        else:
            yield from named_tensors(child, f"{prefix}{name}.")


def nearest_paths(document: Any, path: str) -> list[str]:
    """Return the paths of a document that resemble one that leads nowhere."""
    known = [name for name in islice(_paths(document, ""), _MAX_NAMES) if len(name) <= _MAX_NAME]
    return nearest(path[:_MAX_NAME], known, cutoff=0.4, most=3)


def _paths(document: Any, prefix: str) -> Iterator[str]:
    for name, child in children(document):
        yield prefix + name
        yield from _paths(child, f"{prefix}{name}.")
