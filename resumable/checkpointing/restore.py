"""Restore objects, gradients and RNG streams to a checkpoint, in place, and verify it. Independent of loops and saves.

Objects that torch alone loads are read straight into their tensors, in one pass that reads, verifies and fills. An
error in that pass leaves the objects undefined and ends the launch, so nothing is trained with them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from resumable.checkpointing.position import Position
from resumable.checkpointing.stored_orders import has_orders, with_orders
from resumable.errors import CorruptCheckpointError
from resumable.run.checkpoint import Checkpoint
from resumable.run.reserved_objects import GRADIENTS, ORDERS
from resumable.state.objects import global_rng
from resumable.state.objects.choose_adapter import Adapter
from resumable.state.objects.gradients import Gradients
from resumable.state.objects.round_trip import compare_with_stored, verify_round_trip
from resumable.state.objects.tree_copies import moved
from resumable.utils.events import warn


class Restoration:
    """Restores one program to one checkpoint, as often as needed."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._restored: set[str] = set()

    def position(self) -> Position:
        """Return the position of the run in the checkpoint."""
        try:
            position = Position.from_tree(moved(self.checkpoint.inline_tree("position")))
            if not has_orders(position):
                return position
            orders = self.checkpoint.tree(ORDERS) if ORDERS in self.checkpoint.manifest.objects else None
            return with_orders(position, orders)
        except ValueError as error:
            raise CorruptCheckpointError(f"{self.checkpoint.name}: {error}") from error

    def restore(self, adapters: Mapping[str, Adapter], gradients: Gradients, *, dropped: Collection[str] = ()) -> None:
        """Restore these objects, the gradients and all RNG streams, in place, and verify them.

        Gradients of the objects in `dropped` are left out. Objects that have this state already are left alone; only
        tensors that differ are read again.

        Raises:
            RunMismatchError: It names what does not match.
            StateError: It names what did not come back as it was saved.
            CorruptCheckpointError: It names the tensor whose bytes changed since they were verified.
            NoCheckpointError: The checkpoint was deleted.
        """
        for name, adapter in adapters.items():
            self._restore(name, adapter)
        gradients.restore(_kept(self.checkpoint.tree(GRADIENTS), dropped))
        lost = global_rng.restore_streams(self.checkpoint.inline_tree("rng"))
        if lost:
            warn(f"this machine has no {', '.join(lost)}: random numbers drawn there will differ")

    def _restore(self, name: str, adapter: Adapter) -> None:
        document, records = self.checkpoint.document["objects"][name], self.checkpoint.records[name]
        needed, places = set(records), adapter.read_targets()
        if name in self._restored or places is None:
            found = compare_with_stored(adapter, document, records)
            if not found.differences:
                return
            needed -= found.unchanged
        if places is None:  # the user's code may keep or change the tensors: it gets a copy of all of them
            adapter.adopt(self.checkpoint.tree(name))
            verify_round_trip(adapter, document, records)
        else:
            needed |= records.keys() - places.keys()
            tensors = self.checkpoint.tensors(name, into=places, keys=needed)
            adapter.adopt(self.checkpoint.decoded(name, tensors))
            verify_round_trip(adapter, document, records, proven=tensors)
        self._restored.add(name)


def _kept(gradients: Any, dropped: Collection[str]) -> Any:
    """Return the tree of the gradients without those of dropped objects, whose names theirs begin with."""
    if not dropped:
        return gradients
    prefixes = tuple(f"{name}." for name in dropped)
    present = [name for name in gradients["present"] if not name.startswith(prefixes)]
    return {"present": present, "grads": {name: held for name, held in gradients["grads"].items() if name in present}}
