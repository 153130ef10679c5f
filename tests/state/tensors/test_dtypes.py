"""What safetensors files call the dtypes is the same with and without torch."""

from __future__ import annotations

import pytest

from resumable.state.tensors.dtypes import TAGS, stored_as
from resumable.state.tensors.facts import DTYPES, TensorFacts
from resumable.state.tensors.safetensors_layout import TAG_BYTES


@pytest.mark.parametrize("dtype", TAGS)
def test_a_dtype_is_stored_with_all_of_its_bytes_and_as_the_writer_has_it(dtype: str) -> None:
    tag, shape = stored_as(dtype, (3, 2))
    assert (tag, shape) == TensorFacts(dtype, (3, 2)).stored_as
    assert TAG_BYTES[tag] * (shape[2] if shape[2:] else 1) == DTYPES[dtype].itemsize


def test_an_unknown_dtype_is_told() -> None:
    with pytest.raises(ValueError, match="unknown dtype 'float99'"):
        stored_as("float99", ())
