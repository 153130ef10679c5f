"""How far a resume has come: every pair of a state and an event, from a checkpoint and from a new run."""

from __future__ import annotations

import re
from itertools import product

import pytest

from resumable.checkpointing.position import Position
from resumable.loop.restore_progress import TRANSITIONS, RestoreEvent, RestoreProgress, RestoreState
from resumable.utils.transitions import next_state

EXPECTED = {
    (RestoreState.FRESH, RestoreEvent.RESTORE): RestoreState.OBJECTS,
    (RestoreState.OBJECTS, RestoreEvent.RESTORE): RestoreState.OBJECTS,
    (RestoreState.OBJECTS, RestoreEvent.REACH): RestoreState.INSTANT,
}


@pytest.mark.parametrize(("state", "event"), list(product(RestoreState, RestoreEvent)))
def test_each_event_leads_where_the_table_says_or_raises(state: RestoreState, event: RestoreEvent) -> None:
    if (state, event) in EXPECTED:
        assert next_state(TRANSITIONS, state, event) is EXPECTED[state, event]
        return
    with pytest.raises(RuntimeError, match=re.escape(f"{state.value!r}: no transition for {event.value!r}")):
        next_state(TRANSITIONS, state, event)


def test_a_resume_is_pending_until_its_instant() -> None:
    progress = RestoreProgress(start := Position(step=7), resumes=True)
    assert progress.pending is start
    progress.restored()
    progress.restored()
    assert (progress.state, progress.pending) == (RestoreState.OBJECTS, start)
    progress.reached()
    assert progress.pending is None


def test_a_new_run_has_nothing_to_restore() -> None:
    progress = RestoreProgress(Position(), resumes=False)
    assert progress.pending is None
    with pytest.raises(RuntimeError, match="no transition for 'restore'"):
        progress.restored()
