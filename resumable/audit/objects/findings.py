"""What the watch finds, and the lines that say so."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum

from resumable.utils.messages import listed, printable

MAX_LISTED = 12


class Weight(IntEnum):
    """How much speaks for it that a resume would go wrong."""

    WEAK = 0  # no line
    SCRATCH = 1  # an array that is written by index: scratch memory, or a buffer
    STRONG = 2


@dataclass(frozen=True)
class Finding:
    """One thing that is in no checkpoint though the training changes it."""

    name: str  # as `audit.ignore` has it
    what: str  # "changes in the loop (.count was 3 and is 4)"
    advice: str  # "Trainer(..., ema=ema)"
    weight: Weight
    adopts: str | None = None  # the name that a run with checkpoints has to adopt


def line_of(finding: Finding, *, resumed: bool) -> str:
    """Return the line of one finding. In a run with checkpoints, the advice needs `adopt`."""
    line = f"{finding.name} {finding.what}: {finding.advice}"
    if resumed and finding.adopts is not None:
        line += f", and adopt: [{finding.adopts}] in the config, since this run has checkpoints without it"
    return printable(line)


def saved_as(path: str, value: str) -> tuple[str, str]:
    """Return the advice to pass an object to the trainer, `value` being its code, and its name there."""
    name = path.rpartition(".")[2]
    return f"save it too: Trainer(..., {name}={value})", name


def line_of_scratch(findings: Iterable[Finding]) -> str:
    """Return the one line of all arrays that are written by index."""
    names = listed([finding.name for finding in findings], most=MAX_LISTED)
    return printable(
        f"{names}: written by index in the loop, and in no checkpoint: scratch memory needs nothing; what later steps "
        "read is passed to Trainer(...)"
    )


def is_ignored(name: str, ignored: Collection[str]) -> bool:
    """Return whether `audit.ignore` leaves out this name, or an object that it belongs to."""
    return any(name == each or name.startswith((f"{each}.", f"{each}[")) for each in ignored)


def difference(before: dict[str, str], now: dict[str, str], only: Collection[str] | None = None) -> str | None:
    """Return the first place at which two fingerprints differ, with both values; None where they agree.

    Places that are numbers come first, since they say most. `only` are the attributes that count.
    """
    places = [place for place in now if place in before and before[place] != now[place] and _counts(place, only)]
    if not places:
        return None
    place = min(places, key=lambda each: ("#" in now[each], "._" in each, len(each)))
    return f"{place or 'it'} was {before[place]} and is {now[place]}"


def _counts(place: str, only: Collection[str] | None) -> bool:
    if only is None:
        return True
    return any(place == f".{name}" or place.startswith((f".{name}.", f".{name}[")) for name in only)
