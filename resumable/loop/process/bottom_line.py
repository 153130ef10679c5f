"""One line at the bottom of the terminal, below what the program prints. Independent of what it shows.

What the program writes to `sys.stdout` and `sys.stderr` passes through here: the line is cleared before it, and drawn
again once the cursor stands at the start of a line. No thread draws, so that a prompt of the debugger stays as it is.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from io import StringIO
from typing import Any, TextIO

from rich.console import Console, RenderableType

from resumable.utils.other_bars import is_bar_open

_CLEAR = "\r\x1b[2K"
_INVISIBLE = re.compile(r"\x1b\[(?:[\d;]*m|\?25[hl])")  # colors, and whether the cursor is shown


class BottomLine:
    """Show a line while the program prints above it. In a pipe, only what `leave` gets is printed."""

    def __init__(self) -> None:
        self._stderr = sys.stderr
        self._console = Console(file=sys.stderr, force_jupyter=False)
        self._line = ""  # what is shown
        self._unfinished = False  # whether the program has written a line without its end
        if self._console.is_interactive:
            sys.stdout, sys.stderr = (
                _Above(self, each) if each.isatty() else each for each in (sys.stdout, sys.stderr)
            )

    @property
    def is_taken(self) -> bool:
        """True while the program's own line is at the bottom: a progress bar, or a line that it has not finished."""
        return self._unfinished or is_bar_open()

    def show(self, content: RenderableType) -> None:
        """Draw `content` in place of what is shown, unless the line is taken."""
        if self._console.is_interactive:
            self._line = self._rendered(content)
            self._draw()

    def leave(self, content: RenderableType | None) -> None:
        """Stop to draw, and leave `content` on the screen, where there is one and the line is not taken."""
        if self._line:
            self._write(_CLEAR)
        if content is not None and not self.is_taken:
            self._write(self._rendered(content) + "\n")
        self._line = ""
        for name in ("stdout", "stderr"):
            if isinstance(above := getattr(sys, name), _Above) and above.line is self:
                setattr(sys, name, above.file)

    def write_above(self, file: TextIO, text: str) -> None:
        """Write what the program writes to `file`."""
        file.write(_CLEAR + text if self._line and not self._unfinished else text)
        if signs := _INVISIBLE.sub("", text):
            self._unfinished = not signs.endswith("\n")
        if self._line and not self._unfinished:
            file.flush()
            self._draw()

    def _draw(self) -> None:
        if not self.is_taken:
            self._write(_CLEAR + self._line)

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a terminal that is gone, or cannot encode a sign, ends no training
            self._stderr.write(text)
            self._stderr.flush()

    def _rendered(self, content: RenderableType) -> str:
        drawn, terminal = StringIO(), self._console.is_terminal
        Console(file=drawn, force_terminal=terminal, force_jupyter=False, width=self._console.width).print(content)
        return drawn.getvalue().split("\n")[0]


class _Above:
    """`sys.stdout` or `sys.stderr` while a line is at the bottom of their terminal."""

    def __init__(self, line: BottomLine, file: TextIO) -> None:
        self.line, self.file = line, file

    def write(self, text: str) -> int:
        self.line.write_above(self.file, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for each in lines:
            self.write(each)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __eq__(self, other: object) -> bool:  # tqdm compares streams to find the bars on one of them
        return self.file == getattr(other, "file", other)

    def __hash__(self) -> int:
        return hash(self.file)
