"""The states of the saves of one attempt, and their transitions as one table. Imports nothing of a run."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class SaveState(Enum):
    """The work in flight, or the end of the last one, as the training thread has noticed it."""

    IDLE = "idle"  # nothing is in flight; the last save, if any, is durable
    PREPARING = "preparing"  # memory for the next save is allocated
    WRITING = "writing"  # a save is staged, and committed beside training
    COPYING = "copying"  # a save is copied late and committed, both beside training
    STREAMING = "streaming"  # a save is committed out of the live tensors
    TORN = "torn"  # training wrote to the tensors during the copy: the save is due again
    FAILED = "failed"  # the save is not durable; training goes on, and a later save tries again


class SaveEvent(Enum):
    """An event that changes the state."""

    PREPARE = "prepare"
    STAGE = "stage"
    COPY_LATE = "copy late"
    STREAM = "stream"
    FINISH = "finish"
    TEAR = "tear"
    FAIL = "fail"


BUSY = frozenset({SaveState.PREPARING, SaveState.WRITING, SaveState.COPYING, SaveState.STREAMING})

# Only a late copy can be torn, and a torn save is not copied late again.
TRANSITIONS: Mapping[SaveState, Mapping[SaveEvent, SaveState]] = {
    SaveState.IDLE: {
        SaveEvent.PREPARE: SaveState.PREPARING,
        SaveEvent.STAGE: SaveState.WRITING,
        SaveEvent.COPY_LATE: SaveState.COPYING,
        SaveEvent.STREAM: SaveState.STREAMING,
    },
    SaveState.PREPARING: {SaveEvent.FINISH: SaveState.IDLE, SaveEvent.FAIL: SaveState.FAILED},
    SaveState.WRITING: {SaveEvent.FINISH: SaveState.IDLE, SaveEvent.FAIL: SaveState.FAILED},
    SaveState.COPYING: {
        SaveEvent.FINISH: SaveState.IDLE,
        SaveEvent.TEAR: SaveState.TORN,
        SaveEvent.FAIL: SaveState.FAILED,
    },
    SaveState.STREAMING: {SaveEvent.FINISH: SaveState.IDLE, SaveEvent.FAIL: SaveState.FAILED},
    SaveState.TORN: {SaveEvent.STAGE: SaveState.WRITING, SaveEvent.STREAM: SaveState.STREAMING},
    SaveState.FAILED: {
        SaveEvent.PREPARE: SaveState.PREPARING,
        SaveEvent.STAGE: SaveState.WRITING,
        SaveEvent.COPY_LATE: SaveState.COPYING,
        SaveEvent.STREAM: SaveState.STREAMING,
    },
}
