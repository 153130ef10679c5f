"""Allocate host memory for staged bytes, and copy tensors into it. Independent of file images and objects.

A fresh page costs several times as much as a reused one, so memory is kept, and can be touched before its first use.
Forked loader workers do not inherit it: otherwise the first copy after a fork would duplicate every page.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from resumable.state.tensors.facts import TensorFacts, raw, tensor_digest
from resumable.utils.threads import in_lanes

# Small enough to keep two threads busy to the end. One thread is fastest with whole tensors, which bypass the caches.
COPY_PIECE_BYTES = 4 * 2**20

_ADVICE = ("MADV_HUGEPAGE", "MADV_DONTFORK")

# Windows has neither flags nor forks.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}

_live: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of a tensor, in row-major order, to the bytes of host memory `target` that begin at `start`."""

    target: Tensor
    start: int
    source: Tensor
    facts: TensorFacts

    @property
    def stop(self) -> int:
        return self.start + self.facts.nbytes


class Transfer(Protocol):
    """Copies tensors to the host; `begin`, `copy` and `finish` are called in this order, once per save.

    `copy` and `finish` may run in another thread than training; `hold` runs in the training thread, after `copy`.
    """

    def allocate(self, nbytes: int) -> Tensor:
        """Allocate `nbytes` bytes of host memory."""
        ...

    def begin(self) -> None:
        """Order the operations that training has enqueued so far before the copies that follow."""
        ...

    def copy(self, copies: Sequence[Copy], *, threads: int) -> None:
        """Make the copies, or enqueue them."""
        ...

    def hold(self) -> None:
        """Make later operations of training wait for enqueued copies; then training may overwrite the sources."""
        ...

    def finish(self) -> None:
        """Block until every byte is in host memory."""
        ...


class HostTransfer:
    """Copies tensors of the CPU, by threads that do not hold the GIL."""

    def allocate(self, nbytes: int) -> Tensor:
        return _aligned(nbytes)

    def begin(self) -> None:
        return

    def copy(self, copies: Sequence[Copy], *, threads: int) -> None:
        pieces: list[_Piece] = []
        for copy in copies:
            if _lies_as_stored(copy):
                pieces.extend(_pieces(copy, COPY_PIECE_BYTES if threads > 1 else copy.facts.nbytes))
            else:
                _place(copy).copy_(raw(copy.source))
        in_lanes(lambda piece: ctypes.memmove(*piece), pieces, threads)

    def hold(self) -> None:
        return

    def finish(self) -> None:
        return


class AcceleratorTransfer:
    """Copies tensors of an accelerator into pinned memory on a separate stream, concurrently with training."""

    def __init__(self, device: torch.device) -> None:
        self._host = HostTransfer()
        self._stream = torch.Stream(device)
        self._begun, self._done = torch.Event(device), torch.Event(device)

    def allocate(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def begin(self) -> None:
        self._begun.record(torch.accelerator.current_stream())

    def copy(self, copies: Sequence[Copy], *, threads: int) -> None:
        before = torch.accelerator.current_stream()
        torch.accelerator.set_stream(self._stream)
        try:
            self._stream.wait_event(self._begun)
            for copy in copies:
                if copy.source.device.type != "cpu":
                    _place(copy).copy_(raw(copy.source).contiguous(), non_blocking=True)
            self._done.record(self._stream)
        finally:
            torch.accelerator.set_stream(before)
        self._host.copy([copy for copy in copies if copy.source.device.type == "cpu"], threads=threads)

    def hold(self) -> None:
        torch.accelerator.current_stream().wait_event(self._done)

    def finish(self) -> None:
        self._done.synchronize()


def transfer_for(device: torch.device) -> Transfer:
    """Return the transfer for tensors of this device."""
    return AcceleratorTransfer(device) if device.type in ("cuda", "xpu") else HostTransfer()


def changed(copies: Sequence[tuple[Copy, str]], *, threads: int) -> list[Copy]:
    """Return the copies whose source differs from the given digest; reading costs half as much as copying."""
    differ = in_lanes(lambda pair: tensor_digest(pair[0].source) != pair[1], copies, threads)
    return [copy for (copy, _), differs in zip(copies, differ, strict=True) if differs]


def touch(memory: Tensor) -> None:
    """Touch every page of fresh memory before it is needed, without holding the GIL."""
    for start in range(0, memory.numel(), COPY_PIECE_BYTES):
        ctypes.memset(memory.data_ptr() + start, 0, min(COPY_PIECE_BYTES, memory.numel() - start))


def _aligned(nbytes: int) -> Tensor:
    """Allocate page-aligned memory, as direct writes require, which forked children do not inherit."""
    if not nbytes:
        return torch.empty(0, dtype=torch.uint8)
    pages = mmap.mmap(-1, nbytes, **_PRIVATE)
    for advice in _ADVICE:
        with suppress(OSError):  # the kernel may not support it
            if hasattr(mmap, advice):
                pages.madvise(getattr(mmap, advice))
    _live.add(pages)
    return torch.frombuffer(pages, dtype=torch.uint8)


def _keep_in_child() -> None:
    # The child may map something else at these addresses, which unmapping would destroy.
    for pages in _live:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(pages))  # also when the child's interpreter exits


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_keep_in_child)


class _Piece(NamedTuple):
    target: int
    source: int
    nbytes: int


def _lies_as_stored(copy: Copy) -> bool:
    source = copy.source
    return source.device.type == "cpu" and source.is_contiguous() and not (source.is_conj() or source.is_neg())


def _pieces(copy: Copy, most: int) -> Iterator[_Piece]:
    target, source = copy.target.data_ptr() + copy.start, copy.source.data_ptr()
    for start in range(0, copy.facts.nbytes, most):
        yield _Piece(target + start, source + start, min(most, copy.facts.nbytes - start))


def _place(copy: Copy) -> Tensor:
    flat = copy.target[copy.start : copy.stop]
    return raw(flat.view(copy.facts.torch_dtype)).view(copy.facts.shape)
