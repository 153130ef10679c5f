"""One step of a state machine whose transitions are a table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

State = TypeVar("State", bound=Enum)
Event = TypeVar("Event", bound=Enum)


def next_state(table: Mapping[State, Mapping[Event, State]], state: State, event: Event) -> State:
    """Return the state that follows `state` after `event`. Raises `RuntimeError` where the table has none."""
    try:
        return table[state][event]
    except KeyError:
        raise RuntimeError(f"{type(state).__name__} {state.value!r}: no transition for {event.value!r}") from None
