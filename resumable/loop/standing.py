"""Where a run stands: its counters, the start of an attempt, and the return to the instant of a checkpoint.

Objects are restored when the outermost loop starts, and everything once more right before the first fetch, so that code
which ran again in between leaves no trace. Independent of files and formats.
"""

from __future__ import annotations

from collections.abc import Iterable

from resumable.audit.names.live_names import LiveNames
from resumable.checkpointing.position import Position
from resumable.errors import ChangedDataError
from resumable.loop import loop_errors
from resumable.loop.beginning import Beginning
from resumable.loop.carried.carried_variables import CarriedVariables
from resumable.loop.launch import Launch
from resumable.loop.metrics import StepMetrics
from resumable.loop.passes.cycle import Cycles
from resumable.loop.passes.pass_cursor import PassCursor
from resumable.loop.passes.zipped_pass import ZippedPass
from resumable.loop.restore_progress import RestoreState

Loaders = tuple[Iterable[object], ...]


class Standing:
    """The completed steps and epochs of a run, and what stands at a checkpoint together with them.

    `epoch` is the number of the one in progress. `cycles` open no pass before the objects are restored.
    """

    def __init__(
        self, launch: Launch, cursor: PassCursor, metrics: StepMetrics, names: LiveNames, carried: CarriedVariables
    ) -> None:
        self._launch = launch
        self._progress = launch.progress
        self._cursor = cursor
        self._metrics = metrics
        self._names = names
        self._carried = carried
        self.cycles = Cycles(launch.data, self._progress.start.cycles, begin=self.restore_early)
        self._beginning: Beginning | None = None  # of a new run that takes a training over
        self.step: int
        self.epoch: int
        self._stand_at(self._progress.start)

    @property
    def pending(self) -> Position | None:
        """The position of the checkpoint until the run stands at its instant, then None."""
        return self._progress.pending

    def end_epoch(self) -> None:
        """Count the epoch in progress as complete."""
        self.epoch, self._cursor.finished = self.epoch + 1, 0

    # -- the start of an attempt --------------------------------------------------------------------------------------

    def begin_at(self, beginning: Beginning) -> None:
        """Begin a new run there. Does nothing on a resume, whose checkpoint decides, unless that is older."""
        resumed = self._launch.checkpointer.resumed
        if resumed is not None:
            beginning.refuse_older(step=resumed.step, epoch=resumed.epoch)
            return
        self._beginning = beginning
        for part in (self._progress, self._launch.boundary):
            part.begin_at(step=beginning.step, epoch=beginning.epoch or 0)
        self._stand_at(self._progress.start)

    def refuse_loop(self, loop: str) -> None:
        """Raise `LoopError` for a loop whose turns `begin_at` did not count."""
        if self._beginning is not None:
            self._beginning.refuse_loop(loop)

    def begin_attempt(self) -> bool:
        """Claim an attempt, once. Returns whether the run has moved on since the counters were read from it."""
        has_moved = self._launch.begin_attempt()
        if has_moved:
            self._stand_at(self._progress.start)
            self.cycles.resume_from(self._progress.start.cycles)
            if self._beginning is not None:
                self._beginning.refuse_older(step=self.step, epoch=self.epoch)
        return has_moved

    # -- the instant of the checkpoint --------------------------------------------------------------------------------

    def restore_early(self) -> None:
        """Restore the objects before the first loop. The exact instant of the checkpoint comes later."""
        if self._progress.state is RestoreState.FRESH:
            self.begin_attempt()
            self._restore_everything()

    def resume(self) -> None:
        """Restore what there is, as the outermost loop begins. Inside an epoch the exact instant comes later."""
        pending = self.pending
        if pending is not None:
            self._restore_everything()
            if not pending.inside_epoch:
                self._reached()

    def return_to_end_of(self, epoch: int, loaders: Loaders) -> None:
        """Stand at the end of a bare pass where the run resumes there: the code behind that pass runs again."""
        self.restore_early()
        pending = self.pending
        # One that is not finished was taken at the beginning of the pass that follows, behind that code.
        if epoch == self.epoch - 1 and pending is not None and pending.finished and not pending.inside_epoch:
            self._restore_everything()
            self._cursor.skip(loaders, number=0, epoch=epoch)  # that code may write to the samplers
            self._reached()

    def open(self, loaders: Loaders, number: int) -> ZippedPass:
        """Open a pass of this epoch, from its start or where the checkpoint is in it."""
        pending = self.pending
        if pending is None:
            return self._cursor.open(loaders, [], number=number, epoch=self.epoch)
        self._restore_everything()  # before loader workers fork: their copies of the dataset are restored ones
        try:
            opened = self._cursor.open(loaders, pending.loaders, number=number, epoch=self.epoch)
        except ChangedDataError as error:
            raise loop_errors.head_ran_again(error) from error
        if opened.replayed:
            self._restore_objects()  # what was replayed may have drawn from, or changed, what was restored
        self._reached()
        return opened

    def _restore_everything(self) -> None:
        """Stand in exactly the checkpoint's instant; repeated whenever user code ran since."""
        self._restore_objects()
        self._launch.data.load(self._progress.start.samplers)
        self.cycles.rewind()

    def _restore_objects(self) -> None:
        """Restore all but the data: passes that are open stand where they should."""
        start = self._progress.start
        self._launch.checkpointer.restore()
        self._progress.restored()
        self._launch.boundary.forget(stopping=start.stopped and not start.finished)
        self._stand_at(start)

    def _reached(self) -> None:
        """Note that the run stands at the instant of the checkpoint: from here on it trains."""
        self._carried.stand(inside_epoch=self._progress.start.inside_epoch)
        self._progress.reached()
        self._names.compare()

    def _stand_at(self, position: Position) -> None:
        self.step, self.epoch, self._cursor.finished = position.step, position.epoch, position.passes
        self._metrics.stand_at(position.metrics)
        self._launch.evaluations.clear()
