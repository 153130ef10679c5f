"""Read the position out of the state file of a rank, and encode another one. The only file here that imports torch."""

from __future__ import annotations

from typing import Any

from resumable.checkpointing.position import Position
from resumable.errors import CorruptCheckpointError
from resumable.run.checkpoint import Checkpoint
from resumable.state.codec import decode, encode


def position_of(checkpoint: Checkpoint, rank: int) -> Position:
    """Return the position of one rank."""
    try:
        tree: Any = decode(checkpoint.states[rank].position, {})
        return Position.from_tree(tree)
    except (ValueError, LookupError, TypeError) as error:
        raise CorruptCheckpointError(f"{checkpoint.name}: {error}") from error


def document_of(position: Position) -> Any:
    """Return a position as a state file holds it."""
    return encode(position.tree(), key_of=None, where="position").document
