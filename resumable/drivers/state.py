"""The types of a framework's state, as one object of a checkpoint has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

State: TypeAlias = dict[str, Any]
"""A tree that a checkpoint stores: plain values and tensors by name."""

SavedState: TypeAlias = Mapping[str, Any]
"""A `State` that was read back; never written to."""
