"""Which frame of the program drives a generator, and whether it dropped it on purpose. Independent of loops.

A frame is identified by its id and its code and is never held, because it would keep every name in it alive. What is
read of the interpreter (CPython 3.11 to 3.13) is the instruction at which a frame stands: a `break` or a `return` drops
the iterator of its `for` in an instruction of its own, and an exception drops it in the one that raised.
"""

from __future__ import annotations

import dis
import inspect
import sys
from types import CodeType, FrameType
from typing import NamedTuple

_GENERATOR = inspect.CO_GENERATOR
_DROPS = ("POP_TOP", "POP_ITER", "STORE_", "DELETE_", "RETURN_")
_CALLS = ("CALL", "PRECALL")
_SUSPENDED = ("YIELD_VALUE", "RESUME", "SEND", "YIELD_FROM")


class DrivingFrame(NamedTuple):
    """The identity of a frame, as far as it can be had without holding it."""

    number: int
    code: CodeType

    @property
    def on_a_stack(self) -> bool:
        """True while the frame is on the stack of a living thread."""
        for frame in sys._current_frames().values():
            at: FrameType | None = frame
            while at is not None:
                if self._is(at):
                    return True
                at = at.f_back
        return False

    def failed_with(self, error: BaseException | None) -> bool:
        """Return whether this exception, or one that it came from, passed through the frame."""
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            at = error.__traceback__
            while at is not None:
                if self._is(at.tb_frame):
                    return True
                at = at.tb_next
            error = error.__cause__ or error.__context__
        return False

    def _is(self, frame: FrameType) -> bool:
        return id(frame) == self.number and frame.f_code is self.code


def driving_frame() -> DrivingFrame:
    """Return the frame that resumed the generator that calls this: the nearest that is no generator itself."""
    frame = sys._getframe(1)  # in every step of every loop: no call is made that need not be
    while (code := frame.f_code).co_flags & _GENERATOR and frame.f_back is not None:
        frame = frame.f_back
    return DrivingFrame(id(frame), code)


def is_left_on_purpose(driver: DrivingFrame) -> bool:
    """Return whether the generator that calls this is closed by a `break` or `return`, and not by an exception.

    To be called when `GeneratorExit` comes; `driver` is the frame that drove the generator.
    """
    frame = sys._getframe(1).f_back
    while frame is not None and _is_generator(frame) and _instruction(frame) in _SUSPENDED:
        frame = frame.f_back  # closed itself, which closes what it iterates over
    if frame is None:
        return False
    if driver._is(frame):
        return _instruction(frame).startswith(_DROPS)
    # The driver returned to a caller, and what it had in its names goes; an exception would have kept its frame.
    return _instruction(frame).startswith(_CALLS) and not driver.on_a_stack


def _is_generator(frame: FrameType) -> bool:
    return bool(frame.f_code.co_flags & _GENERATOR)


def _instruction(frame: FrameType) -> str:
    """Return the name of the instruction that the frame stands at."""
    code, at = frame.f_code.co_code, frame.f_lasti
    while at > 0 and dis.opname[code[at]] == "CACHE":
        at -= 2
    return dis.opname[code[at]] if at >= 0 else ""
