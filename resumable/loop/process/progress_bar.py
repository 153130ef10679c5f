"""The progress bar: one line on a terminal while training runs, nothing in a pipe. Independent of checkpoints."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from resumable.loop.process.bottom_line import BottomLine

_REDRAW_SECONDS = 0.1  # steps may be much faster


@dataclass(frozen=True)
class Shown:
    """One boundary, as people count: epochs from 1 on, and `saved_seconds` as the age of the last checkpoint."""

    step: int
    total_steps: int | None
    epoch: int | None
    epochs: int | None
    saved_seconds: float


class TrainingBar:
    """Show epoch, step, time left, rate, age of the last checkpoint and the step that this attempt resumed from.

    `mode` is the config's `progress`: `auto` draws where stderr is a terminal. The bar of a program that has one of its
    own has precedence, and this one does not come back before the next loop.
    """

    def __init__(self, mode: str, *, resumed_from: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wanted = mode == "always" or (mode == "auto" and sys.stderr.isatty())
        self.resumed_from(resumed_from)
        self._line: BottomLine | None = None
        self._clear()

    def resumed_from(self, step: int | None) -> None:
        """Show the step of this checkpoint as the beginning of the attempt; None is the beginning of the run."""
        self._resumed = "new run" if step is None else f"from {step}"

    def _clear(self) -> None:
        self._bar: Progress | None = None
        self._first: tuple[float, int] | None = None
        self._drawn_at_seconds = -math.inf
        self._newest: Shown | None = None
        self._total: int | None = None

    @property
    def running(self) -> bool:
        """True while the bar is drawn, so that `update` has an effect."""
        return self._line is not None

    def start(self) -> None:
        """Begin to draw, at the first boundary."""
        if self._wanted and self._line is None:
            self._line = BottomLine()

    def update(self, newest: Shown) -> None:
        """Show a boundary, unless one was shown just before."""
        if self._line is None:
            return
        self._newest = newest
        self._total = newest.total_steps or self._total  # between two passes it is unknown
        if self._clock() - self._drawn_at_seconds < _REDRAW_SECONDS:
            return
        if self._line.is_taken:
            self.stop(complete=False)
        else:
            self._line.show(self._drawn(newest, self._total))

    def stop(self, *, complete: bool) -> None:
        """End the bar. It stays on the screen with the last boundary if the loop is `complete`, and goes otherwise."""
        if self._line is not None:
            newest, total = self._newest, self._total
            self._line.leave(self._drawn(newest, total or newest.step) if complete and newest is not None else None)
        self._line = None
        self._clear()

    def _drawn(self, at: Shown, total: int | None) -> RenderableType:
        now = self._drawn_at_seconds = self._clock()
        if self._bar is None or self._first is None:
            self._bar, self._first = _columns(), (now, at.step)
            self._bar.add_task("", completed=at.step, status="")
        rate = (at.step - self._first[1]) / max(now - self._first[0], 1e-9)
        epoch = "" if at.epoch is None else f"epoch {_of(at.epoch, at.epochs)} "
        self._bar.update(
            self._bar.task_ids[0],
            completed=at.step,
            total=total,
            description=f"{epoch}step {_of(at.step, total)}",
            status=f"{rate:.1f}/s · saved {at.saved_seconds:.0f}s ago · {self._resumed}",
        )
        return self._bar.get_renderable()

    @contextmanager
    def skipping(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Draw what is replayed instead, as the line `what`; yields a function that takes the batches just done."""
        line = self._line or (BottomLine() if self._wanted else None)
        if line is None:
            yield lambda done: None
            return
        bar = Progress(auto_refresh=False)
        task, drawn_at_seconds = bar.add_task(what, total=total), -math.inf

        def advance(done: int) -> None:
            nonlocal drawn_at_seconds
            bar.update(task, advance=done)
            if self._clock() - drawn_at_seconds >= _REDRAW_SECONDS:
                line.show(bar.get_renderable())
                drawn_at_seconds = self._clock()

        try:
            yield advance
        finally:
            if line is self._line:
                line.show("")
            else:
                line.leave(None)


def _columns() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(10),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[status]}"),
        auto_refresh=False,
    )


def _of(number: int, total: int | None) -> str:
    return f"{number}" if total is None else f"{number}/{total}"
