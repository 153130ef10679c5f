"""Drop the pass in progress from a position: the next epoch begins. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from resumable.checkpointing.position import Position
from resumable.errors import LoopError


def next_epoch(position: Position, where: str) -> Position:
    """Return the position at the end of the epoch in progress, whose remaining batches are dropped.

    `where` names the checkpoint. Raises `LoopError` where no pass of `epochs()` or `batches()` is in progress.
    """
    if position.loop not in ("epochs", "batches"):
        loop = {"fit": "the loop of a framework", "": "no loop"}.get(position.loop, f"{position.loop}()")
        raise LoopError(
            f"--next-epoch: {where}: expected a pass of epochs() or batches(), found {loop}",
            "leave out --next-epoch, or name a checkpoint at the end of an epoch",
        )
    if not position.inside_epoch:
        raise LoopError(
            f"--next-epoch: {where}: expected a pass in progress, found the end of an epoch",
            "leave out --next-epoch: the next epoch begins anyway",
        )
    return replace(position, epoch=position.epoch + 1, inside_epoch=False, passes=0, loaders=[], finished=False)


def summary_of(position: Position, before: Mapping[str, object]) -> dict[str, object]:
    """Return the summary of a position, with the marks that stood in that of the checkpoint `before`."""
    marks = {key: value for key, value in before.items() if key not in ("batch", "length")}
    return marks | position.summary()
