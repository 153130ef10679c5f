"""The position of a run: counters of steps and epochs, finished passes, the pass in progress. Imports no loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from resumable.utils.checks import is_count


@dataclass(frozen=True)
class Position:
    """The instant between two steps or two epochs at which a checkpoint was taken.

    `step` and `epoch` count completed ones. Inside an epoch, `passes` of its passes are finished, and `loaders` holds
    the data positions of the pass in progress. `samplers` holds the states of samplers that live from pass to pass.
    `total` is the length of the outermost loop; `metrics` are those logged since this step began. `stopped` is true
    once `stop()` was called: the run ends at the next boundary of its outermost loop, or has ended there.
    """

    loop: str = "epochs"
    step: int = 0
    epoch: int = 0
    total: int | None = None
    inside_epoch: bool = False
    passes: int = 0
    loaders: list[dict[str, Any]] = field(default_factory=list)
    samplers: dict[str, Any] = field(default_factory=dict)
    cycles: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    finished: bool = False
    stopped: bool = False

    def tree(self) -> dict[str, object]:
        """Return the position as a tree for the codec."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Position:
        """Return the position in a tree; `ValueError` where it holds none."""
        try:
            position = cls(**tree)
        except TypeError as error:
            raise ValueError(f"not a position: {error}") from error
        wrong = [name for name, fits in _FITS.items() if not fits(getattr(position, name))]
        if wrong:
            raise ValueError(f"not a position: {', '.join(wrong)}")
        return position

    def with_loaders(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Position:
        """Return the position with each data position, those of cycles too, replaced by `change(it)`."""
        loaders = [change(loader) for loader in self.loaders]
        cycles = {
            name: cycle | {"loader": None if cycle["loader"] is None else change(cycle["loader"])}
            for name, cycle in self.cycles.items()
        }
        return replace(self, loaders=loaders, cycles=cycles)

    def summary(self) -> dict[str, object]:
        """Return the few numbers that people want to see."""
        shown = {"loop": self.loop, "pass": self.passes, "total": self.total}
        if self.loaders:
            shown |= {"batch": self.loaders[0]["batches"], "length": self.loaders[0].get("length")}
        return shown


def _is_bounded_count(value: object) -> bool:
    # The next step must have a name of at most 18 digits; no run gets that far.
    return is_count(value, below=10**17)


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_loader(value: object) -> bool:
    return isinstance(value, dict) and _is_bounded_count(value.get("batches"))


def _is_cycle(value: object) -> bool:
    if not isinstance(value, dict) or not {"number", "loader"} <= value.keys():
        return False
    return _is_bounded_count(value["number"]) and (value["loader"] is None or _is_loader(value["loader"]))


def _is_table(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(type(k) is str and fits(v) for k, v in value.items())


_FITS: Mapping[str, Callable[[object], bool]] = {
    "loop": lambda value: value in ("epochs", "steps", "batches", "fit", ""),
    "step": _is_bounded_count,
    "epoch": _is_bounded_count,
    "total": lambda value: value is None or is_count(value),
    "inside_epoch": _is_flag,
    "passes": _is_bounded_count,
    "loaders": lambda value: isinstance(value, list) and all(map(_is_loader, value)),
    "samplers": _is_table(lambda states: isinstance(states, dict)),
    "cycles": _is_table(_is_cycle),
    "metrics": _is_table(lambda value: type(value) is float),
    "finished": _is_flag,
    "stopped": _is_flag,
}
