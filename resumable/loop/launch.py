"""What every launch does, whoever drives the loop: refuses several processes, announces itself, watches replays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from resumable.checkpointing.checkpointer import Checkpointer
from resumable.config.config import Config
from resumable.data.pass_base import Skipping
from resumable.errors import ConfigError
from resumable.loop.boundary import Boundary
from resumable.loop.progress_bar import TrainingBar
from resumable.utils.environment import environment, versions
from resumable.utils.events import duration, emit, warn


def refuse_several_processes() -> None:
    """`ConfigError` where this process is one of several that train together."""
    declared = os.environ.get("WORLD_SIZE", "").strip() or "1"
    if not declared.isdigit():
        raise ConfigError(
            f"WORLD_SIZE={declared!r} in the environment: expected a whole number", "unset it for a single process"
        )
    world = int(declared)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
    if world > 1:
        raise ConfigError(
            f"the world has {world} processes; this version trains in one",
            "run one process per run folder; distributed training is refused until it is exact",
        )


_BUILDING: ContextVar[str | None] = ContextVar("building", default=None)


@contextmanager
def building(factory: str) -> Iterator[None]:
    """While it lasts the user's code is run for nothing but the model that it builds: whatever launches is refused."""
    token = _BUILDING.set(factory)
    try:
        yield
    finally:
        _BUILDING.reset(token)


def refuse_while_building() -> None:
    """`ConfigError` where this code is run because an export or its proof needs a model.

    The run that it would go on with may be the very one that is exported: it would claim it, train and prune.
    """
    factory = _BUILDING.get()
    if factory is not None:
        raise ConfigError(
            f"{factory} was named as the function that builds the model, and began to train",
            "what trains belongs behind `if __name__ == '__main__':`",
        )


def announce(config: Config, checkpointer: Checkpointer) -> None:
    """The first log line: a new run, or where it goes on; and what changed since that could change bits."""
    resumed, attempt = checkpointer.resumed, checkpointer.attempt.number
    if resumed is None:
        emit("NEW", run=config.location, data_seed=checkpointer.data_seed, attempt=attempt)
        return
    summary = resumed.manifest.position
    emit(
        "RESUME",
        step=resumed.step,
        epoch=resumed.epoch,
        batch=f"{summary['batch']}/{summary.get('length') or '?'}" if "batch" in summary else None,
        finished="yes" if resumed.manifest.finished else None,
        **{"from": resumed.name},
        age=duration(max(time.time() - resumed.manifest.created, 0)),
        digests="ok",
        attempt=attempt,
    )
    before, now = resumed.manifest, versions() | environment() | {"gradients": config.gradients}
    changed = _changes(before.versions | before.environment | {"gradients": before.config.get("gradients")}, now)
    if changed:
        emit("CHANGED", **changed, note="bits may differ from those of an uninterrupted run")


def tell_unsaved(checkpointer: Checkpointer, *, trained: int | None, keep: str) -> None:
    """At the close: one WARN where steps were trained that are in no checkpoint; `keep` says what would keep them."""
    newest = checkpointer.newest_step or 0
    if trained is not None and trained > newest:
        warn(
            f"{checkpointer.config.location}: trained up to step {trained}, but the newest checkpoint is of step "
            f"{newest}: the same command trains the rest again; to keep such steps, {keep}"
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    return {key: f"{before.get(key)}->{now[key]}" for key in now if before.get(key) != now[key]}


def skipping(bar: TrainingBar, boundary: Boundary) -> Skipping:
    """How a replay shows its progress, and is left when a signal asks for it."""

    @contextmanager
    def skipping(what: str, total: int) -> Iterator[Callable[[int], None]]:
        with bar.skipping(what, total) as show:

            def advance(batches: int) -> None:
                boundary.leave_if_asked()  # a replay may take longer than the grace of a preemption
                show(batches)

            yield advance

    return skipping
