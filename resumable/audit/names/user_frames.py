"""Which frames of the user's code wait for a generator of this package. A frame is never stored, only walked past."""

from __future__ import annotations

import os
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

_PACKAGE = str(Path(__file__).resolve().parents[2]) + os.sep
_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_GENERATOR = 0x20 | 0x200
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
_NEWLOCALS = 0x2


class LoopPlace(NamedTuple):
    """The frame that drives the outermost loop, by its id and code, and the `f_lasti` at which it requests a turn."""

    number: int
    code: CodeType
    offset: int

    def drives(self, frame: FrameType) -> bool:
        """Return whether this is the frame."""
        return id(frame) == self.number and frame.f_code is self.code


class WaitingFrame(NamedTuple):
    """A frame that waits for an item. `outermost` is its `f_lasti` at the outermost loop, where that is in this frame.

    `inside` says that the outermost loop is in another frame, `hands_on` that this one is a generator or comprehension.
    """

    frame: FrameType
    outermost: int | None = None
    inside: bool = False
    hands_on: bool = False


def waiting_frames(frame: FrameType | None, outermost: LoopPlace | None = None) -> list[WaitingFrame]:
    """Return the user's frames between `frame` and the one that drives the outermost loop, the nearest first.

    Generators of the user's that hand our items on come before the function that has the loop. Without `outermost`, the
    first frame that is no generator is the last one. Where there is only installed code, its nearest frame is returned.
    """
    around = _frames_to(frame, outermost) or _frames_to(frame, None)
    if around and outermost is not None and outermost.drives(around[-1]):
        inner = [WaitingFrame(each, inside=True, hands_on=_hands_on(each.f_code)) for each in around[:-1]]
        return [*inner, WaitingFrame(around[-1], outermost.offset)]
    return [WaitingFrame(each, hands_on=_hands_on(each.f_code)) for each in around]


def place_of_loop(frame: FrameType | None) -> LoopPlace | None:
    """Return where the loop that requests an item now is driven."""
    around = _frames_to(frame, None)
    return LoopPlace(id(around[-1]), around[-1].f_code, around[-1].f_lasti) if around else None


def is_flat(frame: FrameType) -> bool:
    """Return whether the names of the frame are globals: those of a module, a notebook's cell, `exec` with one dict."""
    return not frame.f_code.co_flags & _NEWLOCALS and frame.f_locals is frame.f_globals


def _frames_to(frame: FrameType | None, outermost: LoopPlace | None) -> list[FrameType]:
    found: list[FrameType] = []
    installed: FrameType | None = None
    while frame is not None:
        code = frame.f_code
        if is_users(code.co_filename):
            found.append(frame)
            if outermost.drives(frame) if outermost is not None else not _hands_on(code):
                return found
        elif installed is None and not code.co_filename.startswith(_PACKAGE):
            installed = frame
        frame = frame.f_back
    if outermost is not None:
        return []
    return found or ([installed] if installed is not None else [])


def _hands_on(code: CodeType) -> bool:
    return bool(code.co_flags & _GENERATOR) or code.co_name in _COMPREHENSIONS


@cache
def is_users(file_name: str) -> bool:
    """Return whether code of this file is the user's: not of this package, the standard library or installed.

    Code without a file (notebooks, `exec`) is, and so is the package of `__main__`, wherever it is installed.
    """
    if file_name.startswith("<"):
        return not file_name.startswith("<frozen")
    path = os.path.realpath(file_name)
    if path.startswith(_PACKAGE):
        return False
    main = _package_of_main()
    if main is not None and path.startswith(main):
        return True
    return not path.startswith(_standard_library()) and not any(part in path for part in _INSTALLED)


@cache
def _standard_library() -> tuple[str, ...]:
    return tuple(os.path.realpath(sysconfig.get_path(each)) + os.sep for each in ("stdlib", "platstdlib"))


def _package_of_main() -> str | None:
    package = getattr(sys.modules.get("__main__"), "__package__", None) or ""
    file_name = getattr(sys.modules.get(package.partition(".")[0]), "__file__", None)
    return os.path.dirname(os.path.realpath(file_name)) + os.sep if file_name else None
