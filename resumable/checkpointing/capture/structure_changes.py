"""Notice that training changed what is inside an object, and note what a relaunch must build again. Pure.

A module that grew and an optimizer that got a group are restored only into objects of the same structure. So a program
must make the change again before its loop, behind a condition that holds for the checkpoints which have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from resumable.checkpointing.position import Position
from resumable.utils.checks import is_count
from resumable.utils.messages import listed

STRUCTURE = "structure"  # in the notes of a checkpoint
MAX_CHANGES = 16  # of one object that are noted
_SHOWN = 3
_LOOPS = ("epochs", "steps", "batches", "fit", "")


@dataclass(frozen=True)
class Outline:
    """The structure of a module (`tensors`, `modules`) or of an optimizer (`groups`), as a program builds it.

    `tensors` has dtype and shape of parameters and buffers by name. Those in `buffers` may come and go.
    """

    tensors: Mapping[str, str]
    buffers: frozenset[str]
    modules: frozenset[str]
    groups: tuple[frozenset[str], ...]


@dataclass(frozen=True)
class Change:
    """A change of structure between two saves, of which `step` is the first with it and `after` the last without it.

    `heads` and `heads_before` count the heads of epochs that had run at these saves. `begun` is the step at which the
    pass of the first one began.
    """

    loop: str
    step: int
    after: int
    heads: int
    heads_before: int
    begun: int

    @classmethod
    def between(cls, before: Position, now: Position) -> Change:
        """Return the change that the save at `now` shows and the one at `before` does not."""
        batches = now.loaders[0]["batches"] if now.loaders else 0
        return cls(now.loop, now.step, before.step, _heads(now), _heads(before), max(now.step - batches, 0))

    @property
    def condition(self) -> str:
        """Return the condition in code that holds for the checkpoints with this change."""
        if self.loop == "epochs" and self.heads > self.heads_before:
            return f"if trainer.epoch + trainer.resuming > {self.heads - 1}:"
        if self.loop == "batches" and self.heads > self.heads_before:
            return f"if trainer.step > {self.begun}:"
        return f"if trainer.step >= {self.step}:"

    def __str__(self) -> str:
        epoch = f"in epoch {self.heads - 1}, " if self.loop in ("epochs", "batches", "fit") and self.heads else ""
        return f"changed while training, {epoch}between the saves of steps {self.after} and {self.step}"


def _heads(position: Position) -> int:
    return position.epoch + position.inside_epoch


def differences(then: Outline, now: Outline) -> list[str]:
    """Return in words what `now` has otherwise than `then`."""
    added, gone = now.tensors.keys() - then.tensors.keys(), then.tensors.keys() - now.tensors.keys()
    both = then.tensors.keys() & now.tensors.keys()
    other = sorted(name for name in both if then.tensors[name] != now.tensors[name])
    return [
        *_named("more", sorted(added - now.buffers) or sorted(now.modules - then.modules)),
        *_named("gone", sorted(gone - then.buffers) or sorted(then.modules - now.modules)),
        *_named("another shape or dtype", [f"{name} {then.tensors[name]} -> {now.tensors[name]}" for name in other]),
        *_group_differences(then.groups, now.groups),
    ]


def _group_differences(then: tuple[frozenset[str], ...], now: tuple[frozenset[str], ...]) -> Iterator[str]:
    if len(then) != len(now):
        yield f"{len(now)} parameter groups, {len(then)} before"
    elif then != now:
        yield "other parameters in its groups"


def _named(what: str, names: list[str]) -> list[str]:
    return [f"{what}: {listed(names, most=_SHOWN)}"] if names else []


def changes_in(notes: Mapping[str, Any]) -> dict[str, list[Change]]:
    """Return the changes that are noted in a checkpoint, by object, without malformed ones: notes decide nothing."""
    noted = notes.get(STRUCTURE)
    found = noted.items() if isinstance(noted, dict) else ()
    return {
        name: [change for each in entries[:MAX_CHANGES] if (change := _change(each)) is not None]
        for name, entries in found
        if isinstance(entries, list)
    }


def note_of(changes: Mapping[str, list[Change]]) -> dict[str, object] | None:
    """Return the note of these changes; None without any."""
    return {name: [asdict(each) for each in found] for name, found in changes.items() if found} or None


def _change(entry: object) -> Change | None:
    if not isinstance(entry, dict) or entry.keys() != {each.name for each in fields(Change)}:
        return None
    if entry["loop"] not in _LOOPS or not all(is_count(value) for key, value in entry.items() if key != "loop"):
        return None
    return Change(**entry)


def way_on(changes: list[Change], position: Position) -> str:
    """Return the hint for a program whose objects differ inside from those of a checkpoint at `position`."""
    if position.loop == "fit":
        return (
            "build them as they were at that checkpoint before the fit begins, behind a condition such as "
            f"`if Run(...).latest().step >= {changes[-1].step if changes else position.step}:`"
        )
    conditions = list(dict.fromkeys(f"`{change.condition}`" for change in changes))
    if conditions:
        where = "each behind its condition" if len(conditions) > 1 else "behind"
        return f"make the change before the loop, too, {where} {', '.join(conditions)}{_once(changes[-1].loop)}"
    if position.loop == "epochs" and not position.inside_epoch:
        return (
            "build them as they were at that checkpoint; it stands before the head of epoch "
            f"{position.epoch}, and what that head changes belongs behind "
            f"`if trainer.epoch + trainer.resuming > {position.epoch}:` before the loop{_once(position.loop)}"
        )
    return "build them as they were at that checkpoint"


def _once(loop: str) -> str:
    """Return the rest of a hint: the head of an epoch that a resume goes on in runs once more."""
    return ", and in the loop behind `if not trainer.resuming`" if loop in ("epochs", "batches") else ""


def warning(found: Mapping[str, list[str]], change: Change) -> str:
    """Return the WARN for objects that changed; `found` are the differences by object."""
    what = "; ".join(f"{name}: {', '.join(each)}" for name, each in found.items())
    return f"{what} ({change}): a relaunch must {way_on([change], Position(loop=change.loop))}"
