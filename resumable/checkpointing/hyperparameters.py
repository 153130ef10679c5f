"""Notice a program that sets other hyperparameters than those its run was begun with: a resume keeps the checkpoint's.

The values of now would not show it, because schedulers and loops change them. So every checkpoint has those from before
the first step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from resumable.store.manifest import Manifest
from resumable.utils.events import warn

HYPERPARAMETERS = "hyperparameters"  # in the environment of a manifest
MAX_VALUES = 16  # of one hyperparameter, over the groups of an optimizer

Values: TypeAlias = dict[str, list[Any]]
"""The distinct values of each hyperparameter, in the order of the groups."""


class Hyperparameters:
    """The hyperparameters that each optimizer of a run was begun with."""

    def __init__(self, resumed: Manifest | None) -> None:
        self._is_new = resumed is None
        found = {} if resumed is None else resumed.environment.get(HYPERPARAMETERS)
        self._begun: dict[str, Any] = found if isinstance(found, dict) else {}
        self._compared: set[str] = set()

    def record(self, optimizers: Mapping[str, Any]) -> Mapping[str, object]:
        """Return what a manifest stores of them; the first call of a new run looks at the optimizers."""
        if self._is_new:
            self._is_new = False
            self._begun = {name: values_of(optimizer) for name, optimizer in optimizers.items()}
        return {HYPERPARAMETERS: self._begun} if self._begun else {}

    def compare(self, optimizers: Mapping[str, Any]) -> None:
        """Log a WARN, once for each optimizer, where the program has set other values; called before a restore."""
        for name, optimizer in optimizers.items():
            begun = self._begun.get(name)
            if name not in self._compared and isinstance(begun, dict):
                differences = list(_differences(values_of(optimizer), begun))
                if differences:
                    warn(
                        f"{name}: {'; '.join(differences)}. A resume keeps the values of the checkpoint: "
                        "to change one, set it inside the loop at a step or epoch of your choice"
                    )
            self._compared.add(name)


def values_of(optimizer: Any) -> Values:
    """Return the hyperparameters of an optimizer that are plain numbers, or tuples of them."""
    values: Values = {}
    for group in optimizer.param_groups:
        for key, value in group.items():
            number = list(value) if isinstance(value, tuple) else value
            if key != "params" and _is_plain(number) and number not in (seen := values.setdefault(key, [])):
                seen.append(number)
    return {key: found[:MAX_VALUES] for key, found in values.items()}


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= MAX_VALUES and all(map(_is_plain, value))
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def _differences(now: Values, begun: Mapping[str, Any]) -> Iterator[str]:
    for key, values in now.items():
        if key in begun and values != begun[key]:
            yield f"the program sets {key}={_shown(values)}, and the run was begun with {key}={_shown(begun[key])}"


def _shown(values: Any) -> str:
    return json.dumps(values[0] if isinstance(values, list) and len(values) == 1 else values)
