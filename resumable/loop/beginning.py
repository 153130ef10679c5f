"""The counters at which a new run takes a training over, and the refusal of launches that contradict them."""

from __future__ import annotations

from dataclasses import dataclass

from resumable.errors import LoopError
from resumable.utils.checks import is_count

_BELOW = 10**17  # what a checkpoint can hold


@dataclass(frozen=True)
class Beginning:
    """The steps and epochs that another program has completed; `epoch` is None where it was not given."""

    step: int
    epoch: int | None

    def __str__(self) -> str:
        return (
            f"begin_at(step={self.step})" if self.epoch is None else f"begin_at(epoch={self.epoch}, step={self.step})"
        )

    def refuse_older(self, *, step: int, epoch: int) -> None:
        """Raise `LoopError` where the checkpoint of a run was taken before this."""
        if step < self.step or epoch < (self.epoch or 0):
            raise LoopError(
                f"{self}: expected a run that has come as far, found its checkpoint at step {step} of epoch {epoch}",
                "name another folder in `run` to take the training over, or remove begin_at() to continue this run",
            )

    def refuse_loop(self, loop: str) -> None:
        """Raise `LoopError` for a loop that counts epochs, where their number was not given."""
        if self.epoch is None and loop != "steps":
            raise LoopError(
                f"{self} before {loop}(): expected the completed epochs, too, found none",
                f"call begin_at(epoch=..., step={self.step}); with epoch=0 the first epoch begins",
            )


def checked_beginning(step: object, epoch: object) -> Beginning:
    """Return the beginning at these numbers of completed turns. Raises `LoopError` for what is no number."""
    if step is None:
        raise LoopError(
            "begin_at(): expected the completed steps, found none",
            "call begin_at(epoch=..., step=...); each batch is a step: epoch * len(loader), where its length is fixed",
        )
    return Beginning(_whole("step", step), None if epoch is None else _whole("epoch", epoch))


def _whole(name: str, value: object) -> int:
    if isinstance(value, int) and is_count(value, below=_BELOW):
        return value
    found = value if isinstance(value, int | float) else type(value).__name__
    raise LoopError(
        f"begin_at({name}=...): expected a whole number from 0 on, found {found}",
        f"pass the number of completed {name}s as an int",
    )
