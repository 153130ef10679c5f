"""Where in a pass control is: every pair of a state and an event, and what the cursor does besides."""

from __future__ import annotations

import re
from contextlib import nullcontext
from itertools import product

import pytest

from resumable.data.open_pass import Data
from resumable.errors import LoopError
from resumable.loop.passes.pass_cursor import TRANSITIONS, PassCursor, PassEvent, PassState
from resumable.utils.transitions import next_state

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
    with pytest.raises(RuntimeError, match=re.escape(f"{state.value!r}: no transition for {event.value!r}")):
        next_state(TRANSITIONS, state, event)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {after for row in TRANSITIONS.values() for after in row.values()}
    assert reached == set(PassState)
    assert all(any(after is not state for after in TRANSITIONS[state].values()) for state in PassState)


@pytest.fixture
def cursor() -> PassCursor:
    return PassCursor(Data(7, warn=print, skipping=lambda what, total: nullcontext(print)))


def test_a_step_counts_once(cursor: PassCursor) -> None:
    cursor.begin()
    cursor.hand_out()
    assert [cursor.count(), cursor.count()] == [True, False]
    assert (cursor.state, cursor.finished) == (PassState.FETCHING, 0)
    cursor.end()
    assert (cursor.in_pass, cursor.finished, cursor.count()) == (False, 1, False)


def test_a_pass_that_was_left_is_in_progress_until_control_is_back(cursor: PassCursor) -> None:
    mine = cursor.begin()
    cursor.hand_out()
    cursor.leave(mine)
    cursor.release(mine)
    assert (cursor.in_pass, cursor.left) == (True, True)
    assert cursor.count()
    cursor.end()
    assert (cursor.in_pass, cursor.left, cursor.finished) == (False, False, 1)


def test_a_pass_that_failed_is_not_finished(cursor: PassCursor) -> None:
    mine = cursor.begin()
    cursor.hand_out()
    cursor.release(mine)
    assert (cursor.state, cursor.finished) == (PassState.CLOSED, 0)


def test_an_iterator_that_is_kept_from_an_earlier_epoch_moves_nothing(cursor: PassCursor) -> None:
    kept = cursor.begin()
    cursor.hand_out()
    cursor.abandon()
    cursor.count()
    cursor.end()
    cursor.begin()
    cursor.hand_out()
    with pytest.raises(LoopError, match="was left in an earlier epoch"):
        cursor.refuse_left(kept)
    cursor.leave(kept)
    cursor.release(kept)
    assert cursor.state is PassState.IN_BODY


def test_a_step_of_steps_is_in_no_pass(cursor: PassCursor) -> None:
    cursor.hand_out_step()
    assert not cursor.in_pass
    with pytest.raises(RuntimeError, match="no transition for 'a pass begins'"):
        cursor.begin()
    assert cursor.count()
    assert cursor.state is PassState.CLOSED
