"""Notice a program that constructs an optimizer otherwise than when its run was begun: a resume keeps the old values.

The values of now would not show it, because schedulers, loops and hooks change them. What an optimizer was constructed
with, its `defaults`, stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from resumable.store.documents.manifest import Manifest
from resumable.utils.events import warn

HYPERPARAMETERS = "hyperparameters"  # in the environment of a manifest
MAX_VALUES = 16  # of one hyperparameter

Values: TypeAlias = dict[str, Any]
"""A number, or a list of them, for each hyperparameter."""


class Hyperparameters:
    """The values that each optimizer was constructed with when the run began."""

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
        """Log a WARN, once for each optimizer, where the program constructs it with other values."""
        for name, optimizer in optimizers.items():
            begun = self._begun.get(name)
            if name not in self._compared and isinstance(begun, dict):
                differences = list(_differences(values_of(optimizer), begun))
                if differences:
                    warn(
                        f"{name}: the program constructs it with {', '.join(differences)}. A resume keeps the values "
                        "of the checkpoint: to change one, set it inside the loop at a step or epoch of your choice"
                    )
            self._compared.add(name)


def values_of(optimizer: Any) -> Values:
    """Return the defaults of an optimizer that are plain numbers, or tuples of them."""
    values = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in getattr(optimizer, "defaults", {}).items()
    }
    return {key: value for key, value in values.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= MAX_VALUES and all(map(_is_plain, value))
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def _differences(now: Values, begun: Mapping[str, Any]) -> Iterator[str]:
    for key, value in now.items():
        if key in begun and value != begun[key]:
            yield f"{key}={json.dumps(value)}, and the run was begun with {key}={json.dumps(begun[key])}"
