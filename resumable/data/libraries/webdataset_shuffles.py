"""Find the stages of a webdataset that draw by clock and process. Does not import `webdataset`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from resumable.data.find_objects import find_objects

_SEEDS = "WebDataset(..., seed=0), .shuffle(..., seed=0), ResampledShards(..., deterministic=True)"


def remedy(loader: object) -> str | None:
    """Return how a webdataset in a loader is seeded; None where there is none."""
    if next(_stages(loader), None) is None:
        return None
    return f"webdataset draws a seed from the clock and the process where it gets none: {_SEEDS}"


def unseeded_warning(loader: object) -> str | None:
    """Return a warning about stages of a webdataset that no launch can repeat; None where there is none."""
    found = sorted({name for stage in _stages(loader) if (name := _unseeded(stage))})
    if not found:
        return None
    return (
        f"webdataset seeds {' and '.join(found)} by the clock and the process, so a resume in the middle of a pass "
        f"will be refused: give seeds now, as in {_SEEDS}"
    )


def _module(name: str) -> ModuleType | None:
    return sys.modules.get(f"webdataset.{name}")


def _stages(loader: object) -> Iterator[object]:
    kind: Any = getattr(_module("pipeline"), "DataPipeline", None)
    waiting: list[Any] = [] if kind is None else find_objects(loader, kind)
    while waiting:
        for stage in getattr(waiting.pop(), "pipeline", ()):
            yield stage
            waiting += find_objects(stage, kind)


def _unseeded(stage: Any) -> str | None:
    shuffle = getattr(_module("filters"), "_shuffle", None)
    if shuffle is not None and getattr(stage, "f", None) is shuffle:
        given = [stage.kw.get("rng"), stage.kw.get("seed"), *stage.args[2:]]
        return ".shuffle()" if all(each is None for each in given) else None
    resampled = getattr(_module("shardlists"), "ResampledShards", None)
    if resampled is not None and isinstance(stage, resampled):
        return None if stage.deterministic else "ResampledShards"
    return None
