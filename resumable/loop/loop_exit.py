"""Handle the exit from a loop: count its step, and finish the run after `stop()`. Independent of checkpoints.

A generator cannot tell a `break` from an exception when it is closed. The frame that drove it can (`frame_inspection`):
at that instant control is between the step and the code behind the loop, so what is saved there is exact.
"""

from __future__ import annotations

import os

from resumable.loop.iteration.loop_iterator import Iteration
from resumable.loop.launch import Launch
from resumable.loop.loops import Loops
from resumable.utils.events import warn

_STEPS = ("steps", "batches")  # loops whose turns are steps
_ON_PURPOSE = "call trainer.stop() before a break or a return"
_AFTER_AN_ERROR = "save more often (every.steps, every.minutes)"


class LoopExit:
    """Keep the newest iteration over each loop, and end what was left."""

    def __init__(self, launch: Launch, loops: Loops) -> None:
        self._launch = launch
        self._loops = loops
        self._failed = False  # whether an exception left the outermost loop
        self._owner = os.getpid()
        self._iterations: dict[str, Iteration] = {}

    @property
    def idle(self) -> bool:
        """True while no frame that drives one of the loops is on the stack of a living thread."""
        return not any(iteration.driven for iteration in self._iterations.values())

    @property
    def keep(self) -> str:
        """The hint of the warning for steps that are in no checkpoint; it depends on how the loop was left."""
        return _AFTER_AN_ERROR if self._failed else _ON_PURPOSE

    def entered(self, loop: str, iteration: Iteration) -> None:
        """Note that a `for` begins to iterate over a loop."""
        self._iterations[loop] = iteration
        self._failed = False

    def left(self, loop: str, iteration: Iteration, on_purpose: bool) -> None:
        """Count the step that was left by `break` or `return`; finish the run if `stop()` was called.

        After an exception the step is not complete, and nothing is saved. Never raises: the iterator of a `for` is
        about to be destroyed, where every error would be lost.
        """
        if self._loops.closed or os.getpid() != self._owner:
            return
        if not on_purpose:
            self._fail(loop)
            return
        if loop in _STEPS:
            self._loops.count()
        self._finish_stopped(loop, iteration)

    def close(self) -> BaseException | None:
        """Finish the loops in which `stop()` was called and that were not left yet; afterwards no loop goes on.

        Returns what could not be raised where a loop was left.
        """
        for loop, iteration in self._iterations.items():
            if iteration.loop is not None and not iteration.failed:
                if loop in _STEPS and not iteration.driven:
                    self._loops.count()
                self._finish_stopped(loop, iteration)
        self._loops.closed = True
        owed, self._loops.owed = self._loops.owed, None
        return owed

    def _fail(self, loop: str) -> None:
        """Warn of steps in no checkpoint as soon as the run cannot go on: a notebook closes it hours later, if ever."""
        if loop != self._loops.outermost:
            return
        self._failed = True
        if loop != "batches":  # another pass may follow
            self._launch.checkpointer.wait()
            self._launch.warn_unsaved(trained=self._loops.trained, keep=self.keep)

    def _finish_stopped(self, loop: str, iteration: Iteration) -> None:
        """Resume the loop behind its body, to the final checkpoint and to its end."""
        if iteration.loop is None or not self._loops.ends_when_left(loop):
            return
        try:
            next(iteration.loop, None)
        except BaseException as error:
            self._loops.owed = error
            if isinstance(error, Exception):
                warn(f"the final save failed: {error}")
