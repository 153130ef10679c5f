"""Preemption signals, sent to real processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import resumable
from resumable.loop.process.preemption import LEAVE, Preemption, exit_code

NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")
ROOT = Path(resumable.__file__).parent.parent

# Says "ready" once it watches the signals, and each signal it then takes note of; later signals come from outside.
WATCH = """
import os, select, signal, sys, time
from resumable.loop.process.preemption import Preemption
preemption = Preemption(("SIGTERM", "SIGUSR1", "SIGINT"), print)
preemption.install()
def say(text):
    os.write(1, (text + "\\n").encode())
def wait():
    while preemption.pending is None:
        turn()
    say(preemption.pending.name)
def turn():
    # Python runs handlers between instructions: a signal that comes right before a call that blocks waits for its end.
    return bool(select.select([0], [], [], 0.02)[0])
"""


class Program:
    """A Python program that was started, and what it says."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def tell(self, word: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(word.encode() + b"\n")

    def end_of_input(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.close()

    def line(self) -> str:
        assert self.popen.stdout is not None
        assert select.select([self.popen.stdout], [], [], 30)[0], "the program said nothing for 30 seconds"
        return self.popen.stdout.readline().decode().strip()

    def code(self) -> int:
        return self.popen.wait(timeout=30)


@contextmanager
def _started(body: str, prelude: str = WATCH) -> Iterator[Program]:
    # Unbuffered, so that `select` sees every line; SIGINT as a terminal leaves it, whatever started these tests.
    default = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", default + prelude + body]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as popen:
        try:
            yield Program(popen)
        finally:
            popen.kill()


@pytest.mark.parametrize("name", NAMES)
def test_the_first_signal_is_only_taken_note_of(name: str) -> None:
    with _started("say('ready'); wait(); say('still here')") as program:
        assert program.line() == "ready"
        program.send(signal.Signals[name])
        assert [program.line(), program.line()] == [name, "still here"]
        assert program.code() == 0


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [("SIGTERM", "SIGTERM", 75), ("SIGUSR1", "SIGTERM", 75), ("SIGINT", "SIGINT", 130), ("SIGTERM", "SIGINT", 130)],
)
def test_a_second_signal_leaves_at_once_past_every_finally(first: str, second: str, code: int) -> None:
    body = """
try:
    say('ready'); wait(); time.sleep(0.25); say('again')
    while True:
        turn()
finally:
    say('finally')
"""
    with _started(body) as program:
        assert program.line() == "ready"
        program.send(signal.Signals[first])
        assert [program.line(), program.line()] == [first, "again"]
        program.send(signal.Signals[second])
        assert program.line() == ""
        assert program.code() == code


def test_a_signal_that_a_launcher_delivers_twice_in_one_breath_counts_once() -> None:
    with _started("say('ready'); wait(); os.kill(os.getpid(), signal.SIGTERM); say('still here')") as program:
        assert program.line() == "ready"
        program.send(signal.SIGTERM)
        assert [program.line(), program.line()] == ["SIGTERM", "still here"]


CHILD = """
if os.fork() == 0:
    say(f"child {os.getpid()}")
    while True:
        if turn():
            line = os.read(0, 100).decode().strip()
            if not line:
                os._exit(0)
            say(f"child {preemption.pending} {line}")
"""


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGINT"])
def test_a_forked_child_never_acts(name: str) -> None:
    with _started(CHILD + "os.wait(); say(f'parent {preemption.pending}')") as program:
        child = int(program.line().split()[1])
        for word in ("first", "second"):
            os.kill(child, signal.Signals[name])
            program.tell(word)  # read after the signal was taken
            assert program.line() == f"child None {word}"
        program.end_of_input()
        assert program.line() == "parent None"


def test_a_forked_child_can_still_be_ended_by_its_parent() -> None:
    with _started(CHILD + "say(str(os.WTERMSIG(os.wait()[1])))") as program:
        os.kill(int(program.line().split()[1]), signal.SIGTERM)
        assert program.line() == str(signal.SIGTERM.value)


def test_a_child_that_is_another_program_is_left_as_it_would_be() -> None:
    body = """
import subprocess
say('ready')
child = subprocess.Popen([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"])
say(str(child.wait()))
"""
    with _started(body) as program:
        assert program.line() == "ready"
        assert program.line() == str(-signal.SIGTERM)


@contextmanager
def _earlier(number: int, earlier: object) -> Iterator[None]:
    before = signal.signal(number, earlier)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, before)


def _note(_number: int, _frame: object) -> None:
    raise AssertionError("not called by these tests")


