"""The sampling orders in a position: stored beside the objects, as arrays that later checkpoints of a pass share."""

from __future__ import annotations

from typing import Any

from resumable.checkpointing.position import Position
from resumable.data.sampling.packed_order import PackedOrder

_INDICES = "indices"


def without_orders(position: Position) -> tuple[Position, list[object]]:
    """Return a position with the numbers of its orders, and the trees of these; a pass that is over needs none."""
    orders: list[object] = []

    def numbered(loader: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in loader.items() if key != _INDICES}
        if _INDICES not in loader or loader.get("finished"):
            return kept
        orders.append(loader[_INDICES].tree())
        return kept | {_INDICES: len(orders) - 1}

    return position.with_loaders(numbered), orders


def has_orders(position: Position) -> bool:
    """Return whether a position from a checkpoint has numbers of orders."""
    found: list[bool] = []

    def look(loader: dict[str, Any]) -> dict[str, Any]:
        found.append(_INDICES in loader)
        return loader

    position.with_loaders(look)
    return any(found)


def with_orders(position: Position, trees: object) -> Position:
    """Return a position from a checkpoint with its orders; `ValueError` where these trees are not its orders."""
    orders = [*map(PackedOrder.of_tree, trees)] if isinstance(trees, list) else []

    def joined(loader: dict[str, Any]) -> dict[str, Any]:
        number = loader.get(_INDICES)
        if _INDICES not in loader:
            return loader
        if type(number) is not int or not 0 <= number < len(orders):
            raise ValueError(f"no sampling order {number!r}")
        return loader | {_INDICES: orders[number]}

    return position.with_loaders(joined)
