"""Host memory for staged bytes, and how bytes get there from tensors; knows no file image and no object.

A fresh page costs several times a reused one, so memory is kept and can be touched ahead of its first use. It is left
out of forked loader workers: otherwise the first copy after each fork would pay for every page once more, and twice
the memory.
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

# Small enough to keep two threads busy to the end. One thread is fastest with whole tensors, which go past the caches.
COPY_PIECE_BYTES = 4 * 2**20

_ADVICE = ("MADV_HUGEPAGE", "MADV_DONTFORK")

_live: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Copy:
    """One tensor on its way to the bytes from `start` on in the host memory `target`, in row-major order."""

    target: Tensor
    start: int
    source: Tensor
    facts: TensorFacts

    @property
    def stop(self) -> int:
        return self.start + self.facts.nbytes


class Transfer(Protocol):
    """How bytes get from tensors to the host. `begin`, `copy` and `finish` are called in this order, once per save.

    `copy` and `finish` may run in another thread than the training's; `hold` runs in the training's, after `copy`.
    """

    def allocate(self, nbytes: int) -> Tensor:
        """Memory of the host for as many bytes."""
        ...

    def begin(self) -> None:
        """What training has asked for so far comes before what is copied from now on."""
        ...

    def copy(self, copies: Sequence[Copy], *, threads: int) -> None:
        """Copy, or ask for the copies to be made."""
        ...

    def hold(self) -> None:
        """From here on training may overwrite the sources."""
        ...

    def finish(self) -> None:
        """Block until every byte is in the host's memory."""
        ...


class HostTransfer:
    """Tensors of the CPU: memory is copied to memory, by threads that do not hold Python's lock meanwhile."""

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
    """Tensors of an accelerator: copied into pinned memory on a stream of its own, beside what training does there."""

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
    """How tensors of this device are best brought to the host."""
    return AcceleratorTransfer(device) if device.type in ("cuda", "xpu") else HostTransfer()


def changed(copies: Sequence[tuple[Copy, str]], *, threads: int) -> list[Copy]:
    """Those copies whose source has not the digest that stands beside it: reading costs half of copying."""
    differ = in_lanes(lambda pair: tensor_digest(pair[0].source) != pair[1], copies, threads)
    return [copy for (copy, _), differs in zip(copies, differ, strict=True) if differs]


def touch(memory: Tensor) -> None:
    """Have every page of fresh memory there before it is needed; holds no lock of Python's."""
    for start in range(0, memory.numel(), COPY_PIECE_BYTES):
        ctypes.memset(memory.data_ptr() + start, 0, min(COPY_PIECE_BYTES, memory.numel() - start))


def _aligned(nbytes: int) -> Tensor:
    """Memory that begins with a page, as direct writes want it, and that no forked child shares."""
    if not nbytes:
        return torch.empty(0, dtype=torch.uint8)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for advice in _ADVICE:
        with suppress(OSError):  # a kernel that does not know it
            if hasattr(mmap, advice):
                pages.madvise(getattr(mmap, advice))
    _live.add(pages)
    return torch.frombuffer(pages, dtype=torch.uint8)


def _keep_in_child() -> None:
    # There the addresses belong to nobody, and soon to somebody else: unmapping them would hit that.
    for pages in _live:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(pages))  # also when the interpreter of the child ends


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
