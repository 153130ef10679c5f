"""The sections of the configuration and the types of its keys."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from resumable.config.config_errors import did_you_mean
from resumable.policy.retention import Rule
from resumable.policy.save_policy import Schedule

# No program can catch the first two. The next are faults: a Python handler returns to the faulting instruction, for
# ever. torch needs the last to notice that a loader worker died.
_UNWATCHABLE = ("SIGKILL", "SIGSTOP", "SIGSEGV", "SIGFPE", "SIGILL", "SIGBUS", "SIGABRT", "SIGCHLD")

# Those of the platform: Windows has no SIGUSR1.
DEFAULT_SIGNALS = tuple(name for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _run_text(value: object) -> object:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and not value.strip():
        raise ValueError("a folder or a URL")
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


def _signal_name(value: object) -> object:
    names = [number.name for number in signal.Signals if number.name not in _UNWATCHABLE]
    if value not in names:
        guess = "" if value in _UNWATCHABLE else did_you_mean(str(value), names)
        raise ValueError(f"the name of a signal that can be watched{guess}")
    return value


PositiveInt = Annotated[int, BeforeValidator(_not_bool), Field(ge=1, lt=2**63)]
PositiveFloat = Annotated[float, BeforeValidator(_not_bool), Field(gt=0)]
NaturalInt = Annotated[int, BeforeValidator(_not_bool), Field(ge=0)]
Seed = Annotated[int, BeforeValidator(_not_bool), Field(ge=0, lt=2**63)]
RunLocation = Annotated[str, BeforeValidator(_run_text)]
ObjectPath = Annotated[str, Field(min_length=1, max_length=200)]
SignalName = Annotated[str, BeforeValidator(_signal_name)]


class Section(BaseModel):
    """The base of all sections: frozen, without unknown keys, NaN or values in messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Every(Section):
    """When to save, whichever comes first; null switches one off.

    `minutes` is the most that may be lost. `overhead_percent` is the share of the time that saving may cost: its stalls
    and the slower steps beside it, as measured. If it is given and `steps` is not, `steps` is null: 500 steps may
    take less time than the share allows.
    """

    steps: PositiveInt | None = 500
    minutes: PositiveFloat | None = 10.0
    epochs: PositiveInt | None = None
    overhead_percent: Annotated[PositiveFloat, Field(le=100)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _share_before_steps(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("overhead_percent") is not None:
            return {"steps": None} | dict(values)
        return values

    def schedule(self) -> Schedule:
        """Return the same as the plain value that `save_policy.due` takes."""
        return Schedule(
            steps=self.steps, minutes=self.minutes, epochs=self.epochs, overhead_percent=self.overhead_percent
        )


class KeepEvery(Section):
    """Checkpoints that are kept for good: the first at or after each multiple of `steps`."""

    steps: PositiveInt | None = None


class Best(Section):
    """Checkpoints that are kept for their value of a logged metric."""

    metric: Annotated[str, Field(min_length=1)] = "val_loss"
    mode: Literal["min", "max"] = "min"
    count: PositiveInt = 1


class Keep(Section):
    """Which committed checkpoints are kept; `best: null` keeps none for a metric."""

    last: PositiveInt = 3
    every: KeepEvery = KeepEvery()
    best: Best | None = Best()

    def rule(self) -> Rule:
        """Return the same as the plain value that `retention.keep` takes."""
        if self.best is None:
            return Rule(last=self.last, every_steps=self.every.steps)
        best = self.best
        return Rule(
            last=self.last,
            every_steps=self.every.steps,
            best_metric=best.metric,
            best_mode=best.mode,
            best_count=best.count,
        )


class Audit(Section):
    """How strictly the loop is looked at for state that is in no checkpoint.

    `ignore` names variables and attributes that are left out. `data` is for batches that differ after a resume.
    """

    mode: Literal["warn", "strict", "off"] = "warn"
    ignore: tuple[ObjectPath, ...] = ()
    data: Literal["refuse", "warn"] = "refuse"


class Journal(Section):
    """Whether what is logged is kept step by step, and how much it may take.

    `flush_seconds` is how long records wait at most on a storage on which no file grows.
    """

    mode: Literal["metrics", "off"] = "metrics"
    flush_seconds: PositiveFloat = 60.0
    max_bytes: Annotated[int, BeforeValidator(_not_bool), Field(ge=2**20)] = 64 * 2**20


class Staging(Section):
    """The way in which the state is copied, and the host memory, in bytes, that this may take."""

    mode: Literal["eager", "overlap"] = "eager"
    max_bytes: Annotated[int, BeforeValidator(_not_bool), Field(ge=2**20)] | None = None
