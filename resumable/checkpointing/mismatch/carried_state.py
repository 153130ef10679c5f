"""The variables of the loop as a part of a checkpoint: what is stored of them, and who captures and restores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from resumable.errors import CorruptCheckpointError
from resumable.run.checkpoint import Checkpoint
from resumable.run.reserved_objects import CARRIED, is_carried
from resumable.state.codec.tree import Tree


@dataclass(frozen=True)
class CarriedNames:
    """The names in a checkpoint: those whose values it holds are `bound`.

    `inner` are those of functions that the outermost loop calls. They exist only while such a function runs.
    """

    names: frozenset[str] = frozenset()
    inner: frozenset[str] = frozenset()
    bound: frozenset[str] = frozenset()


class CarriedState(Protocol):
    """The carried variables of a program."""

    @property
    def names(self) -> frozenset[str]:
        """The names of all of them."""

    def stand_on(self, stored: CarriedNames | None) -> None:
        """Resume from a checkpoint with these names; None for a new run."""

    def capture(self) -> Tree | None:
        """Return the tree with the values of now, or None where nothing is carried."""

    def restore(self, tree: Any) -> None:
        """Put the values of a captured tree back, which nobody else may use; None where the checkpoint has none."""


def carried_names(checkpoint: Checkpoint) -> CarriedNames:
    """Return the carried names of a checkpoint. Reads no tensors."""
    if not holds_carried(checkpoint):
        return CarriedNames()
    document = checkpoint.document["objects"][CARRIED]
    try:
        names, inner, bound = document["names"], document["inner"], document["values"]
        if not (isinstance(names, list) and isinstance(inner, list) and isinstance(bound, dict)):
            raise TypeError("names")
        return CarriedNames(frozenset(names), frozenset(inner), frozenset(bound))
    except (LookupError, TypeError) as error:
        raise CorruptCheckpointError(f"{checkpoint.name}: {CARRIED}: expected names and values") from error


def holds_carried(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint has carried variables."""
    record = checkpoint.manifest.objects.get(CARRIED)
    return record is not None and is_carried(CARRIED, record)
