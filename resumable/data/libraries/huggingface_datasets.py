"""Find streams of Hugging Face's `datasets` whose states are incomplete. Does not import `datasets`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from resumable.data.find_objects import find_objects

# From this version on a buffer of one sample is empty between two samples.
_HOLDS_NOTHING = (5, 2)

LEFT_OUT = (
    "its state_dict leaves out the shuffle buffer, and samples would be lost and read twice; fast instead: shuffle "
    "shards only (shuffle(buffer_size=1) of datasets 5.2 and num_workers=0), or a map-style dataset"
)


def streams_in(dataset: object) -> list[Any]:
    """Return the iterable datasets of Hugging Face that `dataset` is, or reads from."""
    kind = getattr(_module(), "IterableDataset", None)
    return [] if kind is None else find_objects(dataset, kind)


def shuffles_by_buffer(dataset: object) -> bool:
    """Return whether samples pass through a shuffle buffer, which is in no state."""
    return any(_holds_back(part) for stream in streams_in(dataset) for part in _chain(stream))


class LoadedStates:
    """States loaded into streams. Each is dropped once it was used: a later pass would begin there, too."""

    def __init__(self, dataset: object) -> None:
        """Record the streams; called before the states are loaded."""
        self._waiting = [(stream, getattr(stream, "_state_dict", None)) for stream in streams_in(dataset)]

    def drop_used(self) -> None:
        """Drop the states from which iteration has started."""
        waiting = []
        for stream, before in self._waiting:
            if getattr(stream, "_state_dict", None) is before:
                waiting.append((stream, before))
            else:
                stream._starting_state_dict = None
        self._waiting = waiting


def _module() -> ModuleType | None:
    return sys.modules.get("datasets.iterable_dataset")


def _chain(stream: object) -> Iterator[object]:
    waiting = [getattr(stream, "_ex_iterable", None)]
    base = getattr(_module(), "_BaseExamplesIterable", ())
    while waiting:
        part = waiting.pop()
        yield part
        for value in vars(part).values() if part is not None else ():
            sources = value if isinstance(value, list | tuple) else [value]
            waiting.extend(source for source in sources if isinstance(source, base))


def _holds_back(part: object) -> bool:
    kind = getattr(_module(), "BufferShuffledExamplesIterable", None)
    if kind is None or part is None:
        return True  # an unknown version of datasets: a replay is exact in any case
    return isinstance(part, kind) and not (part.buffer_size <= 1 and _version() >= _HOLDS_NOTHING)


def _version() -> tuple[int, ...]:
    numbers = re.match(r"(\d+)\.(\d+)", str(getattr(sys.modules.get("datasets"), "__version__", "")))
    return tuple(map(int, numbers.groups())) if numbers else (0, 0)
