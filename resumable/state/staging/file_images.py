"""Images of safetensors files: complete in host memory, or produced window by window while they are read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Protocol

import xxhash
from torch import Tensor

from resumable.state.tensors.facts import TensorFacts, byte_pieces
from resumable.state.tensors.file_plan import FilePlan
from resumable.state.tensors.nonfinite import nonfinite_in_image, nonfinite_live
from resumable.state.tensors.safetensors_layout import Slice
from resumable.utils.threads import ahead

WINDOW_BYTES = 32 * 2**20
CACHED_BYTES = 256 * 2**10  # fits into the cache of one core, beside where it is copied to


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
        """The XXH3-128 (hex) of each tensor's bytes, equal to its `tensor_digest` at the instant of capture.

        Those of an image that is produced while it is read are known once its `chunks` were read to the end.
        """
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
    windows: Sequence[Tensor]
    unchanged: bool = False
    shares_memory: bool = True
    _digests: dict[str, str] = field(default_factory=dict)  # of the tensors that the last iteration has passed

    @property
    def chunks(self) -> Iterable[memoryview]:
        return Windows(self.parts, self.windows)

    @property
    def digests(self) -> Mapping[str, str]:
        if self._digests.keys() != self.plan.layout.slices.keys():
            raise RuntimeError("the digests of a streamed image are known once it was read to the end")
        return self._digests

    @property
    def broken(self) -> Iterable[str]:
        return nonfinite_live(self.tensors)

    def parts(self) -> Iterator[memoryview]:
        """Yield the bytes of the file, header first; digest each piece once it was taken, while it is in the cache."""
        self._digests.clear()
        yield memoryview(self.plan.layout.header)
        for key in self.plan.layout.slices:
            digest = xxhash.xxh3_128()
            for piece in byte_pieces(self.tensors[key], CACHED_BYTES):
                yield piece
                digest.update(piece)
            self._digests[key] = digest.hexdigest()


class Windows:
    """The bytes of a file that is produced in `parts`: full windows and a rest, in the memory of `windows` in turn.

    With several windows the next one is filled while the one before is used.
    """

    def __init__(self, parts: Callable[[], Iterable[memoryview]], windows: Sequence[Tensor]) -> None:
        self._parts = parts
        self._windows = windows

    def __iter__(self) -> Iterator[memoryview]:
        return ahead(self._filled()) if len(self._windows) > 1 else self._filled()

    def _filled(self) -> Iterator[memoryview]:
        windows = cycle([window.numpy().data for window in self._windows])
        window, filled = next(windows), 0
        for part in self._parts():
            done = 0
            while done < len(part):
                piece = part[done : done + len(window) - filled]
                window[filled : filled + len(piece)] = piece
                done, filled = done + len(piece), filled + len(piece)
                if filled == len(window):
                    yield window
                    window, filled = next(windows), 0
        if filled:
            yield window[:filled]
