"""Seal a JSON document with a digest of its own bytes, and open it again. Independent of its content.

The digest separates damage from a newer version of the format: a reader looks at the version only if it matches.
"""

from __future__ import annotations

import re

import xxhash

# The last bytes of every document, in this and in all later versions of the format.
_TRAILER = re.compile(rb',"digest":"([0-9a-f]{32})"\}')
_TRAILER_BYTES = len(b',"digest":""}') + 32


def digest(data: bytes | bytearray | memoryview) -> str:
    """Return the XXH3-128 in 32 hexadecimal digits: it finds damage, and is no signature."""
    return xxhash.xxh3_128_hexdigest(data)


def sealed(body: bytes) -> bytes:
    """Append the key `digest`, of these bytes, to a JSON object."""
    return body[:-1] + b',"digest":"%s"}' % digest(body).encode()


def unsealed(data: bytes) -> bytes:
    """Return the JSON object without its digest; `ValueError` if there is none, or it does not match."""
    trailer = _TRAILER.fullmatch(data[-_TRAILER_BYTES:])
    if not trailer:
        raise ValueError("cut short, or not of this format: no digest at its end")
    body = data[:-_TRAILER_BYTES] + b"}"
    if digest(body) != trailer[1].decode():
        raise ValueError("its digest differs")
    return body
