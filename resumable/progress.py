"""What a person sees while training runs: one line on a terminal, nothing in a pipe; knows no checkpointer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class TrainingBar:
    """Epoch, step, time left, rate, last checkpoint and the step that this attempt resumed from.

    `mode` is the config's `progress`: `auto` draws where stderr is a terminal.
    """

    def __init__(self, mode: str, *, resumed_from: int | None) -> None:
        self._shown = mode == "always" or (mode == "auto" and sys.stderr.isatty())
        self._resumed = "new run" if resumed_from is None else f"from {resumed_from}"
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._first: tuple[float, int] | None = None

    def start(self) -> None:
        """Begin to draw."""
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

    def update(self, *, step: int, epoch: int, total_steps: int | None, saved_seconds: float | None) -> None:
        """Show a boundary; `saved_seconds` is the age of the last checkpoint."""
        if self._bar is None or self._task is None:
            return
        now = time.monotonic()
        self._first = self._first or (now, step)
        rate = (step - self._first[1]) / max(now - self._first[0], 1e-9)
        saved = "" if saved_seconds is None else f" · saved {saved_seconds:.0f}s ago"
        of_all = "" if total_steps is None else f"/{total_steps}"
        self._bar.update(
            self._task,
            completed=step,
            total=total_steps,
            description=f"epoch {epoch} step {step}{of_all}",
            status=f"{rate:.1f}/s{saved} · {self._resumed}",
        )

    def stop(self) -> None:
        """Leave the last state on the screen."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = self._first = None

    @contextmanager
    def skipping(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of its own while batches are replayed; yields what is called with the number of batches just done."""
        if not self._shown:
            yield lambda done: None
            return
        self.stop()
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"replaying {what}", total=total)
            yield lambda done: bar.update(task, advance=done)
        self.start()
