"""Keeps which launches of this program hold which runs: the one place with rules across several launches."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from resumable.config.config import Config
from resumable.errors import ConfigError, LoopError
from resumable.store.storage.open import local_path
from resumable.utils.events import emit
from resumable.utils.location import location

_guard = threading.Lock()
_held: dict[str, Claim] = {}  # by the place of the run
_moved: dict[str, str | None] = {}  # by the place where RESUMABLE_RUN puts it: the run that the code names


class Claim:
    """One launch's hold on a run, against other launches of this program.

    Making it closes a launch that holds the run and is idle, which can then be used no more. One that is in its loop
    stays. Raises `ConfigError` where `RESUMABLE_RUN` would put two different runs into one.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._run, self._place = location(config.run), _place(config.run)
        self._attempt: int | None = None
        self._idle: Callable[[], bool] = lambda: False
        self._let_go: Callable[[], object] = self.release
        self._successor: Claim | None = None
        self._pid = os.getpid()
        self._refuse_other_run()
        self._before = self._take_over()

    def hold(self, attempt: int, *, idle: Callable[[], bool], let_go: Callable[[], object]) -> None:
        """From here on the run is this launch's, until `release`; `let_go` ends the launch where another comes."""
        self._attempt, self._idle, self._let_go = attempt, idle, let_go
        with _guard:
            _held[self._place] = self
            if self._config.moved_by is not None:
                _moved.setdefault(self._place, self._named())
        if self._before is not None:
            emit(
                "TAKEOVER",
                run=self._run,
                **{"from": f"attempt {self._before._attempt}"},
                attempt=attempt,
            )
            self._before = None

    def release(self) -> None:
        """The launch is over; safe to call twice."""
        with _guard:
            if _held.get(self._place) is self:
                del _held[self._place]

    def refuse_lost(self) -> None:
        """`LoopError` where another launch has taken the run over."""
        if self._successor is None:
            return
        attempt = self._successor._attempt
        by, hint = (
            ("a later launch, which failed,", "make the Trainer once more, and go on with the new one")
            if attempt is None
            else (f"attempt {attempt} of this program", "go on with the newer Trainer")
        )
        raise LoopError(f"{self._run}: this Trainer's attempt {self._attempt} is over: {by} took the run over", hint)

    def _take_over(self) -> Claim | None:
        with _guard:
            holder = _held.get(self._place)
        if holder is None or holder._pid != self._pid:
            return None
        if not holder._idle():
            return None  # the lock of the run refuses this launch, or its fence stops the older one
        holder._successor = self
        holder._let_go()
        return holder

    def _refuse_other_run(self) -> None:
        variable = self._config.moved_by
        if variable is None:
            return
        with _guard:
            first, here = _moved.get(self._place, self._named()), self._named()
        if first != here:
            shown = location(variable)
            raise ConfigError(
                f"RESUMABLE_RUN={shown} in the environment would put two runs of this program into "
                f"one: {_shown(first)}, which was there first, and {_shown(here)}",
                "unset RESUMABLE_RUN where one program trains several runs, or launch a program for each",
            )

    def _named(self) -> str | None:
        run = self._config.configured
        return None if run is None else _place(run)


def _shown(run: str | None) -> str:
    return "that of a config without `run`" if run is None else location(run)


def _place(run: str) -> str:
    """The same for every way to write one place."""
    path = local_path(run)
    return run.rstrip("/") if path is None else os.path.realpath(path)
