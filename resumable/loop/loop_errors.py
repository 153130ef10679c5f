"""The errors raised when loops are misused, one function each. Independent of any state."""

from __future__ import annotations

from resumable.errors import ChangedDataError, LoopError


def whole(loop: str, n: object) -> int:
    """Return `n`, the number of turns of a loop. Raises `LoopError` unless it is a whole number from 0 on."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        found = n if isinstance(n, int | float) else type(n).__name__
        raise LoopError(f"{loop}(n): expected a whole number, found {found}", f"pass the number of {loop}")
    return n


def nested(loop: str, *, running: str) -> LoopError:
    """Return the error for an outermost loop inside another one."""
    return LoopError(
        f"{loop}() inside {running}(): a run has one outermost loop",
        "inside epochs() use trainer.batches(loader); trainer.batches(range(n)) turns n times",
    )


def nested_batches(inside: str) -> LoopError:
    """Return the error for a pass inside a pass, or inside a step."""
    return LoopError(
        f"batches() inside a turn of {inside}: steps would be counted twice",
        "use trainer.batches(a, b) for two loaders side by side, trainer.cycle(loader) for next() inside another loop, "
        "trainer.evaluate(loader) for validation; if the other one was left by break, do not keep its iterator in a "
        "variable",
    )


def second(loop: str, *, after: str) -> LoopError:
    """Return the error for a second outermost loop."""
    return LoopError(
        f"{loop}() after {after}(): this run's loop is over, and a second one has no position of its own",
        "use one loop for the whole run (a larger n continues a finished run), or a second Trainer with another `run` "
        "for a second phase",
    )


def other_loop(loop: str, *, before: str) -> LoopError:
    """Return the error for a resume with another kind of loop."""
    return LoopError(
        f"this run was trained with {before}(), and resumes here with {loop}()",
        f"use trainer.{before}(...) again, or name another folder in `run` for a new run",
    )


def cycle_inside(running: str) -> LoopError:
    """Return the error for a cycle that is created inside a loop."""
    return LoopError(
        f"cycle() inside {running}(): checkpoints match cycles by their order of creation",
        "create cycles before the loop, and call next() on them inside it",
    )


def cycle_twice(name: str) -> LoopError:
    """Return the error for a second cycle of one name."""
    return LoopError(f"cycle {name!r} exists already", "give every cycle a name of its own: cycle(loader, name=...)")


def nothing_to_stop() -> LoopError:
    """Return the error for `stop()` outside of any loop."""
    return LoopError(
        "stop() before the first loop: there is nothing to end",
        "call it in the loop's body, or do not begin the loop",
    )


def begins_late() -> LoopError:
    """Return the error for `begin_at()` after the beginning."""
    return LoopError(
        "begin_at() after a loop: the run has begun, and its counters are in a checkpoint",
        "call it right after Trainer(...), before the first loop",
    )


def left_iterator() -> LoopError:
    """Return the error for an iterator whose pass ended with an earlier epoch."""
    return LoopError(
        "this iterator of batches() was left in an earlier epoch, and its pass is over",
        "call trainer.batches(loader) again in each epoch",
    )


def head_ran_again(error: ChangedDataError) -> ChangedDataError:
    """Return the error for data that changed since a checkpoint inside an epoch, whose head has run again."""
    return ChangedDataError(
        error.message,
        f"{error.hint}; code at the head of the epoch that chooses or changes the data has run again: run it only "
        "`if not trainer.resuming`",
    )


def unreached(*, epoch: int, passes: int, step: int) -> LoopError:
    """Return the error for an epoch that ended before the pass in which the checkpoint was taken."""
    return LoopError(
        f"epoch {epoch} ended before the loop reached pass {passes}, where this run stands (step {step})",
        "the code must call trainer.batches(...) as often as when the checkpoint was taken",
    )
