"""Copies of tensors to host memory: planned once per structure, made by one call for all small tensors."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from resumable.state.tensors.described import Memory
from resumable.state.tensors.facts import TensorFacts, raw

# Small enough to keep two threads busy to the end. One thread is fastest with whole tensors, which bypass the caches.
COPY_PIECE_BYTES = 4 * 2**20
# Copying so few bytes takes less time than Python needs to hand them to another thread.
SMALL_BYTES = 16 * 2**10

# `memmove` that keeps the GIL: another thread that got it between two small tensors would keep it for 5 ms.
_memmove_held = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(
    ctypes.cast(ctypes.memmove, ctypes.c_void_p).value or 0
)


class CopyPlan:
    """The start of each tensor in an image, and the way in which it is copied, by its number."""

    def __init__(self, starts: Sequence[int], facts: Sequence[TensorFacts], memory: Sequence[Memory]) -> None:
        self.starts, self.facts, self.memory = starts, facts, memory
        self.on_device = self._with(Memory.DEVICE)
        self.otherwise = self._with(Memory.OTHERWISE)
        stored = self._with(Memory.AS_STORED)
        self.large = [number for number in stored if facts[number].nbytes > SMALL_BYTES]
        self.small = [number for number in stored if facts[number].nbytes <= SMALL_BYTES]
        self.small_starts = [starts[number] for number in self.small]
        self.small_sizes = [facts[number].nbytes for number in self.small]

    def part(self, numbers: Sequence[int]) -> CopyPlan:
        """Return the plan of the tensors with these numbers."""
        starts, facts = [self.starts[number] for number in numbers], [self.facts[number] for number in numbers]
        return CopyPlan(starts, facts, [self.memory[number] for number in numbers])

    def _with(self, memory: Memory) -> list[int]:
        return [number for number, each in enumerate(self.memory) if each is memory and self.facts[number].nbytes]


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies of tensors, in row-major order, into the host memory `target`."""

    target: Tensor
    plan: CopyPlan
    sources: Sequence[Tensor]
    addresses: Sequence[int]  # of the sources

    def __len__(self) -> int:
        return len(self.sources)

    def part(self, numbers: Sequence[int]) -> Copies:
        """Return the copies with these numbers."""
        sources, addresses = [self.sources[each] for each in numbers], [self.addresses[each] for each in numbers]
        return Copies(self.target, self.plan.part(numbers), sources, addresses)

    def place(self, number: int) -> Tensor:
        """Return the view of the target that gets the bits of this source."""
        facts, start = self.plan.facts[number], self.plan.starts[number]
        return raw(self.target[start : start + facts.nbytes].view(facts.torch_dtype)).view(facts.shape)

    def pieces(self, *, most: int | None) -> Iterator[Piece]:
        """Yield the large sources in pieces of at most `most` bytes; with None, whole."""
        for number in self.plan.large:
            nbytes = self.plan.facts[number].nbytes
            target = self.target.data_ptr() + self.plan.starts[number]
            source = self.addresses[number]
            for start in range(0, nbytes, most or nbytes):
                yield Piece(target + start, source + start, min(most or nbytes, nbytes - start))

    def copy_small(self) -> None:
        """Copy all small sources, without a line of Python for each."""
        plan, base = self.plan, self.target.data_ptr()
        targets = [base + start for start in plan.small_starts]
        sources = [self.addresses[number] for number in plan.small]
        deque(map(_memmove_held, targets, sources, plan.small_sizes), maxlen=0)


class Piece(NamedTuple):
    """Bytes to copy: two addresses and a size."""

    target: int
    source: int
    nbytes: int

    def copy(self) -> None:
        """Copy the bytes, without the GIL."""
        ctypes.memmove(self.target, self.source, self.nbytes)
