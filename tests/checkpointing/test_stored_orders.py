"""Orders leave a position for a checkpoint, and each comes back to its own loader."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resumable.checkpointing.position import Position
from resumable.checkpointing.stored_orders import has_orders, with_orders, without_orders
from resumable.data.sampling.packed_order import PackedOrder


def order(*values: int) -> PackedOrder:
    return PackedOrder(np.array(values, dtype=np.int32), None, item="int", batch=None)


def loader(**more: Any) -> dict[str, Any]:
    return {"kind": "address", "batches": 1, "finished": False, **more}


def test_each_order_comes_back_to_its_own_loader() -> None:
    position = Position(
        loaders=[loader(indices=order(1)), loader(), loader(indices=order(2, 3))],
        cycles={
            "often": {"number": 2, "loader": loader(indices=order(4))},
            "over": {"number": 0, "loader": loader(indices=order(5), finished=True)},
            "unused": {"number": 0, "loader": None},
        },
    )
    stripped, trees = without_orders(position)
    assert len(trees) == 3
    assert has_orders(stripped)
    found = with_orders(Position.from_tree(stripped.tree()), trees)
    assert [each["indices"].name for each in found.loaders if "indices" in each] == [order(1).name, order(2, 3).name]
    assert found.cycles["often"]["loader"]["indices"].name == order(4).name
    assert found.cycles["over"]["loader"] == loader(finished=True)
    assert not has_orders(without_orders(Position(loaders=[loader()]))[0])


@pytest.mark.parametrize("number", [1, -1, True, "0", None, [0]])
def test_a_number_of_no_order_is_refused(number: Any) -> None:
    position = Position(loaders=[loader(indices=number)])
    with pytest.raises(ValueError, match="no sampling order"):
        with_orders(position, [order(1).tree()])


def test_an_order_that_is_missing_or_malformed_is_refused() -> None:
    position = Position(loaders=[loader(indices=0)])
    for trees in (None, [], {}, [5], [{"values": []}]):
        with pytest.raises(ValueError, match=r"no sampling order|expected item"):
            with_orders(position, trees)
