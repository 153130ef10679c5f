"""The errors of `trainer.carry`, one function each. Independent of any state."""

from __future__ import annotations

from collections.abc import Collection

from resumable.checkpointing.mismatch.adoption import accepted_by
from resumable.errors import LoopError, RunMismatchError, StateError
from resumable.utils.messages import listed, nearest, quoted

_SHOWN = 20


def not_a_name(value: object) -> LoopError:
    """Return the error for an argument that is no text: the variable itself, most likely."""
    return LoopError(
        f"carry(...): expected names of variables as text, found a value of type {type(value).__name__}",
        'put the name in quotes: trainer.carry("lr")',
    )


def not_a_variable(name: str) -> LoopError:
    """Return the error for an attribute, an item or an expression."""
    return LoopError(
        f'carry("{name}"): expected the name of a variable, found an expression',
        "pass the object that it is a part of to the Trainer, or keep the value in a plain dict that you pass",
    )


def absent(name: str, *, owner: str, names: Collection[str]) -> LoopError:
    """Return the error for a name that the calling function does not have."""
    near = nearest(name, names, cutoff=0.6)
    return LoopError(
        f'carry("{name}"): {owner} has no variable of this name',
        f"did you mean {near[0]!r}?" if near else "call carry() in the function whose variable it is",
    )


def bound_in_no_loop(name: str, *, owner: str) -> LoopError:
    """Return the error for a variable that stays the same in every loop of its function."""
    return LoopError(
        f'carry("{name}"): no loop of {owner} binds this variable',
        f"if the loop changes the object in place, pass it to the Trainer: Trainer(..., {name}={name}); "
        f"if another function binds {name}, call carry() there; else it need not be saved",
    )


def another_thread() -> LoopError:
    """Return the error for a call, or a loop, in another thread."""
    return LoopError(
        "carry() sees the variables of the thread that created the Trainer, and was called in another one",
        "create the Trainer, call carry() and run the loop in one thread",
    )


def too_late(name: str) -> LoopError:
    """Return the error for a call inside the loop that the calling function drives."""
    return LoopError(
        f'carry("{name}") inside the loop: expected it before, because a resume puts values back when it begins',
        "move the call up, in front of the outermost loop; a variable that is bound later may be named, too",
    )


def not_driving(name: str, *, owner: str) -> LoopError:
    """Return the error for variables of a function that is not part of the loop."""
    return LoopError(
        f'carry("{name}"): {owner} does not drive the loop, so this variable cannot be seen from there',
        "call carry() in the function that has the `for` over the loop, and run that loop in the same thread",
    )


def carried_elsewhere(name: str, *, owner: str, other: str) -> LoopError:
    """Return the error for one name in two functions."""
    return LoopError(
        f'carry("{name}") in {owner}: a variable of {other} is carried under this name',
        "rename one of the two: a checkpoint has one value for each name",
    )


def is_passed(name: str, passed: str) -> StateError:
    """Return the error for an object that was passed to the Trainer, too."""
    return StateError(
        f'carry("{name}"): this object is saved already, because it was passed to the Trainer as {passed}',
        f"leave {name} out of carry(): objects are restored in place, under every name that they have",
    )


def is_object(name: str) -> StateError:
    """Return the error for an object with a state of its own."""
    return StateError(
        f'carry("{name}"): expected a value, found an object with a state of its own',
        f"pass it to the Trainer, which restores it in place: Trainer(..., {name}={name})",
    )


def is_trained(name: str, path: str) -> StateError:
    """Return the error for a tensor that an optimizer may hold."""
    return StateError(
        f"{path}: a tensor with requires_grad cannot be carried, because an optimizer would go on with another one",
        f"pass it in a dict, which is filled in place: Trainer(..., tensors={{{name!r}: {name}}}); for a value without "
        "gradient keep .detach()",
    )


def not_stored(run: str, names: Collection[str], adopted: Collection[str]) -> RunMismatchError:
    """Return the error for variables that the checkpoint does not hold; `adopted` is what the config adopts already."""
    return RunMismatchError(
        f"{run}: carry({_shown(names)}): not in the checkpoint that this run goes on from",
        f"to begin with the value of this launch set {accepted_by('adopt', {*names, *adopted})}",
    )


def not_carried(run: str, names: Collection[str], dropped: Collection[str]) -> RunMismatchError:
    """Return the error for stored variables that are not carried; `dropped` is what the config drops already."""
    accepted = accepted_by("drop", {*names, *dropped})
    return RunMismatchError(
        f"{run}: the checkpoint holds variables that this program does not carry: {_shown(names)}",
        f"call trainer.carry({_shown(names)}) before the loop; to go on without them set {accepted}",
    )


def _shown(names: Collection[str]) -> str:
    return listed((f'"{quoted(name)}"' for name in sorted(names)), most=_SHOWN)
