"""Decide which checkpoints are kept. Pure functions: names are opaque, and nothing is deleted here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard


@dataclass(frozen=True, slots=True)
class Candidate:
    """A committed checkpoint: `metric` is the watched value or None; a `protected` one is never pruned.

    The state of a `suspect` one may be ruined: a value that was finite before is NaN or infinite.
    """

    name: str
    step: int
    epoch: int
    metric: float | None = None
    protected: bool = False
    suspect: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What is kept: the `last` newest, one per `every_steps`, the `best_count` best by `best_metric` (None: none)."""

    last: int = 3
    every_steps: int | None = None
    best_metric: str | None = None
    best_mode: Literal["min", "max"] = "min"
    best_count: int = 1


def keep(candidates: Sequence[Candidate], rule: Rule) -> set[str]:
    """Return the names to keep, given every checkpoint, newest first; never empty if there is one.

    The newest that is not suspect is always among them. Applied after each save, it never drops a checkpoint that an
    earlier call kept for `every_steps`, nor one that is still among the best.
    """
    kept = {candidate.name for candidate in candidates if candidate.protected}
    kept.update(candidate.name for candidate in candidates[: max(rule.last, 1)])
    kept.update(newest_finite(candidates))
    kept.update(_milestones(candidates, rule.every_steps))
    if rule.best_metric is not None:
        kept.update(best(candidates, rule))
    return kept


def newest_finite(candidates: Sequence[Candidate]) -> list[str]:
    """Return the name of the newest that is not suspect, given every checkpoint, newest first; empty if all are."""
    return [candidate.name for candidate in candidates if not candidate.suspect][:1]


def best(candidates: Sequence[Candidate], rule: Rule) -> list[str]:
    """Return the names of the `best_count` best, the best first, given every checkpoint, newest first.

    A value that is None or not finite is never best; of equal values the older wins. `best_metric` is not used: the
    candidates carry values.
    """
    measured = [
        (_rank(candidate.metric, rule), candidate.name)
        for candidate in reversed(candidates)  # oldest first, and a stable sort: of equals the older wins
        if _counts(candidate.metric)
    ]
    measured.sort(key=lambda pair: pair[0])
    return [name for _, name in measured[: rule.best_count]]


def is_best(value: float | None, older: Iterable[float | None], rule: Rule) -> bool:
    """Return whether a new checkpoint with `value` would be one of the best beside the `older` ones."""
    if rule.best_metric is None or not _counts(value):
        return False
    rank = _rank(value, rule)
    at_least_as_good = sum(_rank(other, rule) <= rank for other in older if _counts(other))
    return at_least_as_good < rule.best_count


def best_values(values: Iterable[float | None], rule: Rule) -> tuple[float, ...]:
    """Return the `best_count` best of the values, the best first: `is_best` needs only these."""
    return tuple(sorted((v for v in values if _counts(v)), key=lambda v: _rank(v, rule))[: rule.best_count])


def _milestones(candidates: Sequence[Candidate], every_steps: int | None) -> set[str]:
    # The first checkpoint at or after each multiple: saves by the clock seldom hit a multiple, and the first one of an
    # interval stays the first, however many follow. Step 0 is not a milestone: it is the untrained model.
    if every_steps is None:
        return set()
    first: dict[int, str] = {}
    for candidate in candidates:
        first[candidate.step // every_steps] = candidate.name
    first.pop(0, None)
    return set(first.values())


def _counts(value: float | None) -> TypeGuard[float]:
    # An infinity is never a good value: a loss overflows or diverges to it.
    return value is not None and math.isfinite(value)


def _rank(value: float, rule: Rule) -> float:
    return value if rule.best_mode == "min" else -value
