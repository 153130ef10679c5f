"""The state of the pass in progress, and the count of finished passes. Independent of saves and signals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from resumable.data.open_pass import Data
from resumable.loop import loop_errors
from resumable.loop.passes.zipped_pass import ZippedPass, pass_over
from resumable.utils.transitions import next_state


class PassState(StrEnum):
    """Who has control, and of what."""

    CLOSED = "no pass is in progress"
    FETCHING = "the loop has control, between two steps of a pass"
    IN_BODY = "the body has control, in a step of a pass"
    LEFT_IN_BODY = "the body was left, and its step counts once control comes back"
    LEFT = "the body was left behind a step that is counted"
    IN_STEP = "the body of steps() has control, in a step without a pass"


class PassEvent(StrEnum):
    """What happens to a pass, or to a step without one."""

    BEGIN = "a pass begins"
    HAND_OUT = "the body gets a batch"
    HAND_OUT_STEP = "the body of steps() gets a step"
    COUNT = "the step of the body counts as complete"
    LEAVE = "the body is left by break, return or an exception"
    END = "the pass is finished: exhausted, stopped, or left and control came back"
    RELEASE = "the generator of the pass has ended, whatever ended it"


# Counting is idempotent: where a loop is left, its exit counts the step before the loop itself would.
TRANSITIONS: Mapping[PassState, Mapping[PassEvent, PassState]] = {
    PassState.CLOSED: {
        PassEvent.BEGIN: PassState.FETCHING,
        PassEvent.HAND_OUT_STEP: PassState.IN_STEP,
        PassEvent.COUNT: PassState.CLOSED,
        PassEvent.RELEASE: PassState.CLOSED,
    },
    PassState.FETCHING: {
        PassEvent.HAND_OUT: PassState.IN_BODY,
        PassEvent.COUNT: PassState.FETCHING,
        PassEvent.LEAVE: PassState.LEFT,
        PassEvent.END: PassState.CLOSED,
        PassEvent.RELEASE: PassState.CLOSED,
    },
    PassState.IN_BODY: {
        PassEvent.COUNT: PassState.FETCHING,
        PassEvent.LEAVE: PassState.LEFT_IN_BODY,
        PassEvent.RELEASE: PassState.CLOSED,
    },
    PassState.LEFT_IN_BODY: {
        PassEvent.COUNT: PassState.LEFT,
        PassEvent.RELEASE: PassState.LEFT_IN_BODY,
    },
    PassState.LEFT: {
        PassEvent.COUNT: PassState.LEFT,
        PassEvent.END: PassState.CLOSED,
        PassEvent.RELEASE: PassState.LEFT,
    },
    PassState.IN_STEP: {
        PassEvent.COUNT: PassState.CLOSED,
    },
}

_IN_A_PASS = {PassState.FETCHING, PassState.IN_BODY, PassState.LEFT_IN_BODY, PassState.LEFT}
_LEFT = {PassState.LEFT_IN_BODY, PassState.LEFT}


class PassCursor:
    """The passes of the epoch in progress: those requested, those finished, and the one that control is in.

    The generator of a pass passes what `begin` returned, and changes nothing once its pass was left to a later one: an
    iterator that the user's code keeps may be resumed or closed at any time.
    """

    def __init__(self, data: Data) -> None:
        self.state = PassState.CLOSED
        self.requested = 0  # passes that this epoch's code has requested
        self.finished = 0  # passes of the epoch that are over
        self._data = data
        self._opened: ZippedPass | None = None
        self._generator: object = None  # of the pass in progress

    def _on(self, event: PassEvent) -> None:
        self.state = next_state(TRANSITIONS, self.state, event)

    # -- the epoch ----------------------------------------------------------------------------------------------------

    def request(self) -> int:
        """Return the number of the pass that the code of the epoch requests now."""
        number, self.requested = self.requested, self.requested + 1
        return number

    def skip(self, loaders: Sequence[Iterable[object]], *, number: int, epoch: int) -> None:
        """Pass over a pass that was finished before the checkpoint."""
        pass_over(self._data, loaders, number=number, epoch=epoch)

    @property
    def in_pass(self) -> bool:
        """True while a pass is in progress, also after it was left, until control comes back."""
        return self.state in _IN_A_PASS

    @property
    def left(self) -> bool:
        """True if the pass in progress was left, so that it ends when control comes back."""
        return self.state in _LEFT

    # -- one pass -----------------------------------------------------------------------------------------------------

    def begin(self) -> object:
        """Enter a pass. Returns what its generator passes to `refuse_left`, `leave` and `release`."""
        self._on(PassEvent.BEGIN)
        self._generator = object()
        return self._generator

    def open(
        self, loaders: Sequence[Iterable[object]], resume: Sequence[Mapping[str, Any]], *, number: int, epoch: int
    ) -> ZippedPass:
        """Open the loaders of the pass that was begun."""
        self._opened = ZippedPass(self._data, loaders, resume, number=number, epoch=epoch)
        return self._opened

    def hand_out(self) -> None:
        """Give the body control with a batch."""
        self._on(PassEvent.HAND_OUT)

    def hand_out_step(self) -> None:
        """Give the body of `steps()` control."""
        self._on(PassEvent.HAND_OUT_STEP)

    def count(self) -> bool:
        """Complete the step of the body. Returns whether one was open."""
        before = self.state
        self._on(PassEvent.COUNT)
        return self.state is not before

    def refuse_left(self, generator: object) -> None:
        """Raise `LoopError` where control returns to a pass that was left in an earlier epoch."""
        if self._generator is not generator:
            raise loop_errors.left_iterator()

    def leave(self, generator: object) -> None:
        """Note that the generator is closed; whether its last step counts shows by whether control comes back."""
        if self._generator is generator:
            self._on(PassEvent.LEAVE)

    def abandon(self) -> None:
        """Leave the pass in progress at the end of its epoch, where the code still holds its iterator."""
        if self.in_pass and not self.left:
            self._on(PassEvent.LEAVE)
            self._generator = None
            self._close()

    def end(self) -> None:
        """Finish the pass."""
        self._on(PassEvent.END)
        self.finished += 1

    def release(self, generator: object) -> None:
        """Close the loaders of the pass: its generator has ended."""
        if self._generator is generator:
            self._on(PassEvent.RELEASE)
            self._close()

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    # -- the open loaders ---------------------------------------------------------------------------------------------

    @property
    def remaining(self) -> int | None:
        """The batches to come in the open pass, 0 without one; None where a loader has no length."""
        return self._opened.left if self._opened is not None else 0

    @property
    def exhausted(self) -> bool:
        """True if the open pass has no batch left, as far as its loaders have a length."""
        return self._opened is not None and self._opened.batches == self._opened.length

    def positions(self) -> list[dict[str, Any]]:
        """Return where each loader of the open pass stands, nothing without one."""
        return self._opened.positions() if self._opened is not None else []

    def total_steps(self, *, step: int, epochs: int) -> int | None:
        """Return the steps of the run if `epochs` epochs, this one included, are as long as the open pass.

        None without an open pass, and where a loader has no length.
        """
        if self._opened is None or self._opened.length is None:
            return None
        return step - self._opened.batches + self._opened.length * epochs
