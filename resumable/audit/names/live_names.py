"""The names of the loop that drives a run: reported once, noted in each checkpoint, and compared at a resume.

Nothing is done in a step, but that the first turn of each pass is looked at. No frame is stored: each look walks from
its own frame to those of the user.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

from resumable.audit.harmless import harmless
from resumable.audit.names import report
from resumable.audit.names.byte_code.judged_code import JudgedCode, judge, uses_result
from resumable.audit.names.byte_code.liveness import TooLongError
from resumable.audit.names.clocks_and_handles import is_clock, is_handle
from resumable.audit.names.frame_variables import read
from resumable.audit.names.report import Found
from resumable.audit.names.user_frames import LoopPlace, WaitingFrame, is_flat, is_users, place_of_loop, waiting_frames
from resumable.audit.names.value_digest import UNBOUND, Budget, is_compared, note_of, shown
from resumable.errors import AuditError
from resumable.utils.events import note, warn

NOTE = "live_names"  # the key of the notes of a checkpoint
MOST_NAMES = 64


class _Frame(NamedTuple):
    """One frame of the user's, with what was found in its code, and the values of its names that are bound."""

    function: str
    place: report.Place
    judged: JudgedCode
    values: Mapping[str, object]


class LiveNames:
    """The audit of one program's names. It belongs to the thread that creates it.

    Args:
        mode: `audit.mode` of the config: "warn", "strict" or "off".
        ignore: Names that are left out.
        given: The objects that the Trainer has; names of them are left out.
        noted: Returns the notes of the checkpoint that the program resumes from, or None in a new run.
        carried: Returns the names that are saved by `trainer.carry`.
    """

    def __init__(
        self,
        mode: str,
        *,
        ignore: Collection[str] = (),
        given: Iterable[object] = (),
        noted: Callable[[], Mapping[str, Any] | None] = lambda: None,
        carried: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._mode = mode
        self._ignore = frozenset(ignore)
        self._given = frozenset(map(id, given))
        self._noted, self._carried = noted, carried
        self._thread = threading.get_ident()
        self._outermost: LoopPlace | None = None
        self._judged: dict[tuple[object, ...], JudgedCode] = {}
        self._said: set[tuple[str, str]] = set()
        self.due = False  # whether the next boundary is to be looked at: the second request of a loop

    # -- where the loop stands ----------------------------------------------------------------------------------------

    @contextmanager
    def of_epochs(self) -> Iterator[None]:
        """Know, within it, which frame drives the outermost loop: the one that requests a turn where it is entered."""
        if self._mode != "off":
            with harmless("the place of the loop"):
                self._outermost = place_of_loop(sys._getframe())
        try:
            yield
        finally:
            self._outermost = None

    # -- the three looks ----------------------------------------------------------------------------------------------

    def look(self, loop: str, *, step: int, epoch: int) -> None:
        """Report, at the second request of a loop, what crosses its boundary and is in no checkpoint.

        `loop` is the method of the Trainer whose next item is requested. Raises `AuditError` for names that change the
        training where the mode is "strict".
        """
        self.due = False
        if self._mode == "off":
            return
        lines: list[str] = []
        with harmless("the look at the loop's names"):
            # What counts the epochs equals a step counter by chance, and the other way round.
            counts = ("epoch", epoch) if loop == "epochs" else ("step", step)
            for frame in self._frames():
                lines += self._report(frame, counts)
                self._report_recount(frame, loop)
        self._raise_if_strict(lines)

    def notes(self) -> dict[str, object] | None:
        """Return what a checkpoint notes: for each function and each of its names, the type and a digest."""
        if self._mode == "off":
            return None
        noted: dict[str, object] = {}
        with harmless("the notes of the loop's names"):
            budget, left = Budget(), MOST_NAMES
            for frame in self._frames():
                names = [name for name in frame.judged.compared if not self._is_left_out(frame, name)][:left]
                left -= len(names)
                noted[frame.function] = {name: _noted(frame, name, budget) for name in names}
                # What had no value at the second request of the loop may have one by now.
                self.due |= any((frame.function, name) not in self._said for name in frame.judged.carried)
        return noted or None

    def compare(self) -> None:
        """Report, right before the first fetch of a resume, what differs from the checkpoint and was not restored.

        Raises `AuditError` where the mode is "strict".
        """
        if self._mode == "off":
            return
        lines: list[str] = []
        with harmless("the comparison of the loop's names"):
            noted = (self._noted() or {}).get(NOTE) or {}
            for frame in self._frames():
                lines += self._compare(frame, noted.get(frame.function, {}))
        self._raise_if_strict(lines)

    # -- what is said -------------------------------------------------------------------------------------------------

    def _report(self, frame: _Frame, counts: tuple[str, int]) -> list[str]:
        """Log the names of one frame that are bound and were not reported yet. Returns the lines of the first group."""
        groups: dict[str, list[Found]] = {}
        for name in frame.judged.carried:
            if name not in frame.values or (frame.function, name) in self._said or self._is_ours(frame, name):
                continue
            self._said.add((frame.function, name))
            value = frame.values[name]
            group = "handle" if is_clock(value) or is_handle(value) else _group(frame, name)
            groups.setdefault(group, []).append(_found(frame, name, counts))
        if printed := groups.get("printed"):
            note(report.quiet_line(printed, "only printed or logged"))
        if handles := groups.get("handle"):
            note(report.quiet_line(handles, "clocks and handles"))
        if self._mode == "strict" and (after := self._after(frame)):
            warn(report.after_line(after))
        adopts, training = self._noted() is not None, groups.get("training", [])
        rebound = [report.rebound_line(each, adopts=adopts) for each in training if each.is_object]
        values = [each for each in training if not each.is_object]
        lines = [report.carried_line(values, frame.place, adopts=adopts)] if values else []
        return [said for line in (*lines, *rebound) for said in self._warn(f"carried {line}")]

    def _after(self, frame: _Frame) -> list[Found]:
        fresh = [name for name in frame.judged.after if (frame.function, name) not in self._said]
        fresh = [name for name in fresh if name in frame.values and not self._is_left_out(frame, name)]
        self._said.update((frame.function, name) for name in fresh)
        return [_found(frame, name, ("", -1)) for name in fresh]

    def _report_recount(self, frame: _Frame, loop: str) -> None:
        counter = frame.judged.recount
        if counter is not None and (frame.function, counter) not in self._said:
            self._said.add((frame.function, counter))
            warn(report.recount_line(counter, loop))

    def _compare(self, frame: _Frame, noted: Mapping[str, Mapping[str, object]]) -> list[str]:
        lines, budget = [], Budget()
        for name in frame.judged.compared:
            then = noted.get(name)
            if then is None or self._is_left_out(frame, name):
                continue
            now = _noted(frame, name, budget)
            if then == now or not (is_compared(then) and is_compared(now)):
                continue
            self._said.add((frame.function, name))
            line = report.forgotten_line(name, frame.place, shown(then), shown(now))
            if _group(frame, name) == "training":
                lines += self._warn(f"forgotten {line}")
            else:
                note(f"forgotten {line}")
        return lines

    def _warn(self, line: str) -> list[str]:
        if self._mode != "strict":
            warn(line)
        return [line]

    def _raise_if_strict(self, lines: Collection[str]) -> None:
        if self._mode == "strict" and lines:
            raise AuditError("; ".join(lines), "save them as the line says, or name them in audit.ignore of the config")

    # -- what is looked at --------------------------------------------------------------------------------------------

    def _is_ours(self, frame: _Frame, name: str) -> bool:
        """Return whether the value is in the checkpoint already, or is not to be looked at."""
        return name in self._ignore or name in self._carried() or id(frame.values.get(name)) in self._given

    def _is_left_out(self, frame: _Frame, name: str) -> bool:
        value = frame.values.get(name)
        return self._is_ours(frame, name) or is_clock(value) or is_handle(value)

    def _frames(self) -> Iterator[_Frame]:
        """Yield the user's frames that wait for the generator that called this object."""
        if threading.get_ident() != self._thread:
            self._report_thread()
            return
        for waiting in waiting_frames(sys._getframe(), self._outermost):
            judged = self._judge(waiting)
            names = {*judged.carried, *judged.after, *judged.head}
            code = waiting.frame.f_code
            values = read(waiting.frame, names) if names else {}
            place = report.Place(code.co_name, waiting.inside or waiting.hands_on)
            yield _Frame(code.co_qualname, place, judged, values)

    def _judge(self, waiting: WaitingFrame) -> JudgedCode:
        frame: FrameType = waiting.frame
        caller = frame.f_back if not waiting.hands_on else None
        called_at = (caller.f_code, caller.f_lasti) if caller and is_users(caller.f_code.co_filename) else None
        key = frame.f_code, frame.f_lasti, waiting.outermost, waiting.inside, called_at
        if key not in self._judged:
            self._judged[key] = JudgedCode()  # what fails once is not tried again
            try:
                self._judged[key] = judge(
                    frame.f_code,
                    frame.f_lasti,
                    frame.f_globals,
                    flat=is_flat(frame),
                    outermost=waiting.outermost,
                    inside=waiting.inside,
                    returns=called_at is None or uses_result(*called_at),
                )
            except TooLongError as error:
                note(f"{error}: its variables are not looked at")
        return self._judged[key]

    def _report_thread(self) -> None:
        if ("", "thread") not in self._said:
            self._said.add(("", "thread"))
            note("the loop runs in another thread than the one that made the Trainer: its variables are not looked at")


_GENERATORS = ("Generator", "RandomState", "Random")  # of torch, NumPy and Python


def _group(frame: _Frame, name: str) -> str:
    return "training" if name in frame.judged.changing else "printed"


def _noted(frame: _Frame, name: str, budget: Budget) -> Mapping[str, object]:
    return note_of(frame.values[name], budget) if name in frame.values else UNBOUND


def _found(frame: _Frame, name: str, counts: tuple[str, int]) -> Found:
    value, (counter, count) = frame.values[name], counts
    is_counter = name in frame.judged.counters and type(value) is int and value == count
    return Found(
        name,
        type(value).__name__,
        compared=is_compared(note_of(value, Budget())),
        counts=counter if is_counter else None,
        is_object=hasattr(type(value), "state_dict") or type(value).__name__ in _GENERATORS,
    )
