"""Where a run stands: counters of steps and epochs, finished passes, the pass in progress; knows no loader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Position:
    """The instant between two steps or two epochs at which a checkpoint was taken.

    `step` and `epoch` count what is completed. Inside an epoch, `passes` of its passes are finished and `loaders` holds
    the data positions of the pass in progress; `samplers` holds the states of samplers that live from pass to pass.
    `total` is what the outermost loop was asked for; `metrics` are those logged since this step began. `stopped` says
    that `stop()` was called: the run ends at the next boundary of its outermost loop, or has ended there.
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

    def tree(self) -> dict[str, Any]:
        """As a tree for the codec."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Position:
        """`ValueError` for a tree that is not a position."""
        try:
            return cls(**tree)
        except TypeError as error:
            raise ValueError(f"not a position: {error}") from error

    def summary(self) -> dict[str, Any]:
        """The few numbers that a person wants to see."""
        shown = {"loop": self.loop, "pass": self.passes, "total": self.total}
        if self.loaders:
            shown |= {"batch": self.loaders[0]["batches"], "length": self.loaders[0].get("length")}
        return shown

    def __post_init__(self) -> None:
        if not (isinstance(self.step, int) and isinstance(self.epoch, int)):
            raise ValueError("not a position: step and epoch are whole numbers")
