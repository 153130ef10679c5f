"""The loops of a training run: where control is handed to the user's code and comes back; knows no file, no format.

Each time control is back the step is counted and the boundary is asked. Restoring puts the program into exactly the
instant of a boundary: the objects when the outermost loop starts, and everything once more right before the first
fetch, so that code which ran again in between leaves no trace.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.data.accelerate import AccumulationCheck
from resumable.data.addresses import PassAddress
from resumable.data.open_passes import Data
from resumable.loop import loop_errors
from resumable.loop.boundary import Boundary, Instant
from resumable.loop.cycle import Cycle
from resumable.loop.metrics import as_numbers, copied
from resumable.loop.preemption import Preemption
from resumable.loop.progress_bar import TrainingBar
from resumable.loop.turns import Loop
from resumable.loop.zipped_pass import ZippedPass, pass_over, remaining
from resumable.state.objects import global_rng
from resumable.utils import failpoints
from resumable.utils.events import emit

_END = object()


@dataclass
class _Given:
    """How many batches of an evaluation were handed out."""

    batches: int = 0


class Loops:
    """The counters of a run and the generators that move them; one outermost loop per run."""

    def __init__(
        self,
        checkpointer: Checkpointer,
        boundary: Boundary,
        data: Data,
        preemption: Preemption,
        bar: TrainingBar,
        accumulation: AccumulationCheck,
    ) -> None:
        failpoints.arm(checkpointer.config.run)
        self._checkpointer = checkpointer
        self._boundary = boundary
        self._data = data
        self._preemption = preemption
        self._bar = bar
        self._accumulation = accumulation
        self._start = checkpointer.position()
        self._pending: Position | None = self._start if checkpointer.resumed else None  # until its instant is reached
        self._restored = checkpointer.resumed is None
        self._loop: str | None = None  # the outermost loop that is running
        self._used: str | None = None  # the one that this run is made of
        self._total: int | None = None
        self._begun = False  # whether a loop of this attempt has begun
        self._turned = False  # whether it has trained a step
        self._entered = 0  # passes that this epoch's code has asked for
        self._bare_calls = 0
        self._current: ZippedPass | None = None
        self._inside_pass = False
        self._left_pass = False
        self._turn_of: object = None  # the pass that control is handed out by; what a loop left and kept is not it
        self._cycles: dict[str, Cycle] = {}
        self._in_body = False  # whether a body has control, or had it last, whose step is not counted yet
        self.owed: BaseException | None = None  # what could not be raised where a loop was left
        self.closed = False  # whether the run is let go of
        self.step: int
        self.epoch: int  # epochs completed, which is the number of the one in progress
        self._passes: int  # finished passes of the epoch in progress
        self._evaluations: int  # since the last boundary
        self._logged: dict[str, Any]  # since this step began
        self._unseen: bool  # whether something was logged since the last boundary
        self._stand_at(self._start)

    # -- what is called from outside ----------------------------------------------------------------------------------

    def epochs(self, n: int) -> Loop[int]:
        self._refuse_second_loop("epochs")
        turns = self._epochs(loop_errors.whole("epochs", n))
        return Loop(turns, lambda begun: self._left(n, self.epoch + begun))

    def steps(self, n: int) -> Loop[int]:
        self._refuse_second_loop("steps")
        turns = self._steps(loop_errors.whole("steps", n))
        return Loop(turns, lambda begun: self._left(n, self.step + begun))

    def batches(self, *loaders: Any) -> Loop[tuple[int, Any]]:
        return Loop(self._pass(*loaders), lambda begun: self._left_inside() if begun else self._left_of(loaders))

    def cycle(self, loader: Any, name: str | None) -> Cycle:
        if self._loop is not None:
            raise loop_errors.cycle_inside(self._loop)
        chosen = name or f"cycle{len(self._cycles)}"
        if chosen in self._cycles:
            raise loop_errors.cycle_twice(chosen)
        cycle = Cycle(self._data, loader, chosen, begin=self.restore_early)
        cycle.rewind(self._start.cycles.get(chosen))
        self._cycles[chosen] = cycle
        return cycle

    def evaluate(self, loader: Any) -> Loop[Any]:
        self.restore_early()
        self.settle()
        given = _Given()
        return Loop(self._evaluate(loader, given), lambda _: remaining([loader], given.batches))

    def log(self, metrics: dict[str, Any]) -> None:
        self.settle()
        self._unseen = True
        for name, value in metrics.items():
            self._logged[name] = copied(name, value)

    def stop(self) -> None:
        if self._used is None:
            raise loop_errors.nothing_to_stop()
        self._boundary.stopping = True

    def restore_early(self) -> None:
        """Before the first loop: the objects as the checkpoint has them. Its exact instant comes later."""
        if not self._restored:
            self._restore_everything()

    # -- turning ------------------------------------------------------------------------------------------------------

    def _epochs(self, n: int) -> Generator[int]:
        with self._outermost("epochs", n):
            self._begin()
            self._tell_if_done(n, self.epoch)
            while self.epoch < n and not self._ended(n):
                self._entered, self._logged = 0, {}
                yield self.epoch
                self._leave_kept_pass()
                self.settle()
                if self._pending is not None:
                    raise loop_errors.unreached(epoch=self.epoch, passes=self._pending.passes, step=self._pending.step)
                self.epoch, self._passes = self.epoch + 1, 0
                self._reached(epoch_ended=True, last=self.epoch >= n)

    def _steps(self, n: int) -> Generator[int]:
        with self._outermost("steps", n):
            self._begin()
            self._tell_if_done(n, self.step)
            while self.step < n and not self._ended(n):
                self._turn()
                yield self.step
                self.count()
                self._reached(last=self.step >= n)

    def _pass(self, *loaders: Any) -> Generator[tuple[int, Any]]:
        self.settle()
        if self._loop == "epochs" and not self._inside_pass:
            yield from self._epoch_pass(loaders)
        elif self._loop is None:
            yield from self._bare_pass(loaders)
        else:
            raise loop_errors.nested_batches("another batches()" if self._inside_pass else f"{self._loop}()")

    def _epoch_pass(self, loaders: tuple[Any, ...]) -> Generator[tuple[int, Any]]:
        number, self._entered = self._entered, self._entered + 1
        if number < self._passes:  # finished before the crash
            pass_over(self._data, loaders, number=number, epoch=self.epoch)
            return
        self._inside_pass, self._left_pass = True, False
        turn_of = self._turn_of = object()
        try:
            opened = self._open(loaders, number)
            while not self._boundary.stopping and (batch := self._fetch(opened)) is not _END:
                self._turn()
                yield opened.batches - 1, batch
                if self._turn_of is not turn_of:
                    raise loop_errors.left_iterator()
                self.count()
                self._reached()
            self._end_pass()
        except GeneratorExit:
            if self._turn_of is turn_of:
                self._left_pass = True  # by break, return or an exception: told apart by whether control comes back
            raise
        finally:
            if self._turn_of is turn_of:
                self._inside_pass = self._left_pass
                self._close_pass()

    def _bare_pass(self, loaders: tuple[Any, ...]) -> Generator[tuple[int, Any]]:
        """A pass without `epochs()` around it is an epoch of its own; the user's own `for` counts them."""
        call, self._bare_calls = self._bare_calls, self._bare_calls + 1
        with self._outermost("batches", None):
            if self._passes and self._turned:
                self.epoch, self._passes = self.epoch + 1, 0  # the last one was left by break
            if call < self.epoch or self._boundary.stopping or self._was_stopped():
                self._return_to_end_of(call, loaders)
                return
            if call == 0 or self._pending is None:
                self._begin()
            self._entered = 0
            yield from self._epoch_pass(loaders)
            self.epoch, self._passes = self.epoch + 1, 0
            self._reached(epoch_ended=True, last=True)

    def _return_to_end_of(self, call: int, loaders: tuple[Any, ...]) -> None:
        # The boundary after a bare pass lies before the user's code between two passes, which runs again.
        self.restore_early()
        if call == self.epoch - 1 and self._pending is not None and not self._pending.inside_epoch:
            self._restore_everything()
            pass_over(self._data, loaders, number=0, epoch=call)  # that code may write to the samplers
            self._pending = None

    def _evaluate(self, loader: Any, given: _Given) -> Generator[Any]:
        address = PassAddress(loop="evaluate", number=self._evaluations, epoch=self.step)
        self._evaluations += 1
        before, here = global_rng.capture(), (self.step, self.epoch)
        watched = self._preemption.active
        self._preemption.install()
        try:
            with closing(self._data.open(loader, address, None, set_epoch=self.epoch)) as batches:
                for batch in batches:
                    failpoints.reach("evaluate", self.step)
                    self._boundary.leave_if_asked()
                    given.batches += 1
                    yield batch
        finally:
            if not watched:
                self._preemption.uninstall()
            # An iterator that was kept and dropped later undoes nothing.
            if here == (self.step, self.epoch) and not self.closed:
                global_rng.restore(before)

    @contextmanager
    def _outermost(self, loop: str, total: int | None) -> Iterator[None]:
        self._refuse_second_loop(loop)
        if self._pending is not None and self._pending.loop != loop:
            raise loop_errors.other_loop(loop, before=self._pending.loop)
        self._loop, self._used, self._total = loop, loop, total
        self._preemption.install()
        self._bar.start()
        try:
            yield
            self._checkpointer.drain()
        except BaseException:
            self._checkpointer.wait()  # what is in flight becomes durable while the program can still do all it needs
            if loop != "batches":  # a break there is not the end: the next pass follows, and cycles go on
                self._data.close()
            raise
        finally:
            self._loop = None
            self._bar.stop()
            if loop != "batches":  # between bare passes signals are still the run's, until the trainer is closed
                self._preemption.uninstall()

    # -- one pass -----------------------------------------------------------------------------------------------------

    def _open(self, loaders: tuple[Any, ...], number: int) -> ZippedPass:
        pending = self._pending
        if pending is not None:
            self._restore_everything()  # before loader workers fork: their copies of the dataset are restored ones
        resume = pending.loaders if pending is not None else []
        opened = self._current = ZippedPass(self._data, loaders, resume, number=number, epoch=self.epoch)
        if pending is not None:
            if opened.replayed:
                self._restore_objects()  # what was replayed may have drawn from, or changed, what was restored
            self._pending = None
        return opened

    def _fetch(self, opened: ZippedPass) -> Any:
        failpoints.reach("fetch", self.step)
        return next(opened, _END)

    def _turn(self) -> None:
        """Hand control to the body: what it logs and steps from here on belongs to the next step."""
        if self._unseen:
            self._boundary.see(self._logged, step=self.step)
        self._turned, self._in_body, self._logged, self._unseen = True, True, {}, False

    def count(self) -> None:
        """The step of the body is complete."""
        if self._in_body:
            self._in_body, self.step = False, self.step + 1

    def settle(self) -> None:
        """Let a `break` take effect: the step counts, the pass is over. Raises what could not be raised there."""
        if self._left_pass:
            self.count()
            self._end_pass()
        if self.owed is not None:
            owed, self.owed = self.owed, None
            raise owed

    def ends_when_left(self, loop: str) -> bool:
        """Whether leaving this loop is the end of the run, because `stop()` was called in it."""
        return loop == self._loop and self._boundary.stopping and self._pending is None

    @property
    def trained(self) -> int | None:
        """The steps completed in the whole run; None where this attempt trained none, or said what became of them."""
        return self.step if self._turned and not self._boundary.preempted else None

    def _end_pass(self) -> None:
        self._passes += 1
        self._inside_pass = self._left_pass = False

    def _leave_kept_pass(self) -> None:
        # A `break` does not close an iterator that the code still holds, but control is back all the same.
        if self._inside_pass and not self._left_pass:
            self._left_pass, self._turn_of = True, None
            self._close_pass()

    def _close_pass(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None

    # -- what is left, for who asks -----------------------------------------------------------------------------------

    def _left(self, n: int, stands_at: int) -> int:
        return 0 if self._ended(n) else max(n - stands_at, 0)

    def _left_inside(self) -> int | None:
        return 0 if self._boundary.stopping or self._current is None else self._current.left

    def _left_of(self, loaders: tuple[Any, ...]) -> int | None:
        """Of a pass that is not begun, which may be the one that a resume goes on in."""
        if self._boundary.stopping or self._is_next_over():
            return 0
        resume = self._pending.loaders if self._pending is not None else []
        return remaining(loaders, resume[0]["batches"] if resume else 0)

    def _is_next_over(self) -> bool:
        """Whether the pass that would begin next was finished before."""
        if self._loop is not None:
            return self._entered < self._passes
        return self._bare_calls < self.epoch or self._was_stopped()

    # -- the boundary -------------------------------------------------------------------------------------------------

    def _reached(self, *, epoch_ended: bool = False, last: bool = False) -> None:
        self._evaluations, self._unseen = 0, False
        self._accumulation.look()
        self._boundary.reached(self._instant(epoch_ended=epoch_ended, last=last))
        if self._bar.running:
            self._bar.update(
                step=self.step,
                epoch=self.epoch,
                total_steps=self._total_steps(),
                saved_seconds=time.monotonic() - self._checkpointer.status.saved_at_seconds,
            )

    def _instant(self, *, epoch_ended: bool = False, last: bool = False) -> Instant:
        return Instant(
            step=self.step,
            epoch=self.epoch,
            inside_epoch=self._inside_pass,
            logged=lambda: self._logged,
            position=self._position,
            pass_over=self._current is not None and self._current.batches == self._current.length,
            epoch_ended=epoch_ended,
            last=last,
        )

    def _position(self, finished: bool) -> Position:
        return Position(
            loop=self._loop or "",
            step=self.step,
            epoch=self.epoch,
            total=self._total,
            inside_epoch=self._inside_pass,
            passes=self._passes,
            loaders=self._current.positions() if self._current is not None else [],
            samplers=self._data.state(),
            cycles=self._start.cycles | {name: cycle.position() for name, cycle in self._cycles.items()},
            metrics=as_numbers(self._logged),
            finished=finished,
            stopped=self._boundary.stopping,
        )

    def _total_steps(self) -> int | None:
        if self._loop == "steps":
            return self._total
        if self._current is None or self._current.length is None or self._total is None:
            return None
        return self.step - self._current.batches + self._current.length * (self._total - self.epoch)

    # -- restoring ----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The start of the outermost loop: restore what there is, or save the very beginning."""
        if self._pending is None:
            if self._checkpointer.resumed is None and not self._begun:
                self._evaluations = 0  # as after a resume from here
                self._boundary.save_start(self._instant())
            self._begun = True
            return
        self._begun = True
        self._restore_everything()
        if not self._pending.inside_epoch:
            self._pending = None

    def _restore_everything(self) -> None:
        """Stand in exactly the checkpoint's instant; called again whenever user code ran since."""
        self._restore_objects()
        self._data.load(self._start.samplers)
        for name, cycle in self._cycles.items():
            cycle.rewind(self._start.cycles.get(name))

    def _restore_objects(self) -> None:
        """All but the data: passes that are open stand where they are to."""
        self._checkpointer.restore()
        self._restored = True
        self._boundary.forget(stopping=self._start.stopped and not self._start.finished)
        self._stand_at(self._start)

    def _stand_at(self, position: Position) -> None:
        self.step, self.epoch, self._passes = position.step, position.epoch, position.passes
        self._logged, self._unseen = dict(position.metrics), False
        self._evaluations = 0
        self._in_body = False

    def _ended(self, n: int) -> bool:
        """Whether `stop()` ended the loops, in this attempt or in the one that finished a run of at least this `n`."""
        finished_before = self._start.finished and not self._turned and n <= (self._start.total or 0)
        stopped_here = self._boundary.stopping and self._pending is None  # or the epoch it was asked in goes on first
        return stopped_here or finished_before

    def _tell_if_done(self, n: int, stands_at: int) -> None:
        if stands_at >= n or self._ended(n):
            emit("DONE", step=self.step, epoch=self.epoch, note=f"nothing left of {self._loop}({n})")

    def _was_stopped(self) -> bool:
        return self._start.stopped and self._start.finished and not self._turned

    def _refuse_second_loop(self, loop: str) -> None:
        if self._loop is not None:
            raise loop_errors.nested(loop, running=self._loop)
        if self._used is not None and (loop, self._used) != ("batches", "batches"):
            raise loop_errors.second(loop, after=self._used)
