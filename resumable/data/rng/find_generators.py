"""Private random generators inside datasets, transforms, collate functions and samplers; knows nothing of keys.

Which of them are found, and under which path, decides bits. So that is a rule with a number, a run keeps to the rule
that it began with, and no rule is ever changed: what is to be found otherwise is a new one.
"""

from __future__ import annotations

import itertools
import operator
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from resumable.data.rng import generator_rule_1, generator_rule_2

AnyGenerator: TypeAlias = (
    torch.Generator | np.random.Generator | np.random.RandomState | np.random.BitGenerator | random.Random
)
Found: TypeAlias = dict[str, AnyGenerator]
Tables: TypeAlias = list[Mapping[str, Any]]

MAX_TABLES = 32

# By identity: to look a type up would run the `__hash__` of its metaclass.
_PLAIN = frozenset(
    map(id, (type(None), bool, int, float, complex, str, bytes, bytearray, range, torch.Tensor, np.ndarray))
)


@dataclass(frozen=True)
class Rule:
    """What one walk goes by: what an object leads to, what is near, and how much is looked at."""

    children: Callable[[Any], Iterator[tuple[str, Any]]]
    is_passed_by: Callable[[Any], bool]
    is_generator: Callable[[Any], bool]
    table_of: Callable[[Any], Mapping[str, Any] | None]
    global_streams: Callable[[], tuple[Any, ...]]
    max_effort: int
    max_depth: int
    step: Callable[[Any], int] = lambda item: 1
    effort: Callable[[Any], int] = lambda item: 1
    settled: Callable[[Found], Found] = lambda found: found


RULES: Mapping[int, Rule] = {
    1: Rule(
        generator_rule_1.children,
        generator_rule_1.is_passed_by,
        generator_rule_1.is_generator,
        generator_rule_1.table_of,
        generator_rule_1.global_streams,
        max_effort=generator_rule_1.MAX_OBJECTS,
        max_depth=generator_rule_1.MAX_DEPTH,
    ),
    2: Rule(
        generator_rule_2.children,
        generator_rule_2.is_passed_by,
        generator_rule_2.is_generator,
        generator_rule_2.table_of,
        generator_rule_2.global_streams,
        max_effort=20_000,
        max_depth=64,
        step=generator_rule_2.step,
        effort=generator_rule_2.effort,
        settled=generator_rule_2.streams_apart,
    ),
}
NEWEST_RULE = max(RULES)


def find_generators(*roots: Any, leave_out: tuple[Any, ...] = (), rule: int = NEWEST_RULE) -> Found:
    """Return every private generator reachable from `roots`, by path; paths do not depend on the order of creation.

    Looks through attributes, short containers, partials, methods, closures, defaults, classes, and the module variables
    that a function names; the newest rule runs no code of the objects. Bounded, and safe with cycles.

    The global streams (also under another name) are not private and are left out, and so is everything under
    `leave_out`.
    """
    return _walk(roots, leave_out, RULES[rule]).found


def unkeyed(rule: int, **roots: Any) -> str | None:
    """Tell what the rule may leave without a key below the named roots; None where it finds all that any rule finds.

    The newest rule leaves out what lies beyond its bound; an older one also what it does not follow.
    """
    newest = _walk(tuple(roots.values()), (), RULES[NEWEST_RULE])
    if rule != NEWEST_RULE:
        known = set(map(id, find_generators(*roots.values(), rule=rule).values()))
        missed = next((path for path, generator in newest.found.items() if id(generator) not in known), None)
        return missed and (
            f"the random generator {_told(missed, roots)} has no key, for this run began with an older version: what "
            "it draws may differ after a resume; a new run gives it one"
        )
    return newest.beyond and (
        f"holds more objects than are searched for random generators: those from {_told(newest.beyond, roots)} on have "
        "no key, so what they draw may differ after a resume; keep generators in attributes, and not inside of data"
    )


def _told(path: str, roots: Mapping[str, Any]) -> str:
    number, dot, rest = path.partition(".")
    return f"{list(roots)[int(number)]}{dot}{rest}"


class Finder:
    """`find_generators` for the same roots again and again: walks anew only when an attribute was rebound."""

    def __init__(self, *roots: Any, rule: int = NEWEST_RULE) -> None:
        self._roots = roots
        self._rule = RULES[rule]
        self._found: Found = {}
        self._tables: Tables = []
        self._seen: list[Any] | None = None

    def find(self) -> Found:
        """The private generators as of now; microseconds where nothing was rebound."""
        look = self._look()
        if self._seen is None or len(look) != len(self._seen) or not all(map(operator.is_, look, self._seen)):
            self._found, self._tables, _ = _walk(self._roots, (), self._rule)
            self._seen = self._look()
        return self._found

    def _look(self) -> list[Any]:
        return [value for table in self._tables for value in table.values() if id(type(value)) not in _PLAIN]


class _Walked(NamedTuple):
    found: Found
    tables: Tables  # of attributes, of the objects that come first
    beyond: str | None  # the path of the first object that was not looked at, for the bound was reached


def _walk(roots: tuple[Any, ...], leave_out: tuple[Any, ...], rule: Rule) -> _Walked:
    found: Found = {}
    tables: Tables = []
    beyond: str | None = None
    seen = {id(item): item for item in (*leave_out, *rule.global_streams())}
    spent, order = len(seen), itertools.count()
    waiting: list[tuple[int, int, str, Any, int]] = []

    def meet(path: str, item: Any, distance: int, depth: int) -> None:
        if not rule.is_passed_by(item):
            heappush(waiting, (distance, next(order), path, item, depth))

    for number, root in enumerate(roots):
        meet(str(number), root, 0, 0)
    while waiting:
        distance, _, path, item, depth = heappop(waiting)
        if id(item) in seen:
            continue
        if spent >= rule.max_effort:
            beyond = beyond or path
            break
        seen[id(item)] = item  # held, so that no other object comes to have its place in memory
        spent += rule.effort(item)
        if rule.is_generator(item):
            found[path] = item
        elif depth == rule.max_depth:
            beyond = beyond or path
        else:
            table = rule.table_of(item) if len(tables) < MAX_TABLES else None
            if table is not None:
                tables.append(table)
            distance += rule.step(item)
            for name, child in rule.children(item):
                meet(f"{path}.{name}", child, distance, depth + 1)
    return _Walked(rule.settled(found), tables, beyond)
