"""The frames and functions of the user's on the stack. A frame is only returned, and never stored."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import CodeType, FrameType

from resumable.audit.names import user_frames as files


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


def is_users(code: CodeType) -> bool:
    """Return whether the user wrote this code."""
    return files.is_users(code.co_filename)
