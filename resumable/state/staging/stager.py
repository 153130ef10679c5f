"""Brings tensors into images of safetensors files, in host memory or in passing; knows no storage and no object."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import xxhash
from torch import Tensor

from resumable.state.staging.host_memory import Copy, HostTransfer, Transfer, changed, touch, transfer_for
from resumable.state.tensors.facts import TensorFacts, bytes_of, facts_of, tensor_digest
from resumable.state.tensors.nonfinite import broken_in_image, broken_of_live
from resumable.state.tensors.safetensors_layout import Layout

CHUNK_BYTES = 32 * 2**20
_PAGE_BYTES = 4096
_SPARE_BYTES = 2**16  # headers grow by some digits while training goes on, and memory is kept


@dataclass(frozen=True)
class Plan:
    """What the file of some tensors will look like, before there is a byte of it."""

    facts: dict[str, TensorFacts]
    layout: Layout

    @classmethod
    def of(cls, facts: dict[str, TensorFacts], *, metadata: Mapping[str, str] | None = None) -> Plan:
        """The one file that this program writes for such tensors, in this order; `ValueError` beyond any reader."""
        # Widest first also by torch's own item size: a complex128 among float64 must begin at a multiple of 16. Small
        # ones side by side: one read brings them all.
        ordered = sorted(facts.items(), key=lambda item: (-item[1].torch_dtype.itemsize, -item[1].nbytes))
        entries = ((key, *fact.stored_as, fact.nbytes) for key, fact in ordered)
        return cls(facts, Layout(entries, metadata=metadata))


class Image(Protocol):
    """A whole file to be: `size` bytes, which `chunks` gives one after the other, each time the same."""

    @property
    def facts(self) -> Mapping[str, TensorFacts]: ...
    @property
    def size(self) -> int: ...
    @property
    def chunks(self) -> Iterable[memoryview]: ...
    @property
    def unchanged(self) -> bool:
        """Whether every byte is known to be that of the image before of this name."""
        ...

    @property
    def shares_memory(self) -> bool:
        """Whether the chunks of several images lie in the same memory, so that only one may be read at a time."""
        ...

    @property
    def digests(self) -> Mapping[str, str]:
        """XXH3-128 (hex) of each tensor's bytes, equal to `tensor_digest` of the tensor at the instant of capture."""
        ...

    @property
    def broken(self) -> Iterable[str]:
        """Return the keys of floating-point tensors that are not finite, by their first elements alone."""
        ...


@dataclass(frozen=True)
class _Planned:
    """What is known of an image before there is a byte of it."""

    plan: Plan

    @property
    def facts(self) -> Mapping[str, TensorFacts]:
        return self.plan.facts

    @property
    def size(self) -> int:
        return self.plan.layout.size


@dataclass(frozen=True)
class Staged(_Planned):
    """An image in host memory, valid until its name is staged again."""

    buffer: Tensor
    unchanged: bool = False
    shares_memory: bool = False

    @property
    def chunks(self) -> Iterable[memoryview]:
        return [self.buffer[: self.size].numpy().data]

    @functools.cached_property
    def digests(self) -> Mapping[str, str]:
        view = self.buffer.numpy().data
        places = self.plan.layout.slices.items()
        return {key: xxhash.xxh3_128_hexdigest(view[place.start : place.end]) for key, place in places}

    @property
    def broken(self) -> Iterable[str]:
        return broken_in_image(self.buffer, self.facts, self.plan.layout.slices)


@dataclass(frozen=True)
class Streamed(_Planned):
    """An image that exists in `window` only, piece by piece; training must stand still while it is read."""

    tensors: Mapping[str, Tensor]
    window: Tensor
    unchanged: bool = False
    shares_memory: bool = True

    @property
    def chunks(self) -> Iterable[memoryview]:
        return Windows(self.parts, self.window)

    @functools.cached_property
    def digests(self) -> Mapping[str, str]:
        return {key: tensor_digest(tensor) for key, tensor in self.tensors.items()}

    @property
    def broken(self) -> Iterable[str]:
        return broken_of_live(self.tensors)

    def parts(self) -> Iterator[memoryview]:
        """The bytes of the file, header first."""
        yield memoryview(self.plan.layout.header)
        for key in self.plan.layout.slices:
            yield bytes_of(self.tensors[key])


class Windows:
    """The bytes of a file that comes in `parts`: full windows and a rest, in memory that is used over and over."""

    def __init__(self, parts: Callable[[], Iterable[memoryview]], window: Tensor) -> None:
        self._parts = parts
        self._window = window

    def __iter__(self) -> Iterator[memoryview]:
        window = self._window.numpy().data
        filled = 0
        for part in self._parts():
            done = 0
            while done < len(part):
                piece = part[done : done + len(window) - filled]
                window[filled : filled + len(piece)] = piece
                done, filled = done + len(piece), filled + len(piece)
                if filled == len(window):
                    yield window
                    filled = 0
        if filled:
            yield window[:filled]


