"""The one outermost loop of a run: which it is, and what begins and ends around it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from resumable.loop import loop_errors
from resumable.loop.launch import Launch
from resumable.loop.passes.pass_cursor import PassCursor
from resumable.loop.process.progress_bar import Shown


class OutermostLoop:
    """Refuse a second loop for the run, except passes without `epochs()`, which follow each other."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self.running: str | None = None
        self.used: str | None = None  # the one that this run is made of
        self.total: int | None = None  # the turns that were requested
        self.trains = False  # whether this attempt has handed out a step

    def refuse(self, loop: str) -> None:
        """Raise `LoopError` for a loop that may not begin now, or that is not the one of the checkpoint."""
        self.refuse_second(loop)
        pending = self._launch.progress.pending
        if pending is not None and pending.loop != loop:
            raise loop_errors.other_loop(loop, before=pending.loop)

    def refuse_second(self, loop: str) -> None:
        """Raise `LoopError` where `loop` is nested in another one, or follows one."""
        if self.running is not None:
            raise loop_errors.nested(loop, running=self.running)
        if self.used is not None and (loop, self.used) != ("batches", "batches"):
            raise loop_errors.second(loop, after=self.used)

    def show(self, cursor: PassCursor, *, step: int, epoch: int, epoch_ended: bool) -> None:
        """Show a boundary in the progress bar; `epoch` is the number of completed epochs."""
        bar = self._launch.bar
        if bar.running:
            bar.update(
                Shown(
                    step=step,
                    total_steps=self._total_steps(cursor, step=step, epoch=epoch),
                    epoch=None if self.running == "steps" else epoch + (not epoch_ended),
                    epochs=self.total if self.running == "epochs" else None,
                    saved_seconds=time.monotonic() - self._launch.checkpointer.status.saved_at_seconds,
                )
            )

    def _total_steps(self, cursor: PassCursor, *, step: int, epoch: int) -> int | None:
        if self.running == "steps" or self.total is None:
            return self.total
        return cursor.total_steps(step=step, epochs=self.total - epoch)

    def ended(self, n: int) -> bool:
        """Return whether `stop()` ended the loops, here or in the attempt that finished a run of at least `n` turns."""
        start = self._launch.progress.start
        finished_before = start.finished and not self.trains and n <= (start.total or 0)
        # A resume inside the epoch of the `stop()` finishes that epoch first.
        stopped_here = self._launch.boundary.stopping and self._launch.progress.pending is None
        return stopped_here or finished_before

    @property
    def was_stopped(self) -> bool:
        """True if an earlier attempt finished the run by `stop()`, and this one has trained nothing."""
        start = self._launch.progress.start
        return start.stopped and start.finished and not self.trains

    def ends_when_left(self, loop: str) -> bool:
        """Return whether leaving this loop is the end of the run, because `stop()` was called in it."""
        return loop == self.running and self._launch.boundary.stopping and self._launch.progress.pending is None

    @contextmanager
    def run(self, loop: str, total: int | None) -> Iterator[None]:
        """Watch signals and draw the progress bar around `loop`; at its end what is in flight becomes durable."""
        self.running, self.used, self.total = loop, loop, total
        self._launch.preemption.install()
        self._launch.bar.start()
        try:
            yield
            self._launch.checkpointer.drain()
            self._launch.bar.stop(complete=True)
        except BaseException:
            self._launch.checkpointer.wait()  # durable while the program can still do all that this needs
            if loop != "batches":  # a break there is not the end: the next pass follows, and cycles go on
                self._launch.data.close()
            raise
        finally:
            self.running = None
            self._launch.bar.stop(complete=False)
            if loop != "batches":  # between bare passes signals are still the run's, until the trainer is closed
                self._launch.preemption.uninstall()
