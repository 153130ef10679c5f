"""Which launch of this program holds which run: the one place with rules across several launches."""

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
_holders: dict[str, RunClaim] = {}  # by the canonical location of the run
_moved: dict[str, str | None] = {}  # by the location that RESUMABLE_RUN names: the run that the code names


class RunClaim:
    """The claim of one launch on a run, against other launches of this program.

    Making it closes a launch that holds the run and is idle; that one cannot be used afterwards. A launch that is in
    its loop stays. Raises `ConfigError` where `RESUMABLE_RUN` would put two different runs into one.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._run, self._key = location(config.run), _canonical(config.run)
        self._attempt: int | None = None  # until it is claimed
        self._held = False
        self._idle: Callable[[], bool] = lambda: False
        self._close: Callable[[], object] = self.release
        self._successor: RunClaim | None = None
        self._pid = os.getpid()
        self._refuse_other_run()
        self._predecessor = self._take_over()

    def hold(self, *, idle: Callable[[], bool], close: Callable[[], object]) -> None:
        """Hold the run until `release`; `close` is called when a later launch claims it while this one is idle."""
        self._held, self._idle, self._close = True, idle, close
        with _guard:
            _holders[self._key] = self
            if self._config.moved_by is not None:
                _moved.setdefault(self._key, self._configured())

    def began(self, attempt: int) -> None:
        """Note the attempt of this launch, and log once from which launch of this program it took the run over."""
        self._attempt = attempt
        if self._predecessor is not None:
            before = self._predecessor._attempt
            former = "a launch that claimed no attempt" if before is None else f"attempt {before}"
            emit("TAKEOVER", run=self._run, **{"from": former}, attempt=attempt)
            self._predecessor = None

    def release(self) -> None:
        """Give the run up: the launch is over. Safe to call twice."""
        with _guard:
            if _holders.get(self._key) is self:
                del _holders[self._key]

    def refuse_lost(self) -> None:
        """Raise `LoopError` where another launch has taken the run over."""
        if self._successor is None:
            return
        by, hint = self._successor._described()
        over = "this Trainer is over" if self._attempt is None else f"this Trainer's attempt {self._attempt} is over"
        raise LoopError(f"{self._run}: {over}: {by} took the run over", hint)

    def _described(self) -> tuple[str, str]:
        """Return what took a run over, and the hint for the launch that lost it."""
        if not self._held:
            return "a later launch, which failed,", "make the Trainer once more, and go on with the new one"
        attempt = "a later launch" if self._attempt is None else f"attempt {self._attempt}"
        return f"{attempt} of this program", "go on with the newer Trainer"

    def _take_over(self) -> RunClaim | None:
        with _guard:
            holder = _holders.get(self._key)
        if holder is None or holder._pid != self._pid:
            return None
        if not holder._idle():
            return None  # the lock of the run refuses this launch, or its fence stops the older one
        holder._successor = self
        holder._close()
        return holder

    def _refuse_other_run(self) -> None:
        variable = self._config.moved_by
        if variable is None:
            return
        with _guard:
            first, here = _moved.get(self._key, self._configured()), self._configured()
        if first != here:
            shown = location(variable)
            raise ConfigError(
                f"RESUMABLE_RUN={shown} in the environment would put two runs of this program into "
                f"one: {_shown(first)}, which was there first, and {_shown(here)}",
                "unset RESUMABLE_RUN where one program trains several runs, or launch a program for each",
            )

    def _configured(self) -> str | None:
        run = self._config.configured
        return None if run is None else _canonical(run)


def _shown(run: str | None) -> str:
    return "that of a config without `run`" if run is None else location(run)


def _canonical(run: str) -> str:
    """Return one name for all ways to write the location of a run."""
    path = local_path(run)
    return run.rstrip("/") if path is None else os.path.realpath(path)
