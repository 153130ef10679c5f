"""The lines of the audit of names, as text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_MOST_SHOWN = 12
_KINDS = {
    **dict.fromkeys(("int", "float", "complex", "bool"), "a number"),
    **dict.fromkeys(("str", "bytes"), "a text"),
    **dict.fromkeys(("Tensor", "Parameter"), "a tensor"),
    **dict.fromkeys(("list", "tuple", "dict", "set", "deque"), "a container"),
    "ndarray": "an array",
    "NoneType": "None",
}


class Found(NamedTuple):
    """A name that crosses a boundary and is in no checkpoint.

    `counts` is the counter of the trainer that it equals. `is_object` says that the value has a state of its own.
    """

    name: str
    type: str
    compared: bool = True
    counts: str | None = None
    is_object: bool = False


class Place(NamedTuple):
    """The function whose names they are. `inner`: the one with the outermost loop calls it, or iterates over it."""

    function: str
    inner: bool = False


def carried_line(found: Sequence[Found], place: Place, *, adopts: bool) -> str:
    """Return the WARN line for names that change the training, with what saves them."""
    names = [each.name for each in found]
    crosses, them, it = ("crosses", "is", "it") if len(names) == 1 else ("cross", "are", "them")
    reasons = "; ".join(f"{each.name}: {_reason(each)}" for each in found)
    line = f"{', '.join(names)} {crosses} from one step to the next and {them} in no checkpoint; "
    return f"{line}save {it} too: {_advice(names, place, adopts=adopts)} ({reasons})"


def rebound_line(found: Found, *, adopts: bool) -> str:
    """Return the WARN line for a name that the loop binds to another object. A resume restores objects in place."""
    name = found.name
    advice = f"build it once, before Trainer(..., {name}={name})"
    line = f"{name} ({found.type}) is built in the loop and crosses from one step to the next, and is in no checkpoint"
    return f"{line}: {advice}{_adoption([name], adopts=adopts)}"


def after_line(found: Sequence[Found]) -> str:
    """Return the WARN line for names that only code behind the loop reads, where the mode is strict."""
    names = ", ".join(each.name for each in found)
    return f"after {names}: read behind the loop, not bound in every step, and in no checkpoint"


def quiet_line(found: Sequence[Found], what: str) -> str:
    """Return the line at INFO for names that do not change the training: `what` says why."""
    names = [each.name for each in found]
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return f"{', '.join(names[:_MOST_SHOWN])}{more} begin again after a resume: {what}"


def forgotten_line(name: str, place: Place, then: str, now: str) -> str:
    """Return the WARN line for a variable that a resume did not bring back."""
    advice = _advice([name], place, adopts=True)
    return f"{name} was {then} at the checkpoint and is {now} now: it is not restored; {advice}"


def recount_line(counter: str, loop: str) -> str:
    """Return the WARN line for `enumerate` or `count` around a loop of the trainer."""
    instead = (
        "use `for i, batch in trainer.enumerate(loader)`"
        if loop == "batches"
        else f"the items of trainer.{loop}() are the numbers already"
    )
    return f"{counter}() around trainer.{loop}() counts from 0 again after a resume: {instead}"


def _advice(names: Sequence[str], place: Place, *, adopts: bool) -> str:
    where = f" in {place.function}()" if place.inner else ""
    return f"trainer.carry({', '.join(map(_quoted, names))}){where}{_adoption(names, adopts=adopts)}"


def _reason(found: Found) -> str:
    if found.counts is not None:
        return f"counts {found.counts}s: use trainer.{found.counts}, or carry it"
    kind = _KINDS.get(found.type, found.type)
    return kind if found.compared else f"{kind}, not compared"


def _adoption(names: Sequence[str], *, adopts: bool) -> str:
    """Return how a run that began without them goes on with them."""
    if not adopts:
        return ""
    listed = ", ".join(map(_quoted, names))
    return f", and to go on with this run: adopt: [{', '.join(names)}] (RESUMABLE_ADOPT='[{listed}]')"


def _quoted(name: str) -> str:
    return f'"{name}"'