class Stager:
    """Keeps one host buffer per blob name and reuses it; in a steady state a save allocates nothing.

    `transfer` says how bytes get to the host; by default that is chosen once, by where the first tensors are.
    """

    def __init__(self, transfer: Transfer | None = None) -> None:
        self._transfer = transfer
        self._plans: dict[str, Plan] = {}
        self._buffers: dict[str, Tensor] = {}
        self._staged: dict[str, Staged] = {}
        self._window: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """How much host memory is kept."""
        window = self._window.numel() if self._window is not None else 0
        return window + sum(buffer.numel() for buffer in self._buffers.values())

    def plan(self, name: str, tensors: Mapping[str, Tensor]) -> Plan:
        """What the image of these tensors will look like; the very plan of before where that is the same."""
        facts = {key: facts_of(tensor) for key, tensor in tensors.items()}
        before = self._plans.get(name)
        if before is None or before.facts != facts or list(before.facts) != list(facts):
            before = self._plans[name] = Plan.of(facts)
        return before

    def needed(self, blobs: Mapping[str, Mapping[str, Tensor]]) -> int:
        """How many bytes the images of these tensors take up."""
        return sum(self.plan(name, tensors).layout.size for name, tensors in blobs.items())

    def begin(self, blobs: Mapping[str, Mapping[str, Tensor]]) -> None:
        """At the boundary: what is staged next are these tensors as training leaves them now."""
        if self._transfer is None:
            devices = {tensor.device for tensors in blobs.values() for tensor in tensors.values()}
            away = [device for device in devices if device.type != "cpu"]
            self._transfer = transfer_for(away[0] if away else torch.device("cpu"))
        self._transfer.begin()

    def stage(
        self,
        blobs: Mapping[str, Mapping[str, Tensor]],
        *,
        threads: int,
        likely_same: Collection[str] = (),
        copied: Callable[[], None] = lambda: None,
    ) -> dict[str, Image]:
        """Copy each blob's tensors into its image; blocks until all bytes are there, and calls `copied` before that.

        Overwrites the images staged before under these names: those must have been written by now. Of `likely_same`
        blobs the tensors are digested and compared first, and only those that changed are copied. After `copied`,
        training may go on once `hold` has returned.
        """
        assert self._transfer is not None, "begin() comes first"
        self._keep_only(blobs)
        images: dict[str, Staged] = {}
        copies: list[Copy] = []
        for name, tensors in blobs.items():
            image, needed = self._image(name, tensors, compare=name in likely_same, threads=threads)
            images[name] = image
            copies += needed
        self._transfer.copy(copies, threads=threads)
        copied()
        self._transfer.finish()
        self._staged.update(images)
        return dict(images)

    def hold(self) -> None:
        """After the copies were made, or asked for: from here on training may change what was copied."""
        if self._transfer is not None:
            self._transfer.hold()

    def forget(self) -> None:
        """What is staged came to nothing: the next image of each name is made whole."""
        self._staged.clear()

    def stream(self, blobs: Mapping[str, Mapping[str, Tensor]], *, max_bytes: int) -> dict[str, Image]:
        """Images that are made while they are read, through one window of at most `max_bytes`, which alone is kept."""
        self._buffers.clear()
        self._staged.clear()
        if self._window is None:
            self._window = HostTransfer().allocate(min(max_bytes, CHUNK_BYTES) // _PAGE_BYTES * _PAGE_BYTES)
        return {name: Streamed(self.plan(name, tensors), tensors, self._window) for name, tensors in blobs.items()}

    def prepare(self, blobs: Mapping[str, Mapping[str, Tensor]]) -> Callable[[], None]:
        """Allocate what `stage` will need; the result touches its pages, which takes a while and may run elsewhere."""
        self.begin(blobs)
        before = set(map(id, self._buffers.values()))
        for name, tensors in blobs.items():
            self._buffer(name, self.plan(name, tensors).layout.size)
        fresh = [buffer for buffer in self._buffers.values() if id(buffer) not in before]

        def touch_all() -> None:
            for buffer in fresh:
                touch(buffer)

        return touch_all

    def _keep_only(self, blobs: Collection[str]) -> None:
        """Give back what no blob needs any more: gradients that once waited, a window."""
        for kept in (self._buffers, self._staged, self._plans):
            for gone in kept.keys() - set(blobs):
                del kept[gone]
        self._window = None

    def _image(
        self, name: str, tensors: Mapping[str, Tensor], *, compare: bool, threads: int
    ) -> tuple[Staged, list[Copy]]:
        plan, before = self.plan(name, tensors), self._staged.pop(name, None)
        buffer = self._buffer(name, plan.layout.size)
        slices = plan.layout.slices
        copies = {key: Copy(buffer, slices[key].start, tensor, plan.facts[key]) for key, tensor in tensors.items()}
        copies = {key: copy for key, copy in copies.items() if copy.facts.nbytes}
        same_place = before is not None and before.plan is plan and before.buffer is buffer
        if not same_place:
            header = bytearray(plan.layout.header)
            buffer[: len(header)] = torch.frombuffer(header, dtype=torch.uint8)
        if before is None or not same_place or not compare:
            return Staged(plan, buffer), list(copies.values())
        here = [copy for copy in copies.values() if copy.source.device.type == "cpu"]
        away = [copy for copy in copies.values() if copy.source.device.type != "cpu"]
        known = {id(copy): before.digests[key] for key, copy in copies.items()}
        needed = away + changed([(copy, known[id(copy)]) for copy in here], threads=threads)
        return (Staged(plan, buffer), needed) if needed else (_still(before), [])

    def _buffer(self, name: str, size: int) -> Tensor:
        kept = self._buffers.get(name)
        if kept is None or not size <= kept.numel() <= 2 * size + _SPARE_BYTES:
            assert self._transfer is not None
            self._buffers.pop(name, None)
            spare = min(_SPARE_BYTES, size // 8)
            kept = self._buffers[name] = self._transfer.allocate(size + spare)
        return kept


def _still(before: Staged) -> Staged:
    """The same image once more, with the digests that are known of it."""
    image = Staged(before.plan, before.buffer, unchanged=True)
    image.__dict__["digests"] = before.digests
    return image
