"""Addresses of passes and batches, and the keys derived from them. Independent of loaders and random streams.

A key is XXH3-128 of the whole address. Parts are written with their type and length, so that no two addresses share
one encoding: sums and packed bits would let neighbours collide.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import xxhash


@dataclass(frozen=True)
class PassAddress:
    """One pass over a loader: which loop, the number of the pass in that loop's epoch, the epoch, and the rank."""

    loop: str
    number: int
    epoch: int
    rank: int = 0

    @property
    def is_cycle(self) -> bool:
        """True for a pass of an endless iterator."""
        return self.loop.startswith("cycle:")

    @property
    def slot(self) -> str:
        """Return the name of this pass in every epoch, which all passes of a cycle share."""
        # Passes of an epoch may be over different loaders; those of a cycle are all over one, and have no end.
        return self.loop if self.is_cycle else f"{self.loop}/{self.number}"

    def __str__(self) -> str:
        return f"pass {self.number} of loop {self.loop!r} in epoch {self.epoch}"


def pass_key(data_seed: int, address: PassAddress) -> bytes:
    """Return the 16 bytes that decide the order of one pass."""
    return key_of("pass", data_seed, *_parts(address))


def batch_key(data_seed: int, address: PassAddress, batch: int) -> bytes:
    """Return the 16 bytes that decide everything random about fetching one batch."""
    return batch_keys(data_seed, address)(batch)


def batch_keys(data_seed: int, address: PassAddress) -> Callable[[int], bytes]:
    """Return `batch_key` of one pass, as a function of the batch."""
    start = _framed("batch", data_seed, *_parts(address))

    def key(batch: int) -> bytes:
        number = b"%d" % batch
        return xxhash.xxh3_128_digest(b"%bi%b%b" % (start, len(number).to_bytes(8, "little"), number))  # as _encode

    return key


def loop_key(data_seed: int, loop: str) -> bytes:
    """Return the 16 bytes that workers of a loop start with: the same for each pass, as workers may be persistent."""
    return key_of("workers", data_seed, loop)


def key_of(*parts: str | int | bytes) -> bytes:
    """Return XXH3-128 of an unambiguous encoding of `parts`."""
    return xxhash.xxh3_128_digest(_framed(*parts))


def derived(key: bytes, name: str) -> bytes:
    """Return `key_of(key, name)`."""
    return xxhash.xxh3_128_digest(_encode(key) + _encoded_name(name))


def _framed(*parts: str | int | bytes) -> bytes:
    return b"".join(map(_encode, parts))


def _parts(address: PassAddress) -> tuple[str, int, int, int]:
    return address.loop, address.number, address.epoch, address.rank


def _encode(part: str | int | bytes) -> bytes:
    if isinstance(part, str):
        data, tag = part.encode(), b"s"
    elif isinstance(part, bytes):
        data, tag = part, b"b"
    else:
        data, tag = str(int(part)).encode(), b"i"
    return tag + len(data).to_bytes(8, "little") + data


_encoded_name = functools.cache(_encode)  # for the few names that keys are derived for
