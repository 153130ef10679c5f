"""Puts objects, gradients and random streams back to a checkpoint, in place, and proves it; knows no loop and no save.

What torch alone loads is read straight into its tensors: one pass that reads, verifies and fills. An error on the way
leaves the objects undefined; nothing is ever trained with them, for it ends the launch.
"""

from __future__ import annotations

from collections.abc import Mapping

from resumable.checkpointing.position import Position
from resumable.errors import CorruptCheckpointError
from resumable.run.checkpoint import GRADIENTS, Checkpoint
from resumable.state.objects import global_rng
from resumable.state.objects.adapt import Adapter
from resumable.state.objects.gradients import Gradients
from resumable.state.objects.round_trip import compare, verify_round_trip
from resumable.utils.events import warn


class Restoration:
    """From one checkpoint into one program, as often as it has to be."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._restored: set[str] = set()

    def position(self) -> Position:
        """Where the run stands by the checkpoint."""
        try:
            return Position.from_tree(self.checkpoint.inline_tree("position"))
        except ValueError as error:
            raise CorruptCheckpointError(f"{self.checkpoint.name}: {error}") from error

    def restore(self, adapters: Mapping[str, Adapter], gradients: Gradients) -> None:
        """Put these objects, the gradients and all RNG streams back, in place, and prove it.

        What has that state already is left alone; only what differs is read again. Raises `RunMismatchError`
        naming what does not fit, `StateError` naming what did not come back as it was saved, `CorruptCheckpointError`
        naming the tensor whose bytes are others by now, `NoCheckpointError` if the checkpoint is gone.
        """
        for name, adapter in adapters.items():
            self._restore(name, adapter)
        gradients.restore(self.checkpoint.tree(GRADIENTS))
        lost = global_rng.restore(self.checkpoint.inline_tree("rng"))
        if lost:
            warn(f"this machine has no {', '.join(lost)}: random numbers drawn there will differ")

    def _restore(self, name: str, adapter: Adapter) -> None:
        document, records = self.checkpoint.document["objects"][name], self.checkpoint.manifest.objects[name].tensors
        wanted, places = set(records), adapter.places()
        if name in self._restored or places is None:
            found = compare(adapter, document, records)
            if not found.differences:
                return
            wanted -= found.unchanged
        if places is None:  # other code may do with tensors what it likes: it gets its own, all of them
            adapter.take(self.checkpoint.tree(name))
            verify_round_trip(adapter, document, records)
        else:
            wanted |= records.keys() - places.keys()
            tensors = self.checkpoint.tensors(name, into=places, keys=wanted)
            adapter.take(self.checkpoint.decoded(name, tensors))
            verify_round_trip(adapter, document, records, proven=tensors)
        self._restored.add(name)
