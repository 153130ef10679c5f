"""The batches that a pass handed out, as a running digest: a resume that makes other batches is refused.

Independent of loaders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import xxhash

from resumable.data.addresses import PassAddress
from resumable.data.batch_digest import BatchDigest, digest_batch
from resumable.data.libraries import webdataset_shuffles
from resumable.data.pass_base import StoredPosition
from resumable.errors import LoopError

# Of what a batch is digested as. Another form has another number, so that no resume compares two of them.
_FORM = 1

_MAX_PENDING = 256  # digests that wait for sums on a device
_EVENLY, _LAST = 64, 8  # marks over the whole pass, and those of the newest batches

_CAUSES = (
    "usually a random generator is seeded by the clock or the process where it cannot be found, such as in a local "
    "variable of a generator function: give it a seed, or keep it in an attribute. Otherwise the data changed, it can "
    "be iterated only once, its order follows hashes or unseeded numbers, threads draw random numbers, a batch holds "
    "what differs in each launch, such as a time, or this machine or its libraries compute other bits. Where only the "
    "bits differ, such as those of another version of a decoder, `audit: {data: warn}` goes on with these batches"
)


class OtherBatchesError(LoopError):
    """The batches made again are not those before the checkpoint."""


class HandedOut:
    """The digest of the batches so far, and marks: that of the first n, for up to 64 even n and for the last 8."""

    def __init__(
        self,
        address: PassAddress,
        loader: object,
        what: str,
        expected: Sequence[Any] | None,
        *,
        tolerate: Callable[[str], None] | None,
        note: str = "",
    ) -> None:
        """Begin with no batch.

        `expected` are the marks of the checkpoint, which are compared as they are reached. `tolerate` logs a difference
        in the place of the error. `note` is added to the hint.
        """
        self.count = 0
        self._tolerate, self._is_proof = tolerate, False
        self._note = note
        self._address = address
        self._loader = loader
        self._what = what
        self._expected: dict[int, str] = dict(map(tuple, expected or ()))
        self._marks: dict[int, bytes] = {}
        self._digest = b""
        self._pending: list[BatchDigest] = []

    def restart(self, count: int = 0, digest: str = "", *, is_proof: bool = False) -> None:
        """Continue behind the first `count` batches, of which `digest` is the digest.

        With `is_proof` a difference is an error in any case.
        """
        self.count, self._digest, self._pending = count, bytes.fromhex(digest), []
        self._is_proof = is_proof
        self._marks = {number: bytes.fromhex(mark) for number, mark in self._expected.items() if number <= count}

    def add(self, batch: object) -> None:
        """Count one batch; raise `OtherBatchesError` where a mark of the checkpoint is reached with another digest."""
        self.count += 1
        self._pending.append(digest_batch(batch))
        expected = self._expected.get(self.count)
        if expected is not None and expected != self.digest():
            self._report_others()
        elif len(self._pending) >= _MAX_PENDING or not any(pending.sums for pending in self._pending):
            self._fold()

    def digest(self) -> str:
        """Return the digest of all batches so far."""
        self._fold()
        return self._digest.hex()

    def position(self) -> dict[str, Any]:
        """Return the digests for a position; the last one is of all batches so far."""
        self._fold()
        self._thin_out()
        return {"digests": {"form": _FORM, "marks": [[number, mark.hex()] for number, mark in self._marks.items()]}}

    def _fold(self) -> None:
        waiting = [sums for batch in self._pending for sums in batch.sums]
        on_host = iter(torch.cat([sums.cpu() for sums in waiting]).tolist() if waiting else ())
        first = self.count - len(self._pending) + 1
        for number, batch in enumerate(self._pending, first):
            sums = [next(on_host) for _ in range(2 * len(batch.sums))]
            self._digest = xxhash.xxh3_128_digest(self._digest + batch.digest + repr(sums).encode())
            self._marks[number] = self._digest
        self._pending.clear()
        if len(self._marks) > 2 * (_EVENLY + _LAST):
            self._thin_out()

    def _thin_out(self) -> None:
        step = 1 << (max(self.count - 1, 0) // _EVENLY).bit_length()
        newest = self.count - _LAST
        self._marks = {number: mark for number, mark in self._marks.items() if number > newest or number % step == 0}

    def _report_others(self) -> None:
        error = self._other_batches()
        if self._tolerate is None or self._is_proof:
            raise error
        self._tolerate(f"{error.message}; the config has audit.data: warn, so the training goes on with these batches")
        self._expected = {}

    def _other_batches(self) -> OtherBatchesError:
        equal = max((number for number in self._expected if number < self.count), default=0)
        where = f"batch {self.count}" if self.count == equal + 1 else f"one of the batches {equal + 1} to {self.count}"
        return OtherBatchesError(
            f"{self._address}: {self._what} gave other batches than before the checkpoint, beginning with {where} of "
            f"the {max(self._expected)} that were consumed",
            (webdataset_shuffles.remedy(self._loader) or _CAUSES) + self._note,
        )


def marks_in(stored: StoredPosition | None) -> Sequence[Any] | None:
    """Return the marks of a stored position; None where it has none that can be compared."""
    digests = (stored or {}).get("digests")
    return digests["marks"] if digests is not None and digests["form"] == _FORM else None


def are_digests(digests: object, *, batches: int) -> bool:
    """Return whether a value from a checkpoint has the form of `HandedOut.position()` after so many batches."""
    if not isinstance(digests, dict) or type(digests.get("form")) is not int:
        return False
    value = digests.get("marks")
    if digests["form"] != _FORM:
        return True
    if not isinstance(value, list) or not all(isinstance(mark, list) and len(mark) == 2 for mark in value):
        return False
    counts = [mark[0] for mark in value]
    if not all(type(count) is int and count >= 1 for count in counts) or counts != sorted(set(counts)):
        return False
    return counts[-1:] == [batches][: min(batches, 1)] and all(is_digest(mark[1]) for mark in value)


def is_digest(value: object) -> bool:
    """Return whether a value from a checkpoint is the hexadecimal digest of batches."""
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")
