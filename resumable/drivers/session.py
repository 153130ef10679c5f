"""Drive one call of a framework's loop under exact resume: restore at the first fetch, reach the boundaries, end.

The boundary is inside the fetch of a batch: the only instant after the hooks, a due evaluation and the schedulers of
the step before. Independent of any framework.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from resumable.checkpointing.position import Position
from resumable.drivers.limits import Limits, is_raised
from resumable.drivers.loaders import TrainLoader
from resumable.drivers.patches import Patches
from resumable.drivers.state import BESIDE, MODEL, SavedState
from resumable.loop.boundary import Instant
from resumable.loop.launch import Launch
from resumable.loop.metrics import LoggedValue
from resumable.utils import failpoints
from resumable.utils.location import absolute_location

LOOP = "fit"


class DriverSession(ABC):
    """One call of a framework's loop. Creating it claims an attempt at the run, and restores nothing yet.

    A subclass finds counters, metrics and loaders in its framework, and calls `_reach_boundary` before the first batch
    of each step is fetched.
    """

    NAME: ClassVar[str]
    """The name of the trainer's state among the objects."""
    NOTHING_LEFT: ClassVar[str]
    """The note of a run that was finished before."""
    KEEP: ClassVar[str]
    """The hint of the warning for steps that are in no checkpoint."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        try:
            launch.begin_attempt()
        except BaseException:
            launch.close(trained=None, keep=self.KEEP)
            raise
        self._patches = Patches()
        self._start = launch.progress.start
        self._resumes = launch.progress.pending is not None
        self._place = (-1, self._start.epoch)  # (step, epoch) of the last boundary

    # -- what a framework has -----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def step(self) -> int:
        """The number of completed steps."""

    @property
    @abstractmethod
    def epoch(self) -> int:
        """The number of completed epochs, which is the index of the one in progress."""

    @property
    @abstractmethod
    def trained(self) -> int:
        """The number of steps whose hooks have run, too."""

    @abstractmethod
    def _train_loaders(self) -> Sequence[TrainLoader]:
        """Return the stand-ins for the loaders of the training."""

    @abstractmethod
    def _limits(self) -> Limits:
        """Return how much the trainer is set to train."""

    @abstractmethod
    def _position(self, *, last: bool) -> Position:
        """Return the position of the training; `last` says that it is over."""

    @abstractmethod
    def _logged(self) -> Mapping[str, LoggedValue]:
        """Return the metrics that were logged since the last boundary."""

    @abstractmethod
    def _mark_logged(self) -> None:
        """Note that a boundary has seen what was logged."""

    @abstractmethod
    def _close_evaluation(self) -> None:
        """Close the passes of the evaluation."""

    def _refresh_objects(self) -> None:  # noqa: B027  # most frameworks keep their objects
        """Pass the current objects to the checkpointer, where a hook may have replaced them."""

    def _before_resume(self, pending: Position) -> None:  # noqa: B027
        """Prepare the framework right before everything is restored at the first fetch."""

    def _after_resume(self) -> None:  # noqa: B027
        """Have the framework's loop continue at the instant that was restored."""

    def _absent(self) -> Collection[str]:
        """Return the names of objects that the framework has not built yet."""
        return ()

    def _release(self) -> None:  # noqa: B027
        """Release what the session holds besides its launch and patches."""

    # -- the boundary -------------------------------------------------------------------------------------------------

    def _reach_boundary(self) -> None:
        """Reach the boundary of now. The first one of a launch begins a new run, or resumes."""
        if self._launch.begun:
            self._refresh_objects()
            instant = self._instant()
            self._launch.boundary.reached(instant)
            self._launch.look(epoch_ended=instant.epoch_ended, has_frames=False)
        else:
            self._begin()
        self._place = self.step, self.epoch
        self._mark_logged()
        self._launch.evaluations.clear()
        self._close_evaluation()

    def _reach_evaluation(self) -> None:
        """Leave before a batch of an evaluation is fetched, if a signal came: that is no boundary."""
        failpoints.reach("evaluate", self.step)
        self._launch.boundary.leave_if_requested()

    def _instant(self, *, last: bool = False) -> Instant:
        return self._launch.instant(
            lambda: self._position(last=last),
            self._logged,
            step=self.step,
            epoch=self.epoch,
            inside_epoch=not last,
            epoch_ended=self.epoch != self._place[1],
            last=last,
        )

    # -- restoring ----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        pending = self._launch.progress.pending
        if pending is None:
            self._refresh_objects()
        self._launch.begin(self._instant)
        if pending is None:
            return
        self._before_resume(pending)
        self._restore()
        for loader in self._train_loaders():
            loader.open()
        if any(loader.replayed for loader in self._train_loaders()):
            self._restore_objects()  # what was replayed may have drawn from, or changed, what was restored
        self._after_resume()
        self._launch.progress.reached()

    def _restore(self) -> None:
        """Restore everything, bit by bit. Repeated whenever other code ran since."""
        self._restore_objects()
        self._launch.data.load(self._start.samplers)

    def _restore_objects(self) -> None:
        """Restore all but the data: passes that are open stand where they should."""
        self._launch.checkpointer.restore(without=self._absent())
        self._launch.progress.restored()
        self._launch.boundary.forget(stopping=False)

    @cached_property
    def _beside(self) -> SavedState:
        """The part of the trainer's saved state that is not compared: limits, and positions in files."""
        resumed = self._launch.checkpointer.resumed
        assert resumed is not None
        beside: SavedState = resumed.tree(self.NAME)[BESIDE]
        return beside

    @property
    def _is_copy(self) -> bool:
        """True if the run is a copy of the one that wrote the checkpoint: the files beside it are the original's."""
        return absolute_location(self._beside["run"]) != absolute_location(self._launch.config.run)

    @property
    def _is_extended(self) -> bool:
        """True if a run that had finished is to train more than before."""
        return self._start.finished and is_raised(self._limits(), self._beside["limits"])

    # -- the end ------------------------------------------------------------------------------------------------------

    def set_golden_input(self, golden: Any) -> None:
        """Store this input of the model, and the output for it, in every checkpoint."""
        self._launch.checkpointer.set_golden_input(golden, model=MODEL)

    def _return_to_end(self) -> None:
        """Restore a run that was finished before to where it ended."""
        self._restore()
        self._launch.report_done(self.NOTHING_LEFT, step=self._start.step, epoch=self._start.epoch)

    def finish_save(self) -> None:
        """Wait until the save in flight is durable, and release the run."""
        try:
            self._launch.checkpointer.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Release the run, the loader workers and the signals. Safe to call twice; no-op in a forked child."""
        if not self._launch.is_owner:
            return
        self._patches.undo()
        self._release()
        self._launch.close(trained=self.trained if self._launch.begun else None, keep=self.KEEP)
