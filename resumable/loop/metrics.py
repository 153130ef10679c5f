"""Copy what a loop logs, and track whether it is finite without waiting for a device. Independent of saves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import SupportsFloat

import torch
from torch import Tensor

from resumable.errors import StateError
from resumable.policy.suspicion import WitnessState, note

LoggedValue = float | Tensor

CHUNK = 64  # values of one metric that lie on a device one by one
MAX_WAITING = 2**16  # values of one metric that wait there for a save


def copied(name: str, value: object) -> LoggedValue:
    """Return a copy of the logged number, which later writes to `value` do not reach. Never waits for a device.

    Raises `StateError` for what is not one number.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.detach().reshape(()).clone()
    if isinstance(value, int | float):  # before the look at a protocol, which is slow
        return float(value)
    if isinstance(value, SupportsFloat) and getattr(value, "ndim", 0) == 0:
        return float(value)
    raise StateError(
        f"log({name}=...): expected a number or a 0-d tensor, found {type(value).__name__}", "log one number per name"
    )


def named_once(metrics: object, keywords: Mapping[str, object]) -> dict[str, object]:
    """Return the metrics of a mapping and those of keywords. Raises `StateError` unless each has one name."""
    if not isinstance(metrics, Mapping):
        raise StateError(
            f"log(...): expected a mapping of names to numbers, found {type(metrics).__name__}",
            'pass a mapping or keywords: log({"loss/train": loss}), log(loss=loss)',
        )
    for name in metrics:
        if not isinstance(name, str):
            raise StateError(
                f"log({{{name!r}: ...}}): expected a text as the name, found {type(name).__name__}",
                "give each number a name",
            )
        if name in keywords:
            raise StateError(
                f"log({name}=...): expected each name once, found it in the mapping, too", "log one number per name"
            )
    return {**metrics, **keywords}


def as_numbers(logged: Mapping[str, LoggedValue]) -> dict[str, float]:
    """Return the logged values as floats. Waits for the devices that hold them."""
    return {name: float(value) for name, value in logged.items()}


class StepMetrics:
    """The metrics logged since the step in progress began, and those of the newest boundary."""

    def __init__(self) -> None:
        self.logged: Mapping[str, LoggedValue] = {}  # since this step began
        self.at_boundary: Mapping[str, LoggedValue] = {}  # what a checkpoint of the newest boundary holds
        self.unseen = False  # whether something was logged since the newest boundary

    def log(self, metrics: Mapping[str, object]) -> None:
        """Add copies. Raises `StateError` for what is not one number, and adds nothing then."""
        self.logged = {**self.logged, **{name: copied(name, value) for name, value in metrics.items()}}
        self.unseen = True

    def begin_step(self) -> None:
        """Drop what was logged: from here on it belongs to the next step."""
        self.logged, self.unseen = {}, False

    def reached(self) -> None:
        """Note that the program stands at a boundary."""
        self.at_boundary, self.unseen = self.logged, False

    def stand_at(self, metrics: Mapping[str, float]) -> None:
        """Stand at the boundary at which a checkpoint with these metrics was taken."""
        self.logged = dict(metrics)
        self.reached()


class FiniteWatch:
    """Track which metrics are finite, at each step that logs them; `settled` waits for devices, `see` does not."""

    def __init__(self, metrics: Mapping[str, WitnessState]) -> None:
        self._states = dict(metrics)
        self._waiting: dict[str, _Waiting] = {}

    def see(self, logged: Mapping[str, LoggedValue], *, step: int) -> None:
        """Observe what was logged. Idempotent: the same values once more change nothing."""
        for name, value in logged.items():
            if self._states.get(name) is False:
                continue  # no witness any more
            if isinstance(value, Tensor) and (name in self._waiting or value.device.type != "cpu"):
                self._wait(name, value, step)
            else:
                self._settle(name)
                note(self._states, name, finite=_is_finite(value), step=step)

    def settled(self) -> dict[str, WitnessState]:
        """Return the state of each metric as a witness, by all that was observed."""
        for name in [*self._waiting]:
            self._settle(name)
        return dict(self._states)

    def _wait(self, name: str, value: Tensor, step: int) -> None:
        waiting = self._waiting.get(name)
        if waiting is not None and (len(waiting.steps) >= MAX_WAITING or not waiting.takes(value)):
            self._settle(name)
            waiting = None
        if waiting is None:
            waiting = self._waiting[name] = _Waiting(value.device, value.dtype)
        waiting.add(value, step)

    def _settle(self, name: str) -> None:
        waiting = self._waiting.pop(name, None)
        if waiting is not None:
            for finite, step in zip(waiting.finite(), waiting.steps, strict=True):
                note(self._states, name, finite=finite, step=step)


@dataclass(slots=True)
class _Waiting:
    """Hold the values of one metric that are on a device, in the order of their steps; 64 at a time become flags."""

    device: torch.device
    dtype: torch.dtype
    steps: list[int] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    flags: list[Tensor] = field(default_factory=list)

    def takes(self, value: Tensor) -> bool:
        """Return whether the value can be stacked with those that wait."""
        return (value.device, value.dtype) == (self.device, self.dtype)

    def add(self, value: Tensor, step: int) -> None:
        """Append one value."""
        self.steps.append(step)
        self.values.append(value.detach().reshape(()))
        if len(self.values) == CHUNK:
            self._fold()

    def finite(self) -> list[bool]:
        """Return whether each value is finite; waits for the device."""
        self._fold()
        finite: list[bool] = torch.cat(self.flags).tolist()
        return finite

    def _fold(self) -> None:
        if self.values:
            self.flags.append(torch.isfinite(torch.stack(self.values)))
            self.values.clear()


def _is_finite(value: LoggedValue) -> bool:
    if not isinstance(value, Tensor):
        return math.isfinite(value)
    value = value.detach()
    return bool(torch.isfinite(value)) if value.is_complex() else math.isfinite(value)
