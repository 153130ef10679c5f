"""Streams of Hugging Face's `datasets`, and which of their states are none; imports nothing of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from resumable.data.find_objects import find_objects

# From here on a buffer of one sample holds nothing back between two samples.
_HOLDS_NOTHING = (5, 2)

LEFT_OUT = (
    "its state_dict leaves out the shuffle buffer, and samples would be lost and read twice; fast instead: shuffle "
    "shards only (shuffle(buffer_size=1) of datasets 5.2 and num_workers=0), or a map-style dataset"
)


def streams_in(dataset: Any) -> list[Any]:
    """The iterable datasets of Hugging Face that `dataset` is, or reads from."""
    kind = getattr(_module(), "IterableDataset", None)
    return [] if kind is None else find_objects(dataset, kind)


def shuffles_by_buffer(dataset: Any) -> bool:
    """Whether samples wait in a shuffle buffer somewhere on their way, of which no state tells."""
    return any(_holds_back(part) for stream in streams_in(dataset) for part in _chain(stream))


class LoadedStates:
    """States that streams were given. Each is forgotten once it was used: a later pass would begin there, too."""

    def __init__(self, dataset: Any) -> None:
        """To be made before the states are loaded."""
        self._waiting = [(stream, getattr(stream, "_state_dict", None)) for stream in streams_in(dataset)]

    def forget_used(self) -> None:
        """Take back what iterating has begun with."""
        waiting = []
        for stream, before in self._waiting:
            if getattr(stream, "_state_dict", None) is before:
                waiting.append((stream, before))
            else:
                stream._starting_state_dict = None
        self._waiting = waiting


def _module() -> Any:
    return sys.modules.get("datasets.iterable_dataset")


def _chain(stream: Any) -> Iterator[Any]:
    waiting = [getattr(stream, "_ex_iterable", None)]
    base = getattr(_module(), "_BaseExamplesIterable", ())
    while waiting:
        part = waiting.pop()
        yield part
        for value in vars(part).values() if part is not None else ():
            sources = value if isinstance(value, list | tuple) else [value]
            waiting.extend(source for source in sources if isinstance(source, base))


def _holds_back(part: Any) -> bool:
    kind = getattr(_module(), "BufferShuffledExamplesIterable", None)
    if kind is None or part is None:
        return True  # another version of datasets than was read: replaying is exact whatever it holds
    return isinstance(part, kind) and not (part.buffer_size <= 1 and _version() >= _HOLDS_NOTHING)


def _version() -> tuple[int, ...]:
    numbers = re.match(r"(\d+)\.(\d+)", str(getattr(sys.modules.get("datasets"), "__version__", "")))
    return tuple(map(int, numbers.groups())) if numbers else (0, 0)
