"""A pass for validation: it counts no step, is no boundary, and leaves the global random streams as they were."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from resumable.loop.iteration.loop_iterator import LoopTurns
from resumable.loop.launch import Launch
from resumable.loop.passes.zipped_pass import remaining
from resumable.state.objects import global_rng
from resumable.utils import failpoints

T = TypeVar("T")


class Counters(NamedTuple):
    """The step and epoch of a run, and whether its Trainer is closed."""

    step: int
    epoch: int
    closed: bool


@dataclass
class _HandedOut:
    """The number of batches that the body got."""

    batches: int = 0


def evaluation(launch: Launch, loader: Iterable[T], counters: Callable[[], Counters]) -> LoopTurns[T]:
    """Return the loop over the batches of `loader`; `counters` is called when it begins and when it ends."""
    handed_out = _HandedOut()
    return LoopTurns(_evaluate(launch, loader, counters, handed_out), lambda _: remaining([loader], handed_out.batches))


def _evaluate(
    launch: Launch, loader: Iterable[T], counters: Callable[[], Counters], handed_out: _HandedOut
) -> Generator[T]:
    here, before = counters(), global_rng.capture_streams()
    address = launch.evaluations.take("evaluate", step=here.step)
    watched = launch.preemption.active
    launch.preemption.install()
    try:
        with closing(launch.data.open(loader, address, None, set_epoch=here.epoch)) as batches:
            for batch in batches:
                failpoints.reach("evaluate", counters().step)
                launch.boundary.leave_if_requested()
                handed_out.batches += 1
                yield batch
    finally:
        if not watched:
            launch.preemption.uninstall()
        if counters() == here:  # an iterator that was kept and dropped later undoes nothing
            global_rng.restore_streams(before)
