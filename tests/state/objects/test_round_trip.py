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


def found(stored: dict[str, Any], live: dict[str, Any], *, inline: bool = False, **how: Any) -> list[str]:
    saved = save(adapt({"x": Kept(**stored)})["x"], inline=inline)
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


NAN, PAYLOAD = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize(
    ("stored", "live"),
    [
        (torch.tensor(0.0), torch.tensor(-0.0)),
        (NAN, PAYLOAD),
        (torch.tensor(1.0), torch.tensor(1)),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(2, 3), torch.zeros(3, 2).t()),
    ],
)
def test_small_tensors_are_compared_bit_for_bit_wherever_they_stand(stored: Any, live: Any, inline: bool) -> None:
    weight = torch.rand(40)
    for proven in (None, {"w": weight}):
        same, other = {"w": weight, "v": [stored]}, {"w": weight, "v": [live]}
        assert found(same, {"w": weight, "v": [stored.clone()]}, inline=inline, proven=proven) == []
        [text] = found(same, other, inline=inline, proven=proven)
        assert text.startswith("x.v.0: ")


def test_only_stored_tensors_count_as_unchanged() -> None:
    kept = Kept(w=torch.rand(40), v=torch.rand(2))
    saved = save(adapt({"x": kept})["x"], inline=True)
    assert compare_with_stored(adapt({"x": kept})["x"], saved.document, saved.records).unchanged == {"w"}


@pytest.mark.parametrize("inline", [False, True])
def test_a_tensor_that_becomes_the_alias_of_another_has_the_same_bits(inline: bool) -> None:
    one = torch.rand(2)
    assert found({"a": one, "b": one.clone()}, {"a": one, "b": one}, inline=inline) == []
    assert found({"a": one, "b": one}, {"a": one, "b": one.clone()}, inline=inline) == []
