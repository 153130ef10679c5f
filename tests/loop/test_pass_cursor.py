"""Where in a pass control is: every pair of a state and an event, and what the cursor does besides."""

from __future__ import annotations

from itertools import product

import pytest

from resumable.loop.pass_cursor import TRANSITIONS, PassEvent, PassState
from resumable.loop.transitions import next_state

EXPECTED = """
                BEGIN     HAND_OUT  HAND_OUT_STEP  COUNT     LEAVE         END     RELEASE
CLOSED          FETCHING  -         IN_STEP        CLOSED    -             -       CLOSED
FETCHING        -         IN_BODY   -              FETCHING  LEFT          CLOSED  CLOSED
IN_BODY         -         -         -              FETCHING  LEFT_IN_BODY  -       CLOSED
LEFT_IN_BODY    -         -         -              LEFT      -             -       LEFT_IN_BODY
LEFT            -         -         -              LEFT      -             CLOSED  LEFT
IN_STEP         -         -         -              CLOSED    -             -       -
"""


def _expected() -> dict[tuple[PassState, PassEvent], PassState | None]:
    header, *rows = EXPECTED.strip().splitlines()
    events = [PassEvent[name] for name in header.split()]
    cells = [(PassState[row.split()[0]], row.split()[1:]) for row in rows]
    return {
        (state, event): None if name == "-" else PassState[name]
        for state, names in cells
        for event, name in zip(events, names, strict=True)
    }


@pytest.mark.parametrize(("state", "event"), list(product(PassState, PassEvent)))
def test_each_event_leads_where_the_table_says_or_raises(state: PassState, event: PassEvent) -> None:
    after = _expected()[state, event]
    if after is not None:
        assert next_state(TRANSITIONS, state, event) is after
        return
    with pytest.raises(RuntimeError, match=rf"PassState\.{state.name} does not allow {event.name}"):
        next_state(TRANSITIONS, state, event)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {after for row in TRANSITIONS.values() for after in row.values()}
    assert reached == set(PassState)
    assert all(any(after is not state for after in TRANSITIONS[state].values()) for state in PassState)
