"""Turn preemption signals and `leave()` into a flag that the training polls. Independent of training, saves nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType

from resumable.errors import CellInterrupted, Interrupted, Preempted

_Handler = Callable[[int, FrameType | None], object] | int | None  # what `signal.getsignal` returns

LEAVE = "leave()"  # the cause where the program itself requests to leave

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the program again
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C

# `timeout`, and launchers that forward a signal, deliver it twice within microseconds: that is one request, not two.
_SAME_REQUEST_SECONDS = 0.2


def exit_code(cause: signal.Signals | int | str) -> int:
    """Return the exit status of a training that leaves for this cause: 130 for SIGINT, otherwise 75 (run again)."""
    return EXIT_INTERRUPTED if cause == signal.SIGINT else EXIT_PREEMPTED


def signal_name(cause: signal.Signals | str) -> str | None:
    """Return the name of the signal that is the cause to leave; None without a signal."""
    return cause.name if isinstance(cause, signal.Signals) else None


def error_of(cause: signal.Signals | str) -> type[Preempted] | type[CellInterrupted]:
    """Return what a training raises that leaves for this cause."""
    if cause != signal.SIGINT:
        return Preempted
    return CellInterrupted if _is_notebook() else Interrupted


def _is_notebook() -> bool:
    """Return whether this is the kernel of a notebook. IPython alone also runs scripts, whose exit code counts."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and getattr(get_ipython(), "kernel", None) is not None


class Preemption:
    """Handle signals: the first one only sets `pending`, a second one exits at once. Forked children act on neither.

    `leave` sets `pending` without a signal; the signal that follows is still the first one.

    `names` are signal names such as "SIGTERM"; `warn` is called, once, when the signals cannot be watched.
    """

    def __init__(
        self, names: Iterable[str], warn: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.numbers = tuple(signal.Signals[name] for name in names)
        self._warn = warn
        self._clock = clock
        self._warned = False
        self._signal: signal.Signals | None = None
        self._leaving = False
        self._signaled_at_seconds = self._pending_since_seconds = 0.0
        self._active = False
        self._pid = os.getpid()
        self._previous: dict[int, _Handler] = {}
        self._handler = self._receive  # one object: every access to a bound method creates another

    @property
    def pending(self) -> signal.Signals | str | None:
        """The cause to leave: the first signal that arrived, otherwise `LEAVE` if it was requested, otherwise None."""
        return self._signal or (LEAVE if self._leaving else None)

    @property
    def waiting_seconds(self) -> float:
        """Return the seconds since there is a cause to leave; 0 without one."""
        return 0.0 if self.pending is None else self._clock() - self._pending_since_seconds

    @property
    def active(self) -> bool:
        """True while the signals are watched."""
        return self._active

    def leave(self) -> None:
        """Request to leave as a signal does. For any thread; idempotent."""
        self._note_cause()
        self._leaving = True

    def install(self) -> None:
        """Watch the signals from now on. Off the main thread, where Python forbids it, only warn."""
        if self._active or not self.numbers:
            return
        if threading.current_thread() is not threading.main_thread():
            self._warn_once()
            return
        self._pid = os.getpid()
        self._active = True
        for number in self.numbers:
            self._previous[number] = signal.getsignal(number)
            signal.signal(number, self._handler)

    def uninstall(self) -> None:
        """Restore the handlers of before, except where another one was set since."""
        self._active = False
        if threading.current_thread() is not threading.main_thread():
            return  # left in place, it now only forwards signals to the handler of before
        for number in self.numbers:
            if number in self._previous and signal.getsignal(number) is self._handler:
                signal.signal(number, _settable(self._previous[number]))

    def take_back(self, number: int) -> None:
        """Watch a signal again whose handler a library has replaced, so that `uninstall` restores that of before."""
        if self._active and number in self.numbers and threading.current_thread() is threading.main_thread():
            signal.signal(number, self._handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            self._receive_in_a_child(number, frame)
        elif not self._active:
            self._forward(number, frame)
        elif self._signal is None:
            self._note_cause()
            self._signaled_at_seconds = self._clock()
            self._signal = signal.Signals(number)
        elif self._clock() - self._signaled_at_seconds >= _SAME_REQUEST_SECONDS:
            # Nothing is flushed or closed: whatever is being written is not yet visible, and stays so.
            os._exit(exit_code(number))

    def _note_cause(self) -> None:
        if self.pending is None:
            self._pending_since_seconds = self._clock()

    def _receive_in_a_child(self, number: int, frame: FrameType | None) -> None:
        # SIGTERM is also how a parent ends its children (multiprocessing.Pool.terminate waits for it to work), so it is
        # handled as without this class. Every other signal is for the training, which needs its children.
        if number == signal.SIGTERM:
            self._forward(number, frame)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        previous = _settable(self._previous[number])
        if callable(previous):
            previous(number, frame)
        elif previous == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            names = ", ".join(number.name for number in self.numbers)
            thread = threading.current_thread().name
            self._warn(
                f"{names} will not be noticed: Python sets signal handlers only from the main thread, "
                f"and this is thread {thread!r}; run the loop in the main thread to save on a signal"
            )


def _settable(handler: _Handler) -> Callable[[int, FrameType | None], object] | int:
    # None stands for a handler that was not set from Python, which cannot be set again from Python.
    return signal.SIG_DFL if handler is None else handler
