"""The arguments of an export, validated. Reads and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from resumable.errors import ConfigError
from resumable.export.tolerance import default_tolerance
from resumable.weights.proof import Format

Cast = Literal["float32", "float16", "bfloat16"]
Batch = Literal["dynamic", "fixed"]


@dataclass(frozen=True)
class ExportRequest:
    """The arguments of an export, which `__post_init__` validates.

    `max_shard_bytes` None: one file. `tolerance` None: by the dtypes of the outputs.
    """

    format: str
    object: str
    model: str | None
    dtype: str | None
    max_shard_bytes: int | None
    tolerance: float | None
    batch: Batch

    def __post_init__(self) -> None:
        _refuse_unknown("format", self.format, get_args(Format))
        _refuse_unknown("batch", self.batch, get_args(Batch))
        if self.dtype is not None:
            _refuse_unknown("dtype", self.dtype, get_args(Cast))
        if self.max_shard_bytes is not None and self.max_shard_bytes < 1:
            raise ConfigError(f"max_shard_bytes: expected at least 1, found {self.max_shard_bytes}", "for example 5GB")
        if self.tolerance is not None and not 0 <= self.tolerance < float("inf"):
            raise ConfigError(f"tolerance: expected a number from 0 on, found {self.tolerance}", "for example 1e-4")
        if self.format != "safetensors":
            self._refuse_for_programs()
        elif self.dtype is not None and self.model is not None:
            raise ConfigError(
                "dtype and model together: cast weights do not give the outputs that the live model gave",
                "leave --model out: the cast weights are compared bit by bit",
            )

    def _refuse_for_programs(self) -> None:
        for name, value in {"dtype": self.dtype, "max-shard": self.max_shard_bytes}.items():
            if value is not None:
                raise ConfigError(f"{name}: only for safetensors, not for {self.format}", "leave it out")
        if self.model is None:
            raise ConfigError(
                f"model: {self.format} is a program, and a checkpoint holds no code",
                "name the function that builds the model: --model package.module:function",
            )

    def tolerance_for(self, dtypes: Iterable[str]) -> float:
        """Return the largest absolute difference that passes for outputs of these dtypes."""
        if self.tolerance is not None:
            return self.tolerance
        return default_tolerance(dtypes)


def _refuse_unknown(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: unknown value {value!r}", f"expected one of {', '.join(choices)}")
