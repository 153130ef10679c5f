"""Find private random generators inside datasets, transforms, collate functions and samplers, by a numbered rule.

Independent of keys and streams.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Mapping

import numpy as np
import torch

from resumable.data.find_objects import find_objects
from resumable.data.object_walk import Attributes, walk
from resumable.data.rng import generator_rule_1, generator_rule_2, generator_rule_3
from resumable.data.rng.generator_rule import Found, GeneratorRule

# By identity: to look a type up would run the `__hash__` of its metaclass.
_PLAIN = frozenset(
    map(id, (type(None), bool, int, float, complex, str, bytes, bytearray, range, torch.Tensor, np.ndarray))
)

RULES: Mapping[int, GeneratorRule] = {1: generator_rule_1.RULE, 2: generator_rule_2.RULE, 3: generator_rule_3.RULE}
NEWEST_RULE = max(RULES)


def find_generators(*roots: object, leave_out: tuple[object, ...] = (), rule: int = NEWEST_RULE) -> Found:
    """Return every private generator reachable from `roots`, by path; paths do not depend on the order of creation.

    Looks through attributes, short containers, partials, methods, closures, defaults, classes, and the module variables
    that a function names; the newest rule runs no code of the objects. Bounded, and safe with cycles.

    The global streams (also under another name) are not private and are left out, and so is everything under
    `leave_out`.
    """
    return RULES[rule].keyed(dict(walk(roots, RULES[rule], leave_out).found))


def missing_key_warning(rule: int, **roots: object) -> str | None:
    """Return a warning about what the rule may leave without a key below the named roots, or None.

    The newest rule leaves out what lies beyond its bound; an older one also what it does not follow.
    """
    newest = walk(roots.values(), RULES[NEWEST_RULE])
    if rule != NEWEST_RULE:
        keyed = set(map(id, find_generators(*roots.values(), rule=rule).values()))
        found = RULES[NEWEST_RULE].keyed(dict(newest.found))
        missed = next((path for path, generator in found.items() if id(generator) not in keyed), None)
        return missed and (
            f"the random generator {_from_root(missed, roots)} has no key, for this run began with an older version: "
            "what it draws may differ after a resume; a new run gives it one"
        )
    too_long = next((path for path, _ in walk(roots.values(), generator_rule_3.TOO_LONG).found), None)
    if too_long is not None:
        return (
            f"{_from_root(too_long, roots)} holds more than 256 items, random generators among them: they have no key, "
            "so what they draw may differ after a resume; keep at most 256 in one container"
        )
    return newest.beyond and (
        f"holds more objects than are searched for random generators: those from {_from_root(newest.beyond, roots)} on "
        "have no key, so what they draw may differ after a resume; keep generators in attributes, and not inside of "
        "data"
    )


def _from_root(path: str, roots: Mapping[str, object]) -> str:
    """Return the path with the name of its root in the place of the number."""
    number, dot, rest = path.partition(".")
    return f"{list(roots)[int(number)]}{dot}{rest}"


class Finder:
    """`find_generators` for the same roots, repeatedly: searches again only when an attribute was rebound."""

    def __init__(self, *roots: object, rule: int = NEWEST_RULE) -> None:
        self._roots = roots
        self._rule = RULES[rule]
        self._found: Found = {}
        self._tables: list[Attributes] = []
        self._values: list[object] | None = None  # of the attributes, at the last search

    def find(self) -> Found:
        """Return the private generators as of now; takes microseconds where nothing was rebound."""
        values = self._look()
        if self._values is None or len(values) != len(self._values) or not all(map(operator.is_, values, self._values)):
            walked = walk(self._roots, self._rule)
            self._found, self._tables = self._rule.keyed(dict(walked.found)), walked.tables
            self._values = self._look()
        return self._found

    def _look(self) -> list[object]:
        return [value for table in self._tables for value in table.values() if id(type(value)) not in _PLAIN]


class FoundOnce:
    """The private generators as of one search, which leaves out the iterators that an object holds."""

    def __init__(self, *roots: object, rule: int) -> None:
        # Those of an earlier iteration: by way of them a generator may be nearer, and have another path.
        suspended = [each for root in roots for each in find_objects(root, types.GeneratorType)]
        self._found = find_generators(*roots, leave_out=tuple(suspended), rule=rule)

    def find(self) -> Found:
        """Return what the search found."""
        return self._found
