"""Find checkpoints whose state may be ruined: a value that was finite no longer is. Does not import torch.

A metric that is finite at its first value is a witness. It stops being one when it becomes finite again after a value
that was not. So an undefined score and gradient norms under AMP are not witnesses. A checkpoint is suspect while a
witness is not finite. Tensors are witnesses by the same rule: an accuracy or a learning rate stays finite when the
weights do not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from resumable.utils import strict_json

# True: finite so far. False: not a witness, for good. A number: a witness that is not finite since that step.
WitnessState = bool | int
MAX_WITNESSES = 1000  # of metrics, and of tensors: every manifest lists them
MAX_NAME = 200

_SUSPECT, _SINCE, _WITNESSES = "suspect", "suspect_since", "witnesses"
_NOTHING = ""  # replaces more tensors than can be named: none is a witness


class Suspect(NamedTuple):
    """The metric or tensor that makes a checkpoint suspect, and the step since when it is not finite."""

    what: str
    since: int


class Saved(Protocol):
    """The part of a manifest that is read here; `position` is its summary."""

    @property
    def position(self) -> Mapping[str, Any]: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def step(self) -> int: ...


@dataclass(frozen=True)
class Witnesses:
    """The states of metrics and tensors at one instant, by name; `tensors` is None if none was read."""

    metrics: Mapping[str, WitnessState] = field(default_factory=dict)
    tensors: Mapping[str, WitnessState] | None = None

    @property
    def suspect(self) -> Suspect | None:
        """Return the witness that has not been finite for longest, metrics first; None if all are finite."""
        for states in (self.metrics, self.tensors or {}):
            since = {name: state for name, state in states.items() if not isinstance(state, bool)}
            if since:
                return Suspect(*min(since.items(), key=lambda item: item[1]))
        return None

    def summary(self) -> dict[str, Any]:
        """Return the keys for the summary of a manifest's position."""
        states = {"metrics": dict(self.metrics)} | ({} if self.tensors is None else {"tensors": dict(self.tensors)})
        suspect = self.suspect
        marks = {} if suspect is None else {_SUSPECT: suspect.what, _SINCE: suspect.since}
        return marks | {_WITNESSES: json.dumps(states, separators=(",", ":"))}


def of_metric(state: WitnessState | None, *, finite: bool, step: int) -> WitnessState:
    """Return the state of a metric after one more value; `state` is None before the first. Pure."""
    if state is None:
        return finite
    if state is True:
        return True if finite else step
    return False if finite else state


def of_tensors(
    states: Mapping[str, WitnessState] | None, broken: Iterable[str], *, step: int
) -> dict[str, WitnessState]:
    """Return the states of tensors after one more check, in which those in `broken` were not finite. Pure.

    A tensor that the result does not name is finite so far. `states` is None before the first check.
    """
    found = dict.fromkeys(broken)
    if states is None:
        return dict.fromkeys(found if len(found) <= MAX_WITNESSES else (_NOTHING,), False)
    if _NOTHING in states:
        return dict(states)
    after: dict[str, WitnessState] = {name: state if name in found else False for name, state in states.items()}
    fresh = [name for name in found if name not in states]
    return after | dict.fromkeys(fresh[: MAX_WITNESSES - len(after)], step)


def mark(saved: Saved) -> Suspect | None:
    """Return why the manifest marks its checkpoint as suspect, or None."""
    what, since = saved.position.get(_SUSPECT), saved.position.get(_SINCE)
    return Suspect(what, since) if isinstance(what, str) and isinstance(since, int) else None


def is_marked(saved: Saved) -> bool:
    """Return whether the manifest lists witnesses; earlier versions of this package wrote none."""
    return _WITNESSES in saved.position


def witnesses_at_end(line: Iterable[Saved]) -> Witnesses:
    """Return the witnesses at the last checkpoint of a line, given oldest first.

    Earlier versions wrote no witnesses: from their checkpoints, the metrics of the same step are used.
    """
    witnesses = Witnesses()
    for saved in line:
        witnesses = _after(witnesses, saved)
    return witnesses


def are_suspect(line: Iterable[Saved]) -> Iterator[bool]:
    """Yield for each checkpoint of a line, oldest first, whether it is suspect."""
    witnesses, marked = Witnesses(), None
    for saved in line:
        if is_marked(saved):
            marked = saved  # parsed only if one without a mark follows
            yield mark(saved) is not None
            continue
        witnesses = _after(witnesses if marked is None else _after(witnesses, marked), saved)
        marked = None
        yield witnesses.suspect is not None


def _after(before: Witnesses, saved: Saved) -> Witnesses:
    if is_marked(saved):
        return _read(saved.position[_WITNESSES])
    metrics = dict(before.metrics)
    for name, value in saved.metrics.items():
        note(metrics, name, finite=math.isfinite(value), step=saved.step)
    return Witnesses(metrics)


def note(metrics: dict[str, WitnessState], name: str, *, finite: bool, step: int) -> None:
    """Update `metrics` with one more value; a name beyond the bounds is never a witness."""
    before = metrics.get(name)
    if before is not None or (len(metrics) < MAX_WITNESSES and len(name) <= MAX_NAME):
        metrics[name] = of_metric(before, finite=finite, step=step)


def _read(text: Any) -> Witnesses:
    """Parse the text that `summary` wrote; return no witnesses for any other text."""
    try:
        read = strict_json.loads(text.encode())
        tensors = read.get("tensors")
        return Witnesses(_states(read["metrics"]), None if tensors is None else _states(tensors))
    except (ValueError, KeyError, AttributeError):
        return Witnesses()


def _states(read: Any) -> dict[str, WitnessState]:
    states: dict[str, WitnessState] = dict(read.items())
    if len(states) > MAX_WITNESSES or not {*map(type, states.values())} <= {bool, int}:
        raise ValueError("no states of witnesses")
    return states
