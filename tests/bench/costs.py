"""What a checkpoint costs a real training: the stall, and the steps that are slower while it is written.

Blocks of steps of one model, in turn without and with a save. A block with a save goes on until it is durable. Its
whole cost is its time, less that of as many steps as the blocks without a save beside it took.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Protocol

from tests.bench.contestants import (
    CONTESTANTS,
    DCP_PROCESS,
    DCP_THREAD,
    EAGER,
    LIGHTNING,
    OVERLAP,
    SAFETENSORS,
    TORCH_SAVE,
    Contestant,
)
from tests.bench.figures import Figure, Measured, Setting, reason_of
from tests.bench.ours import Loop
from tests.bench.states import Training, training
from tests.bench.timing import clock, rounds, seconds

STEPS = 4
MOST_STEPS = 60


class Turning(Protocol):
    """Ends the turns of a loop, with a save or without; `stalled_seconds` is what the next turns waited for it."""

    def approach(self) -> None: ...
    def end(self) -> None: ...
    def end_with_save(self) -> float: ...
    def late_stall(self) -> float: ...
    def rest(self) -> Contestant | Loop: ...


@dataclass
class ByHand:
    """A loop that calls a peer itself."""

    contestant: Contestant

    def approach(self) -> None:
        pass

    def end(self) -> None:
        pass

    def end_with_save(self) -> float:
        return seconds(self.contestant.save)

    def late_stall(self) -> float:
        return 0.0

    def rest(self) -> Contestant:
        return self.contestant


@dataclass
class ByTrainer:
    """A loop inside the product's own; the wait of an overlapped save comes in a later step and is counted by it."""

    loop: Loop
    before: float = 0.0
    seen: float = 0.0

    def approach(self) -> None:
        self.loop.approach()

    def end(self) -> None:
        self.loop.turn()

    def end_with_save(self) -> float:
        self.before = self.loop.stalled_seconds()
        self.seen = seconds(self.loop.save)
        return self.seen

    def late_stall(self) -> float:
        return max(self.loop.stalled_seconds() - self.before - self.seen, 0.0)

    def rest(self) -> Loop:
        return self.loop


@dataclass(frozen=True)
class Block:
    """Some steps in a row."""

    total_seconds: float
    steps: int
    stall_seconds: float = 0.0


def _heat(names: Sequence[str], setting: Setting) -> Measured:
    measured, subject = Measured(), training(setting.size)
    measured.state_bytes = subject.nbytes()
    present = dict(_entered(names, subject, setting, measured))
    for number, order in enumerate(rounds(list(names), setting.pairs + 1)):
        _one_round(subject, [name for name in order if name in present], present, measured if number else Measured())
    for turning in present.values():
        turning.rest().close()
    return measured


def _shorter_heat(names: Sequence[str], setting: Setting) -> Measured:
    """Half of the rounds: for those that no target is about."""
    return _heat(names, replace(setting, pairs=(setting.pairs + 1) // 2))


def _entered(
    names: Sequence[str], subject: Training, setting: Setting, measured: Measured
) -> Iterator[tuple[str, Turning]]:
    for name in names:
        folder = setting.folder / name.replace(" ", "-").replace(".", "-")
        try:
            if name in (EAGER, OVERLAP):
                yield name, ByTrainer(Loop(subject, folder, mode=name.split()[1]))
            else:
                yield name, ByHand(CONTESTANTS[name](subject, folder))
        except Exception as error:
            measured.drop(name, reason_of(error))


def _one_round(subject: Training, order: Sequence[str], present: dict[str, Turning], sink: Measured) -> None:
    """Without, two with, without, two with, without: each has a block without a save at its side."""
    before = _plain(subject, sink)
    for start in range(0, len(order), 2):
        blocks = {}
        for name in order[start : start + 2]:
            try:
                blocks[name] = _with_save(subject, present[name])
            except Exception as error:
                sink.drop(name, reason_of(error))
                present.pop(name)
        after = _plain(subject, sink)
        step_seconds = fmean([before.total_seconds / before.steps, after.total_seconds / after.steps])
        for name, block in blocks.items():
            sink.add(
                name,
                stall_seconds=block.stall_seconds,
                whole_cost_seconds=block.total_seconds - block.steps * step_seconds,
                steps_count=block.steps,
            )
        before = after


def _plain(subject: Training, sink: Measured) -> Block:
    gc.collect()
    subject.step()  # what was deleted before, or still in flight, is not measured
    started = clock()
    for _ in range(STEPS):
        subject.step()
    block = Block(clock() - started, STEPS)
    sink.add("a step without a save", seconds=block.total_seconds / STEPS)
    return block


def _with_save(subject: Training, turning: Turning) -> Block:
    gc.collect()
    subject.step()
    turning.approach()
    steps, contestant = 1, turning.rest()
    started = clock()
    subject.step()
    stall_seconds = turning.end_with_save()
    while steps < STEPS or (contestant.busy() and steps < MOST_STEPS):
        subject.step()
        turning.end()
        steps += 1
    total_seconds = clock() - started
    contestant.wait()
    contestant.tidy()
    return Block(total_seconds, steps, stall_seconds + turning.late_stall())


FIGURES = [
    Figure("train-kept", "a GPT that trains", partial(_heat, (EAGER, OVERLAP, DCP_THREAD, TORCH_SAVE))),
    Figure(
        "train-others",
        "the others, while it trains",
        partial(_shorter_heat, (EAGER, DCP_PROCESS, LIGHTNING, SAFETENSORS)),
    ),
]
