"""Walk from objects to the objects that they refer to, nearest first and bounded, by the rule that is passed.

Independent of what is searched for: random generators (`rng/find_generators.py`) and objects of other libraries
(`find_objects.py`) are found by rules of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Generic, NamedTuple, TypeAlias, TypeGuard, TypeVar

Child: TypeAlias = tuple[str, object]  # what an object refers to, by the name under which it does
Attributes: TypeAlias = Mapping[str, object]

MAX_TABLES = 32

T = TypeVar("T")


def _one(item: object) -> int:
    return 1


@dataclass(frozen=True)
class WalkRule(Generic[T]):
    """The rule of one walk: what is searched for, which objects are followed, and within which bounds."""

    is_wanted: Callable[[object], TypeGuard[T]]
    is_skipped: Callable[[object], bool]
    children: Callable[[object], Iterable[Child]]
    max_effort: int
    max_depth: int
    attributes: Callable[[object], Attributes | None] = lambda item: None
    left_out: Callable[[], tuple[object, ...]] = tuple
    step: Callable[[object], int] = _one  # how much farther away the children of an object are than the object
    effort: Callable[[object], int] = _one  # the share of `max_effort` that one object takes


class Walked(NamedTuple, Generic[T]):
    """The objects that a walk found, and those that it did not reach."""

    found: list[tuple[str, T]]  # by path; paths may repeat
    tables: list[Attributes]  # of the objects that come first
    beyond: str | None  # the path of the first object that the bound left out


def walk(roots: Iterable[object], rule: WalkRule[T], leave_out: tuple[object, ...] = ()) -> Walked[T]:
    """Return every wanted object reachable from `roots`, and do not look inside of those.

    Each object is visited once, under the nearest path; of equally near ones under the path that was met first.
    Nothing under `leave_out` is visited.
    """
    found: list[tuple[str, T]] = []
    tables: list[Attributes] = []
    beyond: str | None = None
    seen = {id(item): item for item in (*leave_out, *rule.left_out())}  # held, so that no other object gets their ids
    spent = len(seen)
    queue = _Queue(rule.is_skipped)
    queue.push(((str(number), root) for number, root in enumerate(roots)), distance=0, depth=0)
    for distance, _, path, item, depth in queue:
        if id(item) in seen:
            continue
        if spent >= rule.max_effort:
            beyond = beyond or path
            break
        seen[id(item)] = item
        spent += rule.effort(item)
        if rule.is_wanted(item):
            found.append((path, item))
        elif depth == rule.max_depth:
            beyond = beyond or path
        else:
            if len(tables) < MAX_TABLES and (table := rule.attributes(item)) is not None:
                tables.append(table)
            below = ((f"{path}.{name}", child) for name, child in rule.children(item))
            queue.push(below, distance=distance + rule.step(item), depth=depth + 1)
    return Walked(found, tables, beyond)


_Visit: TypeAlias = tuple[int, int, str, object, int]  # distance, order of discovery, path, object, depth


class _Queue(Iterator[_Visit]):
    """The objects to visit, nearest first; equally near ones in the order of their discovery."""

    def __init__(self, is_skipped: Callable[[object], bool]) -> None:
        self._is_skipped = is_skipped
        self._heap: list[_Visit] = []
        self._order = itertools.count()

    def push(self, named: Iterable[Child], *, distance: int, depth: int) -> None:
        for path, item in named:
            if not self._is_skipped(item):
                heappush(self._heap, (distance, next(self._order), path, item, depth))

    def __next__(self) -> _Visit:
        if not self._heap:
            raise StopIteration
        return heappop(self._heap)
