"""Allocate host memory for staged bytes, and make copies into it. Independent of file images and objects.

A fresh page costs several times as much as a reused one, so memory is kept, and can be touched before its first use.
Forked loader workers do not inherit it: otherwise the first copy after a fork would duplicate every page.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor

from resumable.state.staging.copies import COPY_PIECE_BYTES, Copies, Piece
from resumable.state.tensors.facts import raw, tensor_digest
from resumable.utils.threads import in_lanes

_ADVICE = ("MADV_HUGEPAGE", "MADV_DONTFORK")

# Windows has neither flags nor forks.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}

_live: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


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

    def copy(self, batches: Sequence[Copies], *, threads: int) -> None:
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

    def copy(self, batches: Sequence[Copies], *, threads: int) -> None:
        self.copy_from_host(batches, threads=threads)
        for batch in batches:
            for number in batch.plan.on_device:
                batch.place(number).copy_(raw(batch.sources[number]))

    def copy_from_host(self, batches: Sequence[Copies], *, threads: int) -> None:
        """Make the copies whose sources are on the host."""
        most = COPY_PIECE_BYTES if threads > 1 else None
        in_lanes(Piece.copy, [piece for batch in batches for piece in batch.pieces(most=most)], threads)
        for batch in batches:
            batch.copy_small()
            for number in batch.plan.otherwise:
                batch.place(number).copy_(raw(batch.sources[number]))

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

    def copy(self, batches: Sequence[Copies], *, threads: int) -> None:
        before = torch.accelerator.current_stream()
        torch.accelerator.set_stream(self._stream)
        try:
            self._stream.wait_event(self._begun)
            for batch in batches:
                for number in batch.plan.on_device:
                    batch.place(number).copy_(raw(batch.sources[number]).contiguous(), non_blocking=True)
            self._done.record(self._stream)
        finally:
            torch.accelerator.set_stream(before)
        self._host.copy_from_host(batches, threads=threads)

    def hold(self) -> None:
        torch.accelerator.current_stream().wait_event(self._done)

    def finish(self) -> None:
        self._done.synchronize()


def transfer_for(device: torch.device) -> Transfer:
    """Return the transfer for tensors of this device."""
    return AcceleratorTransfer(device) if device.type in ("cuda", "xpu") else HostTransfer()


def settle(device: torch.device) -> None:
    """Wait for what training has enqueued on this device: another thread reads there on a stream of its own."""
    if device.type in ("cuda", "xpu"):
        torch.accelerator.synchronize(device)


def changed(copies: Copies, digests: Sequence[str], *, threads: int) -> Copies:
    """Return the copies whose source is on a device, or on the host with another digest than the given one.

    Reading costs half as much as copying.
    """
    away = {*copies.plan.on_device}

    def differs(number: int) -> bool:
        return number in away or tensor_digest(copies.sources[number]) != digests[number]

    numbers = range(len(copies))
    pairs = zip(numbers, in_lanes(differs, numbers, threads), strict=True)
    return copies.part([number for number, is_other in pairs if is_other])


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
