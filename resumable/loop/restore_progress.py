"""How far a resume has come: nothing restored yet, the objects restored, the checkpoint's instant reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from resumable.checkpointing.position import Position
from resumable.utils.transitions import next_state


class RestoreState(StrEnum):
    """What of the checkpoint the program has."""

    FRESH = "nothing is restored"
    OBJECTS = "the objects are restored, but the run is not yet at the instant of the checkpoint"
    INSTANT = "the run stood at its first instant: that of the checkpoint, or the start of a new run"


class RestoreEvent(StrEnum):
    """What changes that."""

    RESTORE = "restore"
    REACH = "reach the instant"


TRANSITIONS: Mapping[RestoreState, Mapping[RestoreEvent, RestoreState]] = {
    RestoreState.FRESH: {RestoreEvent.RESTORE: RestoreState.OBJECTS},
    RestoreState.OBJECTS: {
        RestoreEvent.RESTORE: RestoreState.OBJECTS,  # repeated, because code of the user ran in between
        RestoreEvent.REACH: RestoreState.INSTANT,
    },
    RestoreState.INSTANT: {},
}


class RestoreProgress:
    """The position of the checkpoint, and how far the resume from it has come. A new run begins at its instant."""

    def __init__(self, start: Position, *, resumes: bool) -> None:
        self.start = start
        self.state = RestoreState.FRESH if resumes else RestoreState.INSTANT

    @property
    def pending(self) -> Position | None:
        """The position of the checkpoint until its instant is reached, then None."""
        return None if self.state is RestoreState.INSTANT else self.start

    def begin_at(self, *, step: int, epoch: int) -> None:
        """Begin a new run at these counters instead of 0."""
        self.start = replace(self.start, step=step, epoch=epoch)

    def found_newer(self, start: Position) -> None:
        """Resume from another checkpoint, which was saved since the run was found; nothing is restored yet."""
        self.start, self.state = start, RestoreState.FRESH

    def restored(self) -> None:
        """Note that the objects were restored, once more or for the first time."""
        self.state = next_state(TRANSITIONS, self.state, RestoreEvent.RESTORE)

    def reached(self) -> None:
        """Note that the run stands at the instant of the checkpoint: from here on it trains."""
        self.state = next_state(TRANSITIONS, self.state, RestoreEvent.REACH)
