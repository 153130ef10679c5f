"""Whether staged tensors are finite, by their first elements."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from resumable.state.staging.stager import Stager
from resumable.state.tensors.facts import DTYPES

FLOATS = [
    name for name in ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2") if name in DTYPES
]


def broken(tensors: dict[str, Tensor]) -> set[str]:
    """By a staged image, and by one that is streamed: both say the same."""
    staged, streamed = Stager(), Stager()
    staged.begin({"x": tensors})
    image = staged.stage({"x": tensors}, threads=1)["x"]
    passing = streamed.stream({"x": tensors}, {}, max_bytes=2**20)[0]["x"]
    assert set(image.broken) == set(passing.broken)
    return set(image.broken)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_element_of_each_floating_point_tensor_is_looked_at(dtype: str, value: float) -> None:
    kind = DTYPES[dtype]
    value = math.nan if dtype == "float8_e4m3fn" else value  # which has no infinity
    good, bad = torch.ones(3, 5).to(kind), torch.tensor([value, 1.0]).to(kind)
    assert broken({"good": good, "bad": bad, "scalar": bad[0].clone(), "other": torch.zeros(2)}) == {"bad", "scalar"}


def test_large_and_small_numbers_are_finite() -> None:
    values = [1.7e308, -1.7e308, 5e-324, 0.0]
    tensors = {str(number): torch.tensor([value], dtype=torch.float64) for number, value in enumerate(values)}
    for kind in FLOATS:
        tensors[kind] = torch.full((2,), torch.finfo(DTYPES[kind]).max, dtype=torch.float64).to(DTYPES[kind])
    assert broken(tensors) == set()


def test_what_has_no_first_element_or_no_fraction_is_finite() -> None:
    assert broken({"empty": torch.empty(0, 3), "whole": torch.tensor([2**62]), "flag": torch.tensor([True])}) == set()


def test_the_memory_format_does_not_matter() -> None:
    tensor = torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensor[0, 0, 0, 0] = math.nan
    turned = torch.ones(3, 4).t()
    turned[0, 0] = math.nan
    assert broken({"x": tensor, "turned": turned, "slice": torch.tensor([math.nan, 1.0, 2.0])[1:]}) == {"x", "turned"}
