"""A terminal, and what a person sees on it. Knows the control sequences of progress bars, and no others."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

COLUMNS = 200
_PIECES = re.compile(r"\x1b\[\??([\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class Screen:
    """The lines that a terminal shows; one that is too long is continued on the next."""

    def __init__(self) -> None:
        self.lines = [""]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        """Show what was written to the terminal."""
        for number, command, move, words in _PIECES.findall(text):
            if command == "A":
                self._row -= int(number or 1)
            elif command == "K":
                self.lines[self._row] = "" if number == "2" else self.lines[self._row][: self._column]
            elif move == "\r":
                self._column = 0
            elif move == "\n":
                self._next_line()
            for sign in words:
                self._put(sign)

    def _put(self, sign: str) -> None:
        if self._column == COLUMNS:
            self._next_line()
            self._column = 0
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + sign + line[self._column + 1 :]
        self._column += 1

    def _next_line(self) -> None:
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append("")


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Stdout and stderr are one pseudo terminal. The list has its lines at the end, without empty ones."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    written, shown = bytearray(), list[str]()
    reader = threading.Thread(target=_read, args=(master, written))
    reader.start()
    streams = [open(os.dup(slave), "w", buffering=1, encoding="utf-8") for _ in range(2)]  # noqa: SIM115
    os.close(slave)
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", str(COLUMNS))
        patch.setenv("TERM", "xterm-256color")
        patch.setattr("sys.stdout", streams[0])
        patch.setattr("sys.stderr", streams[1])
        try:
            yield shown
        finally:
            for stream in streams:
                stream.close()
            reader.join()
            os.close(master)
    screen = Screen()
    screen.feed(written.decode())
    shown += [line.rstrip() for line in screen.lines if line.strip()]


def _read(master: int, into: bytearray) -> None:
    try:
        while more := os.read(master, 65536):
            into += more
    except OSError:  # the other end is closed
        pass
