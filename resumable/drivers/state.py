"""The state of a framework's trainer, as one object of a checkpoint has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from resumable.state.objects.adapter import BaseAdapter

MODEL = "model"
"""The name of the trained model among the objects."""

BESIDE = "beside"
"""The part of a trainer's state that is not compared after a restore: limits, and positions in files."""

State: TypeAlias = dict[str, Any]
"""A tree that a checkpoint stores: plain values and tensors by name."""

SavedState: TypeAlias = Mapping[str, Any]
"""A `State` that was read back; never written to."""


class FrameworkState(BaseAdapter):
    """The state of a trainer in parts, of which `between` must come back exactly: what it is between two steps."""

    kind = "stateful"

    def comparable(self, document: Any) -> Any:
        """Return the part of the document that a restore must reproduce."""
        return document["between"]

    def read_targets(self) -> Mapping[str, Any]:
        """Return no tensors: nothing is filled in place, and every restore loads all of it."""
        return {}
