"""The progress bar: one line on a terminal while training runs, nothing in a pipe. Independent of checkpoints."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_REDRAW_SECONDS = 0.05  # the terminal is drawn ten times a second; steps may be much faster


class TrainingBar:
    """Show epoch, step, time left, rate, age of the last checkpoint and the step that this attempt resumed from.

    `mode` is the config's `progress`: `auto` draws where stderr is a terminal.
    """

    def __init__(self, mode: str, *, resumed_from: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown = mode == "always" or (mode == "auto" and sys.stderr.isatty())
        self._resumed = "new run" if resumed_from is None else f"from {resumed_from}"
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._first: tuple[float, int] | None = None
        self._drawn_at_seconds = -math.inf
        self._undrawn: tuple[int, int, int | None, float] | None = None

    @property
    def running(self) -> bool:
        """True while the bar is drawn, so that `update` has an effect."""
        return self._bar is not None

    def start(self) -> None:
        """Start to draw."""
        if self._shown and self._bar is None:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(10),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("starting", total=None, status=self._resumed)
            self._bar.start()

    def update(self, *, step: int, epoch: int, total_steps: int | None, saved_seconds: float) -> None:
        """Show a boundary, unless one was shown just before; `saved_seconds` is the age of the last checkpoint."""
        if self._bar is None:
            return
        self._undrawn = step, epoch, total_steps, saved_seconds
        if self._clock() - self._drawn_at_seconds >= _REDRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        if self._bar is None or self._task is None or self._undrawn is None:
            return
        (step, epoch, total_steps, saved_seconds), self._undrawn = self._undrawn, None
        now = self._drawn_at_seconds = self._clock()
        self._first = self._first or (now, step)
        rate = (step - self._first[1]) / max(now - self._first[0], 1e-9)
        of_all = "" if total_steps is None else f"/{total_steps}"
        self._bar.update(
            self._task,
            completed=step,
            total=total_steps,
            description=f"epoch {epoch} step {step}{of_all}",
            status=f"{rate:.1f}/s · saved {saved_seconds:.0f}s ago · {self._resumed}",
        )

    def stop(self) -> None:
        """Leave the last state on the screen."""
        self._draw()
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = self._first = None
        self._drawn_at_seconds = -math.inf

    @contextmanager
    def skipping(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Draw another bar while batches are replayed; yields a function that takes the number of batches just done."""
        if not self._shown:
            yield lambda done: None
            return
        self.stop()
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"replaying {what}", total=total)
            yield lambda done: bar.update(task, advance=done)
        self.start()
