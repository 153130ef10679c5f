"""Images of the slabs of an object: complete in host memory, or read out of the live tensors."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import xxhash
from torch import Tensor

from resumable.state.staging.copies import Copies, CopyPlan
from resumable.state.staging.file_images import Windows
from resumable.state.staging.host_memory import Transfer
from resumable.state.tensors.described import memory_of
from resumable.state.tensors.facts import bytes_of, tensor_digest
from resumable.state.tensors.slabs import PAGE_BYTES, Slab
from resumable.utils.threads import in_lanes

Slabs = Mapping[Slab, Tensor]
"""The live rows of each slab of one object."""


class SlabImage(Protocol):
    """All slabs of one object, of which any may be written."""

    @property
    def shares_memory(self) -> bool:
        """True if several images share the memory of their chunks, so that only one may be read at a time."""
        ...

    @property
    def digests(self) -> Mapping[Slab, str]:
        """The XXH3-128 (hex) of each slab's bytes."""
        ...

    def chunks(self, header: bytes, slabs: Sequence[Slab]) -> Iterable[memoryview]:
        """Return the bytes of a file of these slabs, which yields the same bytes at each iteration."""
        ...


@dataclass(frozen=True)
class StagedSlabs:
    """All slabs in host memory, each from its place in `starts` on; valid until its object is staged again.

    `known` are the digests of slabs that equal those of the image before; `before` are the digests of that.
    """

    starts: Mapping[Slab, int]
    buffer: Tensor
    known: Mapping[Slab, str]
    before: Mapping[Slab, str]
    shares_memory: bool = False

    @functools.cached_property
    def digests(self) -> Mapping[Slab, str]:
        return {
            slab: self.known[slab] if slab in self.known else xxhash.xxh3_128_hexdigest(self._content(slab))
            for slab in self.starts
        }

    @property
    def changed(self) -> set[Slab]:
        """Return the slabs that differ from the image before."""
        return {slab for slab, digest in self.digests.items() if self.before.get(slab, digest) != digest}

    def chunks(self, header: bytes, slabs: Sequence[Slab]) -> Iterable[memoryview]:
        return [memoryview(header), *map(self._content, slabs)]

    def _content(self, slab: Slab) -> memoryview:
        start = self.starts[slab]
        return self.buffer.numpy().data[start : start + slab.facts.nbytes]


@dataclass(frozen=True)
class StreamedSlabs:
    """All slabs in the live tensors, read through `windows`; training must pause while they are read."""

    slabs: Slabs
    windows: Sequence[Tensor]
    shares_memory: bool = True

    @functools.cached_property
    def digests(self) -> Mapping[Slab, str]:
        return {slab: tensor_digest(rows) for slab, rows in self.slabs.items()}

    def chunks(self, header: bytes, slabs: Sequence[Slab]) -> Iterable[memoryview]:
        def parts() -> Iterator[memoryview]:
            yield memoryview(header)
            yield from (bytes_of(self.slabs[slab]) for slab in slabs)

        return Windows(parts, self.windows)


class SlabStager:
    """Keeps one host buffer per object, which holds all of its slabs, and copies only what may have changed."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._staged: dict[str, StagedSlabs] = {}

    @property
    def nbytes(self) -> int:
        """The number of bytes of host memory that are kept."""
        return sum(buffer.numel() for buffer in self._buffers.values())

    def stage(self, objects: Mapping[str, Slabs], transfer: Transfer, *, threads: int) -> dict[str, SlabImage]:
        """Bring the slabs of each object into its image, and block until all bytes are there.

        A slab that did not change at the last save is digested first. Overwrites the images staged before under these
        names. `transfer` has begun.
        """
        self._keep_only(objects)
        if not objects:
            return {}  # without a wait for the device
        images: dict[str, StagedSlabs] = {}
        batches: list[Copies] = []
        for name, slabs in objects.items():
            images[name], needed = self._image(name, slabs, transfer, threads)
            batches.append(needed)
        transfer.copy(batches, threads=threads)
        transfer.finish()
        self._staged.update(images)
        return dict(images)

    def prepare(self, objects: Mapping[str, Slabs], transfer: Transfer) -> list[Tensor]:
        """Allocate the buffers of `stage`; return the fresh ones."""
        return [
            self._buffer(name, size, transfer)
            for name, size in ((name, _starts(slabs)[1]) for name, slabs in objects.items())
            if not self._fits(name, size)
        ]

    def forget(self) -> None:
        """Discard the images, which were not published: the next one of each object is copied completely."""
        self._staged.clear()

    def clear(self) -> None:
        """Free all memory."""
        self._keep_only({})

    def _keep_only(self, objects: Mapping[str, Slabs]) -> None:
        for kept in (self._buffers, self._staged):
            for gone in kept.keys() - objects.keys():
                del kept[gone]

    def _image(self, name: str, slabs: Slabs, transfer: Transfer, threads: int) -> tuple[StagedSlabs, Copies]:
        """Return the image that an object will have, and the copies that complete it."""
        starts, size = _starts(slabs)
        before = self._staged.pop(name, None)
        buffer = self._buffer(name, size, transfer)
        known: dict[Slab, str] = {}
        if before is not None and before.starts == starts and before.buffer is buffer:
            known = _unchanged(slabs, before, threads)
        copies = _copies(buffer, starts, {slab: rows for slab, rows in slabs.items() if slab not in known})
        return StagedSlabs(starts, buffer, known, before.digests if before is not None else {}), copies

    def _fits(self, name: str, size: int) -> bool:
        kept = self._buffers.get(name)
        return kept is not None and size <= kept.numel() <= 2 * size

    def _buffer(self, name: str, size: int, transfer: Transfer) -> Tensor:
        if not self._fits(name, size):
            self._buffers.pop(name, None)
            self._buffers[name] = transfer.allocate(size)
        return self._buffers[name]


def size_in_memory(slabs: Slabs) -> int:
    """Return the size of the image of these slabs in bytes."""
    return _starts(slabs)[1]


def _copies(buffer: Tensor, starts: Mapping[Slab, int], slabs: Slabs) -> Copies:
    rows = [*slabs.values()]
    plan = CopyPlan([starts[slab] for slab in slabs], [slab.facts for slab in slabs], [*map(memory_of, rows)])
    return Copies(buffer, plan, rows, [*map(Tensor.data_ptr, rows)])


def _unchanged(slabs: Slabs, before: StagedSlabs, threads: int) -> dict[Slab, str]:
    """Return the digests of the slabs that equal those of the image before, of those that did not change at that."""
    changed = before.changed
    likely = [slab for slab, rows in slabs.items() if slab not in changed and rows.device.type == "cpu"]
    digests = in_lanes(lambda slab: tensor_digest(slabs[slab]), likely, threads)
    return {slab: digest for slab, digest in zip(likely, digests, strict=True) if digest == before.digests[slab]}


def _starts(slabs: Iterable[Slab]) -> tuple[dict[Slab, int], int]:
    """Return where each slab begins in an image, at a page, and the size of that."""
    starts: dict[Slab, int] = {}
    end = 0
    for slab in slabs:
        starts[slab] = end
        end += -(-slab.facts.nbytes // PAGE_BYTES) * PAGE_BYTES
    return starts, end
