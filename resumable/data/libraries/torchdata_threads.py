"""Find nodes of `torchdata.nodes` that read in threads. Does not import `torchdata`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from resumable.data.find_objects import find_objects

_READ_AHEAD = ("Prefetcher", "PinMemory")
_PARALLEL = ("ParallelMapper", "_ParallelMapperImpl")


def threads_warning(loader: object) -> str | None:
    """Return a warning about nodes that draw in no fixed order if they draw at all; None where there is none."""
    found = sorted({type(node).__name__.strip("_") for node in _nodes(loader) if _reads_in_threads(node)})
    if not found:
        return None
    return (
        f"{' and '.join(found)} of torchdata.nodes read in threads, which draw from the global streams in no fixed "
        "order, so no launch repeats it: keep random transforms in a Mapper behind them, and give a RandomSampler a "
        "generator"
    )


def _nodes(loader: object) -> Iterator[Any]:
    kind: Any = getattr(sys.modules.get("torchdata.nodes.base_node"), "BaseNode", None)
    waiting: list[Any] = [] if kind is None else find_objects(loader, kind)
    seen: dict[int, object] = {}
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            yield node
            waiting += [inner for value in list(vars(node).values()) for inner in find_objects(value, kind)]


def _reads_in_threads(node: Any) -> bool:
    name = type(node).__name__
    return name in _READ_AHEAD or (name in _PARALLEL and node.num_workers > 0)
