"""The states of a save and their transitions, as one table. Imports nothing of a run."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class SaveState(Enum):
    """The state of the newest save, as the training thread has noticed it."""

    IDLE = "idle"  # none is in flight; the last one, if any, is durable
    WRITING = "writing"  # staged, and committed beside training
    COPYING = "copying"  # copied late and committed, both beside training
    STREAMING = "streaming"  # committed out of the live tensors
    TORN = "torn"  # training wrote to the tensors during the copy: the save is due again
    FAILED = "failed"  # not durable; training goes on, and a later save tries again


class SaveEvent(Enum):
    """An event that changes the state of the newest save."""

    STAGE = "stage"
    COPY_LATE = "copy late"
    STREAM = "stream"
    COMMIT = "commit"
    TEAR = "tear"
    FAIL = "fail"


# Only a late copy can be torn, and a torn save is not copied late again. IDLE and FAILED can fail (again) where memory
# for the next save could not be prepared.
TRANSITIONS: Mapping[SaveState, Mapping[SaveEvent, SaveState]] = {
    SaveState.IDLE: {
        SaveEvent.STAGE: SaveState.WRITING,
        SaveEvent.COPY_LATE: SaveState.COPYING,
        SaveEvent.STREAM: SaveState.STREAMING,
        SaveEvent.FAIL: SaveState.FAILED,
    },
    SaveState.WRITING: {SaveEvent.COMMIT: SaveState.IDLE, SaveEvent.FAIL: SaveState.FAILED},
    SaveState.COPYING: {
        SaveEvent.COMMIT: SaveState.IDLE,
        SaveEvent.TEAR: SaveState.TORN,
        SaveEvent.FAIL: SaveState.FAILED,
    },
    SaveState.STREAMING: {SaveEvent.COMMIT: SaveState.IDLE, SaveEvent.FAIL: SaveState.FAILED},
    SaveState.TORN: {SaveEvent.STAGE: SaveState.WRITING, SaveEvent.STREAM: SaveState.STREAMING},
    SaveState.FAILED: {
        SaveEvent.STAGE: SaveState.WRITING,
        SaveEvent.COPY_LATE: SaveState.COPYING,
        SaveEvent.STREAM: SaveState.STREAMING,
        SaveEvent.FAIL: SaveState.FAILED,
    },
}


def next_state(state: SaveState, event: SaveEvent) -> SaveState:
    """Return the state after `event`; `RuntimeError` where the table has no such transition."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise RuntimeError(f"a save that is {state.value} cannot {event.value}") from None
