"""What an export is asked for, and what cannot be asked; makes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from resumable.errors import ConfigError
from resumable.weights.proof import Format

Cast = Literal["float32", "float16", "bfloat16"]
Batch = Literal["dynamic", "fixed"]

# The largest absolute difference of an output that passes, by its dtype, where none is given.
TOLERANCES: Mapping[str, float] = {"float16": 1e-3, "bfloat16": 1e-2}
DEFAULT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Wanted:
    """What an export is asked for; `max_shard_bytes` None: one file, `tolerance` None: by the dtype of the outputs."""

    format: str
    object: str
    model: str | None
    dtype: str | None
    max_shard_bytes: int | None
    tolerance: float | None
    batch: Batch

    def __post_init__(self) -> None:
        _refuse_other("format", self.format, get_args(Format))
        _refuse_other("batch", self.batch, get_args(Batch))
        if self.dtype is not None:
            _refuse_other("dtype", self.dtype, get_args(Cast))
        if self.max_shard_bytes is not None and self.max_shard_bytes < 1:
            raise ConfigError(f"a shard of {self.max_shard_bytes} bytes: expected at least 1", "for example 5GB")
        if self.tolerance is not None and not 0 <= self.tolerance < float("inf"):
            raise ConfigError(f"tolerance {self.tolerance}: expected a number from 0 on", "for example 1e-4")
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
                raise ConfigError(f"{name} is for safetensors, not for {self.format}", "leave it out")
        if self.model is None:
            raise ConfigError(
                f"{self.format} is a program, and a checkpoint holds no code",
                "name the function that builds the model: --model package.module:function",
            )

    def tolerance_for(self, dtypes: Iterable[str]) -> float:
        """The largest absolute difference that passes for outputs of these dtypes."""
        if self.tolerance is not None:
            return self.tolerance
        return default_tolerance(dtypes)


def default_tolerance(dtypes: Iterable[str]) -> float:
    """That for outputs of these dtypes where nothing else is asked for: one for all, so that of the finest.

    Whole numbers have no say in it: they differ by one at least, which none of these allows.
    """
    fractional = [dtype for dtype in dtypes if "float" in dtype or "complex" in dtype]
    return min((TOLERANCES.get(dtype, DEFAULT_TOLERANCE) for dtype in fractional), default=DEFAULT_TOLERANCE)


def _refuse_other(what: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ConfigError(f"{what} {value!r}: unknown", f"expected one of {', '.join(known)}")
