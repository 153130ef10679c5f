"""The digest of a batch: every content counts, and nothing else does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from resumable.data.batch_digest import digest_batch, sums_of

RANGE = torch.arange(6)


@dataclass
class Sample:
    x: Any
    name: str = ""


def digest(batch: Any) -> bytes:
    return digest_batch(batch).digest


DIFFERENT: list[tuple[Any, ...]] = [
    (RANGE, RANGE.flip(0)),
    (RANGE, RANGE.float()),
    (RANGE, RANGE.reshape(2, 3)),
    (RANGE, RANGE.numpy()),
    (torch.tensor(0.0), torch.tensor(-0.0)),
    (RANGE.bfloat16(), RANGE.half()),
    (RANGE.bfloat16(), RANGE.flip(0).bfloat16()),
    (torch.tensor([1 + 2j]), torch.tensor([1 + 2j]).conj()),
    (RANGE.to_sparse(), RANGE.flip(0).to_sparse()),
    (RANGE.reshape(2, 3).to_sparse_csr(), RANGE.flip(0).reshape(2, 3).to_sparse_csr()),
    (
        torch.nested.nested_tensor([RANGE], layout=torch.jagged),
        torch.nested.nested_tensor([-RANGE], layout=torch.jagged),
    ),
    tuple(torch.nested.nested_tensor([each, each[1:]]) for each in (RANGE, -RANGE)),
    tuple(TwoTensor(RANGE.float(), each.float()) for each in (RANGE, -RANGE)),
    (torch.nn.Parameter(RANGE.float()), torch.nn.Parameter(-RANGE.float())),
    ([1, 2], [2, 1]),
    ([1, 2], [1.0, 2.0]),
    ([[1], [2]], [[1, 2]]),
    ([2**70], [2**71]),
    ([0.1, 0.2], [0.1, 0.3]),
    ([True], [2]),
    ("ab", "ba"),
    (["ab", "c"], ["a", "bc"]),
    ("1", 1),
    (b"1", None),
    ({"a": 1}, {"b": 1}),
    ({"a": RANGE}, {"a": -RANGE}),
    (np.array(["a", "b"]), np.array(["b", "a"])),
    (np.array([[1], "a"], dtype=object), np.array([[2], "a"], dtype=object)),
    (np.float64(1.5), np.float64(2.5)),
    (Sample(RANGE), Sample(-RANGE)),
    (Sample({"a": [RANGE]}), Sample({"a": [-RANGE]})),
    (Sample(Sample(np.arange(2))), Sample(Sample(np.arange(1, 3)))),
    (Sample(1), object()),
]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("pair", range(len(DIFFERENT)))
def test_another_content_has_another_digest(pair: int) -> None:
    one, other = DIFFERENT[pair]
    assert digest(one) != digest(other)
    assert digest([one, one]) != digest([one, other])
    assert digest(one) == digest(one)


def test_what_differs_between_launches_does_not_count() -> None:
    assert digest({"__url__": "/tmp/1/a.tar", "__local_path__": "/tmp/1", "x": 1}) == digest(
        {"__url__": "/scratch/2/a.tar", "__local_path__": "/scratch", "x": 1}
    )
    assert digest({"__key__": "a"}) != digest({"__key__": "b"})
    assert digest(object()) == digest(object())
    assert digest({"a", "b", "c"}) == digest({"c", "b", "a"})
    assert digest(Sample(RANGE, name="/tmp/1")) == digest(Sample(RANGE, name="/tmp/2"))


def test_memory_layout_and_gradients_do_not_count() -> None:
    table = torch.arange(12.0).reshape(3, 4)
    assert digest(table.t()) == digest(table.t().contiguous())
    assert digest(table.clone().requires_grad_()) == digest(table)
    assert digest(table.t().numpy()) == digest(np.ascontiguousarray(table.t().numpy()))


def test_an_object_that_refers_to_much_is_not_walked_to_its_end() -> None:
    everything = [Sample(number) for number in range(10_000)]
    for each in everything:
        each.x = everything
    assert digest(Sample([RANGE, everything])) != digest(Sample([-RANGE, everything]))


def test_a_batch_that_refers_to_itself_has_a_digest() -> None:
    one, other = Sample(None), Sample(None)
    one.x, other.x = [one, RANGE], [other, -RANGE]
    assert digest(one) != digest(other)
    assert digest(one) == digest(one)


@pytest.mark.parametrize("count", [1, 3, 8, 1000, 8192, 32_768, 50_003])
def test_the_sums_of_a_tensor_on_a_device_see_content_and_order(count: int) -> None:
    values = torch.randint(256, (count,), generator=torch.Generator().manual_seed(count)).to(torch.uint8)
    sums = sums_of(values)
    assert torch.equal(sums, sums_of(values.clone()))
    for place in (0, count // 2, count - 1):
        other = values.clone()
        other[place] ^= 1
        assert not torch.equal(sums, sums_of(other))
    for shift in (1, 8, 8192):
        rolled = values.roll(shift)
        assert torch.equal(rolled, values) or not torch.equal(sums, sums_of(rolled))
