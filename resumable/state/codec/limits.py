"""Bounds that the encoder and the decoder both enforce. Independent of documents."""

from __future__ import annotations

import collections
from collections.abc import Iterable

import numpy as np

# Reading takes time quadratic in the number of keys that share a hash. Hashes of strings are random, those of numbers
# can be chosen. The bound must admit the powers of two: 2**k and 2**(k + 61) share a hash, over the range of a float.
MAX_KEYS_OF_ONE_HASH = 64


def are_crowded(keys: Iterable[object]) -> bool:
    """Return whether more keys share one hash than chance explains."""
    return max(collections.Counter(map(hash, keys)).values(), default=0) > MAX_KEYS_OF_ONE_HASH


def is_text(data: bytes, dtype: np.dtype[np.generic]) -> bool:
    """Return whether the bytes of an array of strings are valid Unicode; True for other dtypes."""
    if dtype.kind != "U":
        return True
    try:
        data.decode("utf-32-be" if dtype.str[0] == ">" else "utf-32-le", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
