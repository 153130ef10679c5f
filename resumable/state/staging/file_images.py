"""Images of safetensors files: complete in host memory, or produced window by window while they are read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import xxhash
from torch import Tensor

from resumable.state.tensors.facts import TensorFacts, bytes_of, tensor_digest
from resumable.state.tensors.file_plan import FilePlan
from resumable.state.tensors.nonfinite import nonfinite_in_image, nonfinite_live
from resumable.state.tensors.safetensors_layout import Slice

WINDOW_BYTES = 32 * 2**20


class FileImage(Protocol):
    """The complete file that will be written: `size` bytes, which each iteration of `chunks` yields in order."""

    @property
    def facts(self) -> Mapping[str, TensorFacts]: ...
    @property
    def slices(self) -> Mapping[str, Slice]:
        """The location of each tensor in the file."""
        ...

    @property
    def size(self) -> int: ...
    @property
    def chunks(self) -> Iterable[memoryview]: ...
    @property
    def unchanged(self) -> bool:
        """True if every byte equals that of the previous image under this name."""
        ...

    @property
    def shares_memory(self) -> bool:
        """True if several images share the memory of their chunks, so that only one may be read at a time."""
        ...

    @property
    def digests(self) -> Mapping[str, str]:
        """The XXH3-128 (hex) of each tensor's bytes, equal to its `tensor_digest` at the instant of capture."""
        ...

    @property
    def broken(self) -> Iterable[str]:
        """The keys of floating-point tensors whose first element is not finite."""
        ...


@dataclass(frozen=True)
class _PlannedImage:
    """The part of an image that its plan determines."""

    plan: FilePlan

    @property
    def facts(self) -> Mapping[str, TensorFacts]:
        return self.plan.facts

    @property
    def slices(self) -> Mapping[str, Slice]:
        return self.plan.layout.slices

    @property
    def size(self) -> int:
        return self.plan.layout.size


@dataclass(frozen=True)
class StagedImage(_PlannedImage):
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
        return nonfinite_in_image(self.buffer, self.facts, self.plan.layout.slices)

    def as_unchanged(self) -> StagedImage:
        """Return the same image, marked as unchanged, with the digests that were computed for it."""
        image = StagedImage(self.plan, self.buffer, unchanged=True)
        image.__dict__["digests"] = self.digests
        return image


@dataclass(frozen=True)
class StreamedImage(_PlannedImage):
    """An image that is produced in `window`, piece by piece; training must pause while it is read."""

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
        return nonfinite_live(self.tensors)

    def parts(self) -> Iterator[memoryview]:
        """Yield the bytes of the file, header first."""
        yield memoryview(self.plan.layout.header)
        for key in self.plan.layout.slices:
            yield bytes_of(self.tensors[key])


class Windows:
    """The bytes of a file that is produced in `parts`: full windows and a rest, all in the same memory."""

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
