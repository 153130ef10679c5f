"""Copy tensors into images of safetensors files. Independent of storages and objects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resumable.state.staging.copies import Copies, CopyPlan
from resumable.state.staging.file_images import WINDOW_BYTES, FileImage, StagedImage, StreamedImage
from resumable.state.staging.host_memory import HostTransfer, Transfer, changed, settle, touch, transfer_for
from resumable.state.staging.slab_images import SlabImage, Slabs, SlabStager, StreamedSlabs, size_in_memory
from resumable.state.tensors.described import Description, addresses_of, description_of
from resumable.state.tensors.file_plan import FilePlan

_PAGE_BYTES = 4096
_LEAST_HALF_BYTES = 2 * 2**20  # smaller ones may be written through the page cache
_SPARE_BYTES = 2**16  # headers grow by some digits during training, and buffers are kept


@dataclass
class _Planned:
    """The plan of an image, and of the copies into it."""

    description: Description
    file: FilePlan
    copies: CopyPlan

    @classmethod
    def of(cls, description: Description) -> _Planned:
        plan = FilePlan.of(description.facts)
        slices = plan.layout.slices
        starts = [slices[key].start for key in description.facts]
        return cls(description, plan, CopyPlan(starts, [*description.facts.values()], description.memory))

    def fits(self, description: Description) -> bool:
        """Return whether the plan is that of tensors with this description."""
        if self.description is description:
            return True
        mine, facts = self.description.facts, description.facts
        return mine == facts and [*mine] == [*facts] and self.description.memory == description.memory


class Stager:
    """Keeps one host buffer per blob name and reuses it; in a steady state a save allocates nothing.

    So it does for the slabs of each object, which are of no blob before they are written.

    `transfer` copies bytes to the host; by default it is chosen once, by the devices of the first tensors.
    """

    def __init__(self, transfer: Transfer | None = None) -> None:
        self._transfer = transfer
        self._plans: dict[str, _Planned] = {}
        self._buffers: dict[str, Tensor] = {}
        self._staged: dict[str, StagedImage] = {}
        self._window: Tensor | None = None
        self._slabs = SlabStager()

    @property
    def nbytes(self) -> int:
        """The number of bytes of host memory that are kept."""
        window = self._window.numel() if self._window is not None else 0
        return window + self._slabs.nbytes + sum(buffer.numel() for buffer in self._buffers.values())

    def plan(self, name: str, tensors: Mapping[str, Tensor]) -> FilePlan:
        """Return the plan of the image of these tensors; the same object as before if nothing changed."""
        return self._planned(name, tensors).file

    def _planned(self, name: str, tensors: Mapping[str, Tensor]) -> _Planned:
        description = description_of(tensors)
        planned = self._plans.get(name)
        if planned is None or not planned.fits(description):
            planned = self._plans[name] = _Planned.of(description)
        return planned

    def needed(self, blobs: Mapping[str, Mapping[str, Tensor]]) -> int:
        """Return the size of the images of these tensors in bytes."""
        return sum(self.plan(name, tensors).layout.size for name, tensors in blobs.items())

    def begin(self, blobs: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Mark the boundary: the next `stage` copies these tensors as training leaves them now."""
        if self._transfer is None:
            away = [device for device in _devices(blobs.values()) if device.type != "cpu"]
            self._transfer = transfer_for(away[0] if away else torch.device("cpu"))
            if away:  # reserved for objects that were still on the host: each copy to such memory would block
                self._buffers = {name: buffer for name, buffer in self._buffers.items() if buffer.is_pinned()}
        self._transfer.begin()

    def stage(
        self,
        blobs: Mapping[str, Mapping[str, Tensor]],
        *,
        threads: int,
        likely_same: Collection[str] = (),
        copied: Callable[[], None] = lambda: None,
    ) -> dict[str, FileImage]:
        """Copy each blob's tensors into its image, and block until all bytes are there.

        Overwrites the images staged before under these names, which must be written to the storage by then.

        Args:
            blobs: The tensors of each blob.
            threads: The number of threads that copy.
            likely_same: Blobs whose tensors are digested first, so that only changed ones are copied.
            copied: Called before the block: training may continue after it, once `hold` has returned.
        """
        assert self._transfer is not None, "begin() comes first"
        self._keep_only(blobs)
        images: dict[str, StagedImage] = {}
        batches: list[Copies] = []
        for name, tensors in blobs.items():
            image, needed = self._image(name, tensors, compare=name in likely_same, threads=threads)
            images[name] = image
            batches.append(needed)
        self._transfer.copy(batches, threads=threads)
        copied()
        self._transfer.finish()
        self._staged.update(images)
        return dict(images)

    def stage_slabs(self, objects: Mapping[str, Slabs], *, threads: int) -> dict[str, SlabImage]:
        """Copy the slabs of each object into its image, where they differ, and block until all bytes are there."""
        assert self._transfer is not None, "begin() comes first"
        return self._slabs.stage(objects, self._transfer, threads=threads)

    def hold(self) -> None:
        """Make training wait for enqueued copies; afterwards it may change the copied tensors."""
        if self._transfer is not None:
            self._transfer.hold()

    def forget(self) -> None:
        """Discard the staged images, which were not published: the next image of each name is copied completely."""
        self._staged.clear()
        self._slabs.forget()

    def stream(
        self, blobs: Mapping[str, Mapping[str, Tensor]], objects: Mapping[str, Slabs], *, max_bytes: int | None
    ) -> tuple[dict[str, FileImage], dict[str, SlabImage]]:
        """Return images that are produced while they are read, through one window of at most `max_bytes`."""
        for device in _devices([*blobs.values(), *objects.values()]):
            settle(device)
        self._buffers.clear()
        self._staged.clear()
        self._slabs.clear()
        plans = {name: self.plan(name, tensors) for name, tensors in blobs.items()}
        sizes = [*(plan.layout.size for plan in plans.values()), *map(size_in_memory, objects.values())]
        windows = self._windows(max(sizes, default=0), max_bytes)
        images: dict[str, FileImage] = {name: StreamedImage(plan, blobs[name], windows) for name, plan in plans.items()}
        return images, {name: StreamedSlabs(slabs, windows) for name, slabs in objects.items()}

    def _windows(self, largest: int, max_bytes: int | None) -> Sequence[Tensor]:
        """Return the window, no larger than the largest file, in two halves if these are written directly."""
        most = min(WINDOW_BYTES, max_bytes or WINDOW_BYTES)
        needed = min(most // _PAGE_BYTES, -(-largest // _PAGE_BYTES)) * _PAGE_BYTES
        if self._window is None or self._window.numel() < needed:
            self._window = HostTransfer().allocate(needed)
        half = self._window.numel() // 2 // _PAGE_BYTES * _PAGE_BYTES
        return [self._window[:half], self._window[half:]] if half >= _LEAST_HALF_BYTES else [self._window]

    def prepare(self, blobs: Mapping[str, Mapping[str, Tensor]], objects: Mapping[str, Slabs]) -> Callable[[], None]:
        """Allocate the buffers of `stage` and `stage_slabs`; return a function that touches their pages.

        Any thread may call it.
        """
        self.begin(blobs)
        assert self._transfer is not None
        before = set(map(id, self._buffers.values()))
        for name, tensors in blobs.items():
            self._buffer(name, self.plan(name, tensors).layout.size, self._transfer)
        fresh = [buffer for buffer in self._buffers.values() if id(buffer) not in before]
        fresh += self._slabs.prepare(objects, self._transfer)

        def touch_all() -> None:
            for buffer in fresh:
                touch(buffer)

        return touch_all

    def reserve(self, sizes: Mapping[str, int], *, device: torch.device) -> dict[str, memoryview]:
        """Keep buffers for exactly these files of objects on `device`, and return the memory for each file's bytes.

        The next `stage`, `stream` or `prepare` uses the buffers, so what was written to them is undefined then.
        """
        transfer = self._transfer or transfer_for(device)
        for gone in self._buffers.keys() - sizes.keys():
            del self._buffers[gone]
        return {name: self._buffer(name, size, transfer)[:size].numpy().data for name, size in sizes.items()}

    def _keep_only(self, blobs: Collection[str]) -> None:
        """Free the buffers that no blob needs any longer, such as those of gradients or of a window."""
        for kept in (self._buffers, self._staged, self._plans):
            for gone in kept.keys() - set(blobs):
                del kept[gone]
        self._window = None

    def _image(
        self, name: str, tensors: Mapping[str, Tensor], *, compare: bool, threads: int
    ) -> tuple[StagedImage, Copies]:
        """Return the image that a blob will have, and the copies that complete it."""
        assert self._transfer is not None
        planned, before = self._planned(name, tensors), self._staged.pop(name, None)
        plan, buffer = planned.file, self._buffer(name, planned.file.layout.size, self._transfer)
        copies = Copies(buffer, planned.copies, [*tensors.values()], addresses_of(tensors))
        if before is None or before.plan is not plan or before.buffer is not buffer:
            _write_header(plan, buffer)
        elif compare:
            copies = changed(copies, [before.digests[key] for key in tensors], threads=threads)
            if not len(copies):
                return before.as_unchanged(), copies
        return StagedImage(plan, buffer), copies

    def _buffer(self, name: str, size: int, transfer: Transfer) -> Tensor:
        kept = self._buffers.get(name)
        if kept is None or not size <= kept.numel() <= 2 * size + _SPARE_BYTES:
            self._buffers.pop(name, None)
            spare = min(_SPARE_BYTES, size // 8)
            kept = self._buffers[name] = transfer.allocate(size + spare)
        return kept


def _devices(blobs: Iterable[Mapping[Any, Tensor]]) -> set[torch.device]:
    return {tensor.device for tensors in blobs for tensor in tensors.values()}


def _write_header(plan: FilePlan, buffer: Tensor) -> None:
    header = bytearray(plan.layout.header)
    buffer[: len(header)] = torch.frombuffer(header, dtype=torch.uint8)
