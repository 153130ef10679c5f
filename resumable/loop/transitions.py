"""One step of a state machine whose transitions are a table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


def next_state(table: Mapping[S, Mapping[E, S]], state: S, event: E) -> S:
    """Return the state that follows `state` after `event`. Raises `RuntimeError` where the table has none."""
    try:
        return table[state][event]
    except KeyError:
        raise RuntimeError(f"{type(state).__name__}.{state.name} does not allow {event.name}: {state}") from None
