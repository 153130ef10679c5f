"""The attempts on the way to a checkpoint. Pure: reads no storage."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from resumable.store.layout import ATTEMPTS_KEPT, CheckpointName

Lineage = tuple[tuple[int, str | None], ...]


def is_on_line(name: CheckpointName, lineage: Sequence[tuple[int, str | None]]) -> bool:
    """Return whether a checkpoint is on the way to what the last attempt of a lineage resumed from."""
    parents = [CheckpointName.parse(parent) for _, parent in lineage if parent is not None]
    return any(
        parent is not None and parent.attempt == name.attempt and name.place <= parent.place for parent in parents
    )


def descend(
    before: Sequence[tuple[int, str | None]], attempt: int, parent: str | None, standing: Collection[int]
) -> Lineage:
    """Return the lineage of an attempt that resumes from `parent`, whose lineage is `before`.

    An attempt long past of which no checkpoint is `standing` is left out, so that a crash loop does not fill manifests.
    The next one then names the newest checkpoint before it on the same line, so the line stays what it is.
    """
    whole = [*before, (attempt, parent)]
    last_on_line = {number: resumed_from for (number, _), (_, resumed_from) in pairwise(whole)}
    resumed = before[-1][0] if before else None
    kept = [n for n, _ in whole if n >= attempt - ATTEMPTS_KEPT or n in standing or n == resumed]
    return tuple(zip(kept, [None, *(last_on_line[number] for number in kept[:-1])], strict=True))
