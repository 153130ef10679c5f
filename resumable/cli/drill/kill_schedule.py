"""Draw at which steps and instants a drill kills the training. Pure: the same arguments give the same kills."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from resumable.cli.drill.runs import Reference
from resumable.utils.failpoints import Kill

SAVE_POINTS = ("save.blob", "save.manifest", "save.published")


def plan_kills(references: Sequence[Reference], *, count: int, seed: int) -> list[Kill]:
    """Draw `count` kills over all steps of all runs, and assign each to the run of its step."""
    steps = sum(reference.steps for reference in references)
    drawn = draw_kills(count=count, seed=seed, steps=steps, step_seconds=step_seconds(references))
    return [_in_its_run(references, kill) for kill in drawn]


def step_seconds(references: Sequence[Reference]) -> float:
    """Return the mean duration of a step, in seconds."""
    return sum(reference.seconds for reference in references) / max(sum(each.steps for each in references), 1)


def _in_its_run(references: Sequence[Reference], kill: Kill) -> Kill:
    before = 0
    for reference in references:
        if kill.step <= before + reference.steps:
            break
        before += reference.steps
    name = reference.name if len(references) > 1 else kill.run
    return replace(kill, step=kill.step - before + reference.start.step, run=name)


def draw_kills(*, count: int, seed: int, steps: int, step_seconds: float) -> list[Kill]:
    """Draw `count` kills, in the order of their steps. Every third is inside a save.

    The others come up to `step_seconds` after a step, that is, at any instant.
    """
    source = random.Random(seed)
    where = range(1, steps + 1)
    chosen = sorted(source.sample(where, count) if count <= steps else source.choices(where, k=count))
    in_saves = set(source.sample(range(count), round(count / 3)))
    return [
        Kill(source.choice(SAVE_POINTS), step)
        if index in in_saves
        else Kill("step", step, round(source.random() * step_seconds, 4))
        for index, step in enumerate(chosen)
    ]
