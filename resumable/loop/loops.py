"""The loops of a training run: hand control to the user's code and take it back. Independent of files and formats.

Each time control is back, the step is counted and the boundary decides.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping
from types import FrameType
from typing import Any, TypeVar

from resumable.audit.names.live_names import NOTE, LiveNames
from resumable.checkpointing.position import Position
from resumable.data.forgotten_preparer import ForgottenPreparer
from resumable.loop import loop_errors
from resumable.loop.beginning import Beginning
from resumable.loop.boundary import Instant
from resumable.loop.carried.carried_variables import CarriedVariables
from resumable.loop.evaluation import Counters, evaluation
from resumable.loop.iteration.loop_iterator import LoopTurns
from resumable.loop.launch import Launch
from resumable.loop.metrics import StepMetrics, as_numbers
from resumable.loop.outermost_loop import OutermostLoop
from resumable.loop.passes.cycle import Cycle
from resumable.loop.passes.pass_cursor import PassCursor
from resumable.loop.passes.zipped_pass import ZippedPass, remaining
from resumable.loop.standing import Loaders, Standing
from resumable.utils import failpoints

T = TypeVar("T")
_END = object()


class Loops:
    """The generators that move a run from boundary to boundary; one outermost loop per run."""

    def __init__(
        self, launch: Launch, forgotten: ForgottenPreparer, names: LiveNames, carried: CarriedVariables
    ) -> None:
        failpoints.arm(launch.config.run)
        self._launch = launch
        self._boundary = launch.boundary
        self._forgotten = forgotten
        self._names = names
        self._carried = carried
        launch.checkpointer.carried, launch.checkpointer.notes[NOTE] = carried, names.notes
        self._cursor = PassCursor(launch.data)
        self._metrics = StepMetrics()
        self._standing = Standing(launch, self._cursor, self._metrics, names, carried)
        self._loop = OutermostLoop(launch)
        self._bare_calls = 0
        self.owed: BaseException | None = None  # what could not be raised where a loop was left
        self.closed = False  # whether the run is released

    # -- what is called from outside ----------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Steps completed."""
        return self._standing.step

    @property
    def epoch(self) -> int:
        """Epochs completed, which is the number of the one in progress."""
        return self._standing.epoch

    def begin_at(self, beginning: Beginning) -> None:
        """Begin a new run there. Does nothing on a resume, whose checkpoint decides, unless that is older."""
        if self._loop.used is not None:
            raise loop_errors.begins_late()
        self._standing.begin_at(beginning)

    def epochs(self, n: int) -> LoopTurns[int]:
        self._loop.refuse_second("epochs")
        turns = self._epochs(loop_errors.whole("epochs", n))
        return LoopTurns(turns, lambda begun: self._left(n, self.epoch + begun))

    def steps(self, n: int) -> LoopTurns[int]:
        self._loop.refuse_second("steps")
        turns = self._steps(loop_errors.whole("steps", n))
        return LoopTurns(turns, lambda begun: self._left(n, self.step + begun))

    def batches(self, *loaders: Iterable[object]) -> LoopTurns[tuple[int, Any]]:
        return LoopTurns(self._pass(*loaders), lambda begun: self._left_inside() if begun else self._left_of(loaders))

    def cycle(self, loader: Iterable[T], name: str | None) -> Cycle[T]:
        if self._loop.running is not None:
            raise loop_errors.cycle_inside(self._loop.running)
        return self._standing.cycles.create(loader, name)

    def carry(self, names: Collection[object], frame: FrameType) -> None:
        self._carried.add(names, frame, inside=self._loop.running is not None)

    def evaluate(self, loader: Iterable[T]) -> LoopTurns[T]:
        self.restore_early()
        self.settle()
        return evaluation(self._launch, loader, lambda: Counters(self.step, self.epoch, self.closed))

    def log(self, metrics: Mapping[str, object]) -> None:
        self.settle()
        self._metrics.log(metrics)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that a checkpoint of the newest boundary holds. Waits for devices."""
        return as_numbers(self._metrics.at_boundary)

    def stop(self) -> None:
        if self._loop.used is None:
            raise loop_errors.nothing_to_stop()
        self._boundary.stopping = True

    @property
    def resuming(self) -> bool:
        """True until the first fetch of the pass in which the run resumes.

        Passes without `epochs()` are counted by the user's own `for`, so the heads of finished ones run again, too.
        """
        pending = self._standing.pending
        return pending is not None and (pending.inside_epoch or pending.loop == "batches")

    def restore_early(self) -> None:
        """Restore the objects before the first loop. The exact instant of the checkpoint comes later."""
        self._standing.restore_early()

    # -- handing out --------------------------------------------------------------------------------------------------

    def _epochs(self, n: int) -> Generator[int]:
        self._prepare("epochs")
        with self._loop.run("epochs", n), self._names.of_epochs():
            self._begin()
            self._log_if_done(n, self.epoch)
            while self.epoch < n and not self._loop.ended(n):
                self._cursor.requested = 0
                self._metrics.begin_step()
                yield self.epoch
                self._cursor.abandon()  # a `break` does not close an iterator that the code still holds
                self.settle()
                if (pending := self._standing.pending) is not None:
                    raise loop_errors.unreached(epoch=self.epoch, passes=pending.passes, step=pending.step)
                self._standing.end_epoch()
                self._reached(epoch_ended=True, last=self.epoch >= n)
                self._names.look("epochs", step=self.step, epoch=self.epoch)

    def _steps(self, n: int) -> Generator[int]:
        self._prepare("steps")
        with self._loop.run("steps", n):
            self._begin()
            self._names.due = True
            self._log_if_done(n, self.step)
            at = self._standing
            while at.step < n and not self._loop.ended(n):
                self._begin_step()
                self._cursor.hand_out_step()
                yield at.step
                self.count()
                self._reached(last=at.step >= n)
                if self._names.due:
                    self._names.look("steps", step=self.step, epoch=self.epoch)

    def _pass(self, *loaders: Iterable[object]) -> Generator[tuple[int, Any]]:
        self.settle()
        if self._loop.running == "epochs" and not self._cursor.in_pass:
            yield from self._epoch_pass(loaders)
        elif self._loop.running is None:
            yield from self._bare_pass(loaders)
        else:
            raise loop_errors.nested_batches("another batches()" if self._cursor.in_pass else f"{self._loop.running}()")

    def _epoch_pass(self, loaders: Loaders) -> Generator[tuple[int, Any]]:
        cursor = self._cursor
        self._carried.look()
        number = cursor.request()
        if number < cursor.finished:  # before the crash
            cursor.skip(loaders, number=number, epoch=self.epoch)
            return
        mine = cursor.begin()
        try:
            self._forgotten.look_at_loaders(loaders)
            opened = self._standing.open(loaders, number)
            self._names.due = True
            while not self._boundary.stopping and (batch := self._fetch(opened)) is not _END:
                self._begin_step()
                cursor.hand_out()
                yield opened.batches - 1, batch
                cursor.refuse_left(mine)
                self.count()
                self._reached()
                if self._names.due:
                    self._names.look("batches", step=self.step, epoch=self.epoch)
            cursor.end()
        except GeneratorExit:
            cursor.leave(mine)
            raise
        finally:
            cursor.release(mine)

    def _bare_pass(self, loaders: Loaders) -> Generator[tuple[int, Any]]:
        """Make a pass without `epochs()` around it an epoch of its own; the user's own `for` counts them."""
        call, self._bare_calls = self._bare_calls, self._bare_calls + 1
        self._prepare("batches")
        with self._loop.run("batches", None):
            if self._cursor.finished and self._loop.trains:
                self._standing.end_epoch()  # the last one was left by break
            if call < self.epoch or self._boundary.stopping or self._loop.was_stopped:
                self._standing.return_to_end_of(call, loaders)
                return
            self._begin()
            self._cursor.requested = 0
            yield from self._epoch_pass(loaders)
            self._standing.end_epoch()
            self._reached(epoch_ended=True, last=True)

    # -- steps and passes ---------------------------------------------------------------------------------------------

    def _fetch(self, opened: ZippedPass) -> Any:
        failpoints.reach("fetch", self._standing.step)
        return next(opened, _END)

    def _begin_step(self) -> None:
        """Prepare to give the body control: what it logs from here on belongs to the next step."""
        if self._metrics.unseen:
            self._boundary.see(self._metrics.logged, step=self.step)
        self._metrics.begin_step()
        self._loop.trains = True

    def count(self) -> None:
        """Count the step of the body as complete, if one is open."""
        if self._cursor.count():
            self._standing.step += 1

    def settle(self) -> None:
        """Let a `break` take effect: the step counts, the pass is over. Raises what could not be raised there."""
        if self._cursor.left:
            self.count()
            self._cursor.end()
        if self.owed is not None:
            owed, self.owed = self.owed, None
            raise owed

    def ends_when_left(self, loop: str) -> bool:
        """Return whether leaving this loop is the end of the run, because `stop()` was called in it."""
        return self._loop.ends_when_left(loop)

    @property
    def outermost(self) -> str | None:
        """The outermost loop, while it runs."""
        return self._loop.running

    @property
    def trained(self) -> int | None:
        """The steps completed in the whole run; None where this attempt trained none."""
        return self.step if self._loop.trains else None

    # -- what is left -------------------------------------------------------------------------------------------------

    def _left(self, n: int, stands_at: int) -> int:
        return 0 if self._loop.ended(n) else max(n - stands_at, 0)

    def _left_inside(self) -> int | None:
        return 0 if self._boundary.stopping else self._cursor.remaining

    def _left_of(self, loaders: Loaders) -> int | None:
        """Return what is left of a pass that is not begun, which may be the one that a resume goes on in."""
        if self._boundary.stopping or self._is_next_over():
            return 0
        pending = self._standing.pending
        resume = pending.loaders if pending is not None else []
        return remaining(loaders, resume[0]["batches"] if resume else 0)

    def _is_next_over(self) -> bool:
        """Return whether the pass that would begin next was finished before."""
        if self._loop.running is not None:
            return self._cursor.requested < self._cursor.finished
        return self._bare_calls < self.epoch or self._loop.was_stopped

    # -- the boundary -------------------------------------------------------------------------------------------------

    def _reached(self, *, epoch_ended: bool = False, last: bool = False) -> None:
        self._launch.evaluations.clear()
        self._metrics.reached()
        self._forgotten.look()
        self._carried.reached()
        self._boundary.reached(self._instant(epoch_ended=epoch_ended, last=last))
        self._launch.look(epoch_ended=epoch_ended)
        at = self._standing
        self._loop.show(self._cursor, step=at.step, epoch=at.epoch, epoch_ended=epoch_ended)

    def _instant(self, *, epoch_ended: bool = False, last: bool = False) -> Instant:
        return self._launch.instant(
            self._position,
            lambda: self._metrics.logged,
            step=self._standing.step,
            epoch=self._standing.epoch,
            inside_epoch=self._cursor.in_pass,
            exhausted=self._cursor.exhausted,
            epoch_ended=epoch_ended,
            last=last,
        )

    def _position(self) -> Position:
        return Position(
            loop=self._loop.running or "",
            step=self.step,
            epoch=self.epoch,
            total=self._loop.total,
            inside_epoch=self._cursor.in_pass,
            passes=self._cursor.finished,
            loaders=self._cursor.positions(),
            cycles=self._standing.cycles.positions(),
            stopped=self._boundary.stopping,
        )

    # -- the start ----------------------------------------------------------------------------------------------------

    def _prepare(self, loop: str) -> None:
        """Claim an attempt for a loop, once nothing refuses it."""
        self._refuse(loop)
        if self._standing.begin_attempt():
            self._refuse(loop)

    def _refuse(self, loop: str) -> None:
        self._loop.refuse(loop)
        self._carried.begin()
        self._standing.refuse_loop(loop)

    def _begin(self) -> None:
        """Start the outermost loop: restore what there is, or save the very beginning."""
        if not self._launch.begun:
            self._metrics.reached()
        self._launch.begin(self._instant)
        self._boundary.leave_if_requested()
        self._standing.resume()

    def _log_if_done(self, n: int, stands_at: int) -> None:
        if stands_at >= n or self._loop.ended(n):
            self._launch.report_done(f"nothing left of {self._loop.running}({n})", step=self.step, epoch=self.epoch)
