"""What the codec refuses to write, and so may refuse to read; knows no document."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

import numpy as np

# Reading takes time quadratic in the number of keys with one hash. Those of strings are random; those of numbers can be
# chosen. Not fewer than all powers of two that a float can be have in common by nature: 2**k and 2**(k + 61).
MAX_KEYS_OF_ONE_HASH = 64


def are_crowded(keys: Iterable[Any]) -> bool:
    """Whether more of the keys share a hash than chance explains."""
    return max(collections.Counter(map(hash, keys)).values(), default=0) > MAX_KEYS_OF_ONE_HASH


def is_text(data: bytes, dtype: np.dtype[Any]) -> bool:
    """Whether the bytes of an array can be made into strings, if strings are what it holds."""
    if dtype.kind != "U":
        return True
    try:
        data.decode("utf-32-be" if dtype.str[0] == ">" else "utf-32-le", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
