"""Map dtypes to safetensors tags; one without a tag is stored as another with a trailing dimension. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from resumable.state.tensors.safetensors_layout import TAG_BYTES

# float8_e8m0fnu and float4 have tags in the format, but common readers refuse them: they are stored as bytes.
TAGS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "bool": ("BOOL", ()),
    "uint8": ("U8", ()),
    "int8": ("I8", ()),
    "int16": ("I16", ()),
    "uint16": ("U16", ()),
    "int32": ("I32", ()),
    "uint32": ("U32", ()),
    "int64": ("I64", ()),
    "uint64": ("U64", ()),
    "float16": ("F16", ()),
    "bfloat16": ("BF16", ()),
    "float32": ("F32", ()),
    "float64": ("F64", ()),
    "float8_e4m3fn": ("F8_E4M3", ()),
    "float8_e5m2": ("F8_E5M2", ()),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", ()),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", ()),
    "complex64": ("C64", ()),
    "complex32": ("F16", (2,)),
    "complex128": ("F64", (2,)),
    "float8_e8m0fnu": ("U8", (1,)),
    "float4_e2m1fn_x2": ("U8", (1,)),
}


def may_hold(tag: str, stored: Sequence[int], dtype: str, shape: Sequence[int]) -> bool:
    """Return whether a file entry with `tag` and shape `stored` can hold a tensor of this dtype and shape.

    A dtype that is not in `TAGS` is stored as bytes, whose number per item is not checked: it takes torch.
    """
    if dtype in TAGS:
        return stored_as(dtype, shape) == (tag, tuple(stored))
    return tag == "U8" and len(stored) == len(shape) + 1 and tuple(stored[:-1]) == tuple(shape)


def stored_as(dtype: str, shape: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """Return the tag and shape of a tensor in a file; raise `ValueError` for an unknown dtype."""
    if dtype not in TAGS:
        raise ValueError(f"unknown dtype {dtype[:80]!r}")
    tag, trailing = TAGS[dtype]
    return tag, (*shape, *trailing)


def item_bytes(dtype: str) -> int | None:
    """Return the size of one item; None for a dtype that is not in `TAGS`, whose size takes torch."""
    if dtype not in TAGS:
        return None
    tag, trailing = TAGS[dtype]
    return TAG_BYTES[tag] * math.prod(trailing)
