"""Cut large tensors into slabs: runs of whole rows that are stored and shared one by one. Reads no bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from resumable.state.tensors.boxes import Box
from resumable.state.tensors.facts import TensorFacts, facts_of

PAGE_BYTES = 4096
MAX_SLABS = 32_768  # of one tensor; half of what readers accept, since slabs are rounded down to whole pages


class SlabSizes(NamedTuple):
    """The smallest tensor that is cut, and the size of a slab, both in bytes."""

    least_bytes: int
    slab_bytes: int


SLAB_SIZES = SlabSizes(64 * 2**20, 16 * 2**20)


class Slab(NamedTuple):
    """A run of whole rows of the row-major tensor `key`."""

    key: str
    dtype: str
    box: Box

    @property
    def facts(self) -> TensorFacts:
        """Return the facts of the rows as a tensor of their own."""
        return TensorFacts(self.dtype, self.box.shape)

    def of(self, tensor: Tensor) -> Tensor:
        """Return these rows of the live tensor, as a view."""
        first, rows = self.box.offsets[0], self.box.shape[0]
        return tensor.detach()[first : first + rows]


def slabs_of(key: str, tensor: Tensor, sizes: SlabSizes) -> list[Slab]:
    """Return the slabs of a tensor, in order; none if it is stored whole."""
    facts = facts_of(tensor)
    if facts.strides is not None or not facts.shape or facts.nbytes < sizes.least_bytes:
        return []
    rows = _rows(facts, sizes.slab_bytes)
    return list(_cut(key, facts, rows)) if rows < facts.shape[0] else []


def _rows(facts: TensorFacts, slab_bytes: int) -> int:
    """Return the rows of one slab, of whole pages if some rows are: then all slabs but the last can begin at a page."""
    row_bytes = facts.nbytes // facts.shape[0]
    rows = max(slab_bytes // row_bytes, math.ceil(facts.shape[0] / MAX_SLABS), 1)
    in_pages = PAGE_BYTES // math.gcd(PAGE_BYTES, row_bytes)
    return rows // in_pages * in_pages or rows


def _cut(key: str, facts: TensorFacts, rows: int) -> Iterator[Slab]:
    count, *rest = facts.shape
    for first in range(0, count, rows):
        box = Box((first, *(0 for _ in rest)), (min(rows, count - first), *rest))
        yield Slab(key, facts.dtype, box)
