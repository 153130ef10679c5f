"""Which code is the user's: not this package, not the standard library, and not what is installed."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from functools import lru_cache
from types import CodeType, FrameType

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))) + os.sep
_LIBRARY = tuple({os.path.realpath(sysconfig.get_path(each)) + os.sep for each in ("stdlib", "platstdlib")})
_INSTALLED = tuple(f"{os.sep}{each}{os.sep}" for each in ("site-packages", "dist-packages"))


def user_frames() -> list[FrameType]:
    """Return the user's frames that wait for the caller, the nearest first."""
    found: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code):
            found.append(frame)
        frame = frame.f_back
    return found


def places(frames: Iterable[FrameType]) -> dict[tuple[int, CodeType], int]:
    """Return the line at which each frame stands, by the identity of the frame."""
    return {(id(frame), frame.f_code): frame.f_lineno for frame in frames}


@lru_cache(maxsize=512)
def is_users(code: CodeType) -> bool:
    """Return whether the user wrote this code: his script, the package of his script, a cell."""
    if code.co_filename.startswith("<frozen"):
        return False
    if code.co_filename.startswith("<"):
        return True
    path = os.path.realpath(code.co_filename)
    if path.startswith(_PACKAGE):
        return False
    is_installed = path.startswith(_LIBRARY) or any(each in path for each in _INSTALLED)
    return not is_installed or _is_mains(path)


def _is_mains(path: str) -> bool:
    """Return whether the file is in the package of the program, wherever that is installed."""
    package = getattr(sys.modules.get("__main__"), "__package__", None)
    loaded = sys.modules.get(package.partition(".")[0]) if package else None
    folders = getattr(loaded, "__path__", ())
    return any(path.startswith(os.path.realpath(folder) + os.sep) for folder in folders)
