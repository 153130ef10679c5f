"""Ends what a loop began where it is left: finishes the run after `stop()`; knows no checkpoint.

A generator cannot tell a `break` from an exception when it is closed. The frame that drove it can (`frames`): at that
instant control is between the step and the code behind the loop, so what is saved there is exact.
"""

from __future__ import annotations

import os

from resumable.loop.loops import Loops
from resumable.loop.turns import Use
from resumable.utils.events import warn

_STEPS = ("steps", "batches")  # loops whose turns are steps


class Leaving:
    """Who goes over which of the loops, and what follows where one is left."""

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self._owner = os.getpid()
        self._uses: dict[str, Use] = {}

    @property
    def idle(self) -> bool:
        """Whether no frame that drives one of the loops is on the stack of a living thread."""
        return not any(use.driven for use in self._uses.values())

    def entered(self, loop: str, use: Use) -> None:
        """A `for` begins to go over a loop."""
        self._uses[loop] = use

    def left(self, loop: str, use: Use, on_purpose: bool) -> None:
        """Finish the run where `stop()` was called; count the step that was left by `break` or `return`.

        After an exception the step is not complete, and nothing happens. Never raises: the iterator of a `for` is just
        going away, where every error would be lost.
        """
        if not on_purpose or self._loops.closed or os.getpid() != self._owner:
            return
        if loop in _STEPS:
            self._loops.count()
        self._finish_stopped(loop, use)

    def close(self) -> BaseException | None:
        """Finish what `stop()` was called in and nobody left yet; from here on no loop goes on.

        Returns what could not be raised where a loop was left.
        """
        for loop, use in self._uses.items():
            if use.loop is not None and not use.failed:
                if loop in _STEPS and not use.driven:
                    self._loops.count()
                self._finish_stopped(loop, use)
        self._loops.closed = True
        owed, self._loops.owed = self._loops.owed, None
        return owed

    def _finish_stopped(self, loop: str, use: Use) -> None:
        """Have the loop go on behind its body, to the final checkpoint and to its end."""
        if use.loop is None or not self._loops.ends_when_left(loop):
            return
        try:
            next(use.loop, None)
        except BaseException as error:
            self._loops.owed = error
            if isinstance(error, Exception):
                warn(f"the final save failed: {error}")
