"""What is told of a live object that differs from its stored state, and what is taken for granted meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from resumable.state.objects.choose_adapter import adapt
from resumable.state.objects.round_trip import compare_with_stored
from tests.state.roundtrip import save


class Kept:
    """A user's object that gives what it was made of."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def found(stored: dict[str, Any], live: dict[str, Any], **how: Any) -> list[str]:
    saved = save(adapt({"x": Kept(**stored)})["x"])
    return compare_with_stored(adapt({"x": Kept(**live)})["x"], saved.document, saved.records, **how).differences


@pytest.mark.parametrize(
    ("stored", "live"),
    [(1, True), (1, 1.0), (0.0, -0.0), ("1", 1), ([1], (1,)), ({"a": 1}, {"a": 1.0}), (None, False), (2**70, "0x4")],
)
def test_values_that_are_equal_but_not_the_same_differ_beside_tensors_that_do_not(stored: Any, live: Any) -> None:
    weight = torch.rand(3)
    assert found({"w": weight, "v": stored}, {"w": weight, "v": stored}) == []
    assert len(found({"w": weight, "v": stored}, {"w": weight, "v": live})) == 1


def test_the_order_of_keys_is_no_difference() -> None:
    assert found({"w": torch.ones(3), "a": 1, "b": 2}, {"b": 2, "a": 1, "w": torch.ones(3)}) == []


def test_what_was_proven_elsewhere_in_memory_proves_nothing_of_the_live_tensor() -> None:
    right, other = torch.ones(3), torch.zeros(3)
    assert found({"w": right}, {"w": other}, proven={"w": right}) == ["x.w: other values"]
    assert found({"w": right}, {"w": right.clone()}, proven={"w": right}) == []
    assert found({"w": right}, {"w": right}, proven={"w": right}) == []


@pytest.mark.parametrize("live", [torch.zeros(3), torch.ones(4), torch.ones(3, dtype=torch.float64), torch.ones(3, 1)])
def test_tensors_of_other_values_or_facts_differ_where_the_documents_are_the_same(live: torch.Tensor) -> None:
    assert len(found({"w": torch.ones(3)}, {"w": live})) == 1