@pytest.mark.parametrize("earlier", [signal.SIG_DFL, signal.SIG_IGN, _note])
def test_uninstall_puts_back_what_was_there(earlier: object) -> None:
    with _earlier(signal.SIGUSR1, earlier):
        preemption = Preemption(["SIGUSR1"], _unexpected)
        preemption.install()
        preemption.install()
        assert signal.getsignal(signal.SIGUSR1) is not earlier
        preemption.uninstall()
        assert signal.getsignal(signal.SIGUSR1) is earlier
        preemption.uninstall()
        assert signal.getsignal(signal.SIGUSR1) is earlier


def test_uninstall_leaves_what_someone_else_has_set_since() -> None:
    with _earlier(signal.SIGUSR1, signal.SIG_DFL):
        preemption = Preemption(["SIGUSR1"], _unexpected)
        preemption.install()
        signal.signal(signal.SIGUSR1, _note)
        preemption.uninstall()
        assert signal.getsignal(signal.SIGUSR1) is _note


def test_installed_again_it_watches_again() -> None:
    with _earlier(signal.SIGUSR1, signal.SIG_IGN):
        preemption = Preemption(["SIGUSR1"], _unexpected)
        for _ in range(2):
            preemption.install()
            preemption.uninstall()
        preemption.install()
        signal.raise_signal(signal.SIGUSR1)
        assert preemption.pending is signal.SIGUSR1
        preemption.uninstall()


def test_a_handler_that_outlives_its_installation_passes_signals_on() -> None:
    received: list[int] = []
    with _earlier(signal.SIGUSR1, lambda number, _frame: received.append(number)):
        first, second = Preemption(["SIGUSR1"], _unexpected), Preemption(["SIGUSR1"], _unexpected)
        first.install()
        second.install()
        first.uninstall()  # not the one that is set: stays below the second
        second.uninstall()  # puts the first one's back
        signal.raise_signal(signal.SIGUSR1)
        assert received == [signal.SIGUSR1]
        assert (first.pending, second.pending) == (None, None)


def test_off_the_main_thread_the_signals_are_left_alone_with_one_warning() -> None:
    warnings: list[str] = []
    preemption = Preemption(["SIGUSR1", "SIGTERM"], warnings.append)
    before = signal.getsignal(signal.SIGUSR1)

    def use() -> None:
        preemption.install()
        preemption.install()
        preemption.uninstall()

    thread = threading.Thread(target=use, name="trainer")
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGUSR1) is before
    assert len(warnings) == 1
    assert all(part in warnings[0] for part in ("SIGUSR1", "SIGTERM", "'trainer'", "main thread"))


def test_without_names_nothing_is_watched_and_nothing_is_warned_of() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    Preemption([], _unexpected).install()
    assert {number: signal.getsignal(number) for number in before} == before


def test_the_clock_decides_what_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    now = [100.0]
    with _earlier(signal.SIGUSR1, signal.SIG_DFL):
        preemption = Preemption(["SIGUSR1"], _unexpected, clock=lambda: now[0])
        preemption.install()
        signal.raise_signal(signal.SIGUSR1)
        now[0] += 0.1
        signal.raise_signal(signal.SIGUSR1)
        assert left == []
        now[0] += 0.2
        signal.raise_signal(signal.SIGUSR1)
        assert left == [75]
        preemption.uninstall()


def test_leave_needs_no_signal_and_is_idempotent() -> None:
    now = [100.0]
    preemption = Preemption([], _unexpected, clock=lambda: now[0])
    assert (preemption.pending, preemption.waiting_seconds) == (None, 0.0)
    for _ in range(2):
        preemption.leave()
        now[0] += 1
    assert (preemption.pending, preemption.waiting_seconds) == (LEAVE, 2.0)
    assert exit_code(LEAVE) == 75


def test_a_signal_after_leave_is_the_first_one_and_only_the_next_exits_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    now = [100.0]
    with _earlier(signal.SIGUSR1, signal.SIG_DFL):
        preemption = Preemption(["SIGUSR1"], _unexpected, clock=lambda: now[0])
        preemption.install()
        preemption.leave()
        now[0] += 30
        signal.raise_signal(signal.SIGUSR1)
        assert (preemption.pending, preemption.waiting_seconds, left) == (signal.SIGUSR1, 30.0, [])
        now[0] += 1
        signal.raise_signal(signal.SIGUSR1)
        assert left == [75]
        preemption.uninstall()


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 75), ("SIGUSR1", 75), ("SIGHUP", 75)])
def test_the_exit_code_asks_to_be_run_again_except_after_an_interrupt(name: str, code: int) -> None:
    assert exit_code(signal.Signals[name]) == code


def _unexpected(message: str) -> None:
    raise AssertionError(f"unexpected warning: {message}")
