"""Read the pieces of tensors straight into their memory, and verify them. Independent of storages.

Each byte is read once, into its final memory, and digested while it is in the cache. The records say where each piece
lies, so that no header is read. A wrong read is repeated before it counts as damage (`utils/reread.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import xxhash
from torch import Tensor

from resumable.state.files.read_targets import targets_of
from resumable.state.tensors.facts import Recorded, TensorFacts, copy_bits, empty, facts_of
from resumable.state.tensors.record_checks import checked_locations, refuse_other_bools, with_aliases
from resumable.state.tensors.records import Piece, TensorRecord
from resumable.state.tensors.safetensors_layout import Slice
from resumable.utils.reread import Cached, reread
from resumable.utils.threads import in_lanes


class Readable(Cached, Protocol):
    """One file, wherever it is stored."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def readers(self) -> int:
        """The number of threads that read faster than one."""

    @property
    def range_bytes(self) -> int:
        """The preferred number of bytes per read."""

    def read(self, buffer: memoryview, offset: int, seen: Callable[[memoryview, int], None] | None = None) -> None:
        """Fill all of `buffer`, or raise; call `seen` with each part in order, again from the first after a retry."""


class MaybeDigested(Recorded, Protocol):
    """A record of a tensor that may have no digest."""

    @property
    def digest(self) -> str | None: ...


def read_tensors(
    sources: Mapping[str, Readable],
    records: Mapping[str, TensorRecord],
    *,
    into: Mapping[str, Tensor],
    keys: Collection[str],
) -> dict[str, Tensor]:
    """Return the tensors `keys` of an object, each in its own memory, and for all other keys the tensors of `into`.

    A tensor of `into` with equal facts, in host memory that it does not share, is filled in place and returned itself.
    `sources` are the files by the names in the records, whose pieces are all located.

    Raises:
        ValueError: A tensor's bytes differ from those that were saved; the contents of filled tensors are undefined.
    """
    try:
        return with_aliases(_read(sources, records, into, keys), records)
    except (RuntimeError, OverflowError) as error:  # torch raises these for an impossible size
        raise ValueError(str(error)) from error


def read_tensor(sources: Mapping[str, Readable], key: str, record: TensorRecord) -> Tensor:
    """Return one tensor in its own memory; for states beyond memory. `sources` and errors as above."""
    try:
        target = empty(TensorFacts.recorded(record))
        _run_tasks(sources, _piece_reads(key, record, target))
    except (RuntimeError, OverflowError) as error:  # torch raises these for an impossible size
        raise ValueError(str(error)) from error
    return target


def read_pieces(sources: Mapping[str, Readable], key: str, pieces: Iterable[tuple[Piece, Tensor]]) -> None:
    """Read whole pieces of one tensor, each into the tensor beside it, and verify them. `sources` and errors as above.

    Args:
        sources: The files by the names in the pieces.
        key: The key of the tensor, for messages.
        pieces: Located pieces, each with a tensor of its dtype and shape.
    """
    _run_tasks(sources, [_piece_read(key, piece, target) for piece, target in pieces])


def read_placed(
    source: Readable,
    slices: Mapping[str, Slice],
    records: Mapping[str, MaybeDigested],
    *,
    into: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the tensors of `records` from one file whose verified header contains `slices`; `into` as above.

    Raises:
        ValueError: A tensor's bytes differ from the digest of its record. A tensor without a digest is not verified.
    """
    try:
        places = checked_locations([slices], records)
        targets = targets_of(into or {}, {key: facts for key, (_, _, facts) in places.items()})
    except (RuntimeError, OverflowError) as error:  # torch raises these for an impossible size
        raise ValueError(str(error)) from error
    parts = [
        _PieceRead(source.name, key, place.start, targets[key], records[key].digest)
        for key, (_, place, _) in places.items()
    ]
    _run_tasks({source.name: source}, parts)
    return targets


def _read(
    sources: Mapping[str, Readable],
    records: Mapping[str, TensorRecord],
    into: Mapping[str, Tensor],
    keys: Collection[str],
) -> dict[str, Tensor]:
    own = {key: record for key, record in records.items() if record.alias is None}
    targets = targets_of(into, {key: TensorFacts.recorded(record) for key, record in own.items() if key in keys})
    _run_tasks(sources, [read for key, target in targets.items() for read in _piece_reads(key, own[key], target)])
    return {key: into[key] for key in own if key not in keys} | targets


def _piece_reads(key: str, record: TensorRecord, target: Tensor) -> Iterator[_PieceRead]:
    for piece in record.pieces:
        yield _piece_read(key, piece, target if piece.box is None else target.detach()[piece.box.slices])


def _piece_read(key: str, piece: Piece, target: Tensor) -> _PieceRead:
    if piece.blob is None or piece.begin is None:
        raise ValueError(f"tensor {key!r}: not located")
    return _PieceRead(piece.blob, key, piece.begin, target, piece.digest)


def _run_tasks(sources: Mapping[str, Readable], reads: Iterable[_PieceRead]) -> None:
    by_file: dict[str, list[_PieceRead]] = {}
    for read in reads:
        by_file.setdefault(read.file, []).append(read)
    tasks = [_task(sources[file], run) for file, here in by_file.items() for run in _runs(here, sources[file])]
    readers = max((sources[file].readers for file in by_file), default=1)
    in_lanes(lambda task: task(), tasks, readers)


@dataclass(frozen=True)
class _PieceRead:
    """One piece to read: its location in a file, its memory, and its recorded digest."""

    file: str
    key: str
    start: int
    target: Tensor
    digest: str | None

    @property
    def nbytes(self) -> int:
        return self.target.numel() * self.target.element_size()

    @property
    def end(self) -> int:
        return self.start + self.nbytes

    def check(self, digest: str) -> None:
        if self.digest is not None and digest != self.digest:
            raise ValueError(f"tensor {self.key!r}: digest differs")

    def check_values(self, data: memoryview) -> None:
        if self.target.dtype is torch.bool and data:
            refuse_other_bools(self.key, torch.frombuffer(data, dtype=torch.uint8), facts_of(self.target))


def _runs(parts: Iterable[_PieceRead], source: Readable) -> Iterator[list[_PieceRead]]:
    """Group adjacent small pieces, which share one read; a large one is alone.

    The largest runs come first, so that no thread is left with a large one at the end.
    """
    runs: list[list[_PieceRead]] = []
    length, end = source.range_bytes, -1
    for part in sorted(parts, key=lambda part: (part.start, part.end)):
        if length + part.nbytes > source.range_bytes or part.start != end:
            runs.append([])
            length = 0
        runs[-1].append(part)
        length, end = length + part.nbytes, part.end
    return iter(sorted(runs, key=lambda run: run[0].start - run[-1].end))


def _task(source: Readable, run: list[_PieceRead]) -> Callable[[], None]:
    if len(run) == 1 and run[0].target.is_contiguous() and run[0].target.device.type == "cpu" and run[0].nbytes:
        return lambda: _read_direct(source, run[0])
    return lambda: _read_run(source, run)


class _RestartableDigest:
    """XXH3-128 of a range that begins at `start`; a repeated read, which begins there too, resets it."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._digest = xxhash.xxh3_128()

    def see(self, piece: memoryview, offset: int) -> None:
        if offset == self._start:
            self._digest.reset()
        self._digest.update(piece)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _read_direct(source: Readable, part: _PieceRead) -> None:
    memory = _memory(part.target)

    def read() -> str:
        digest = _RestartableDigest(part.start)
        source.read(memory, part.start, digest.see)
        return digest.hexdigest()

    def verify(digest: str) -> None:
        part.check(digest)
        part.check_values(memory)

    reread([source], read, verify)


def _read_run(source: Readable, run: list[_PieceRead]) -> None:
    first = run[0].start
    buffer = memoryview(bytearray(run[-1].end - first))
    pieces = [buffer[part.start - first : part.end - first] for part in run]

    def read() -> list[str]:
        source.read(buffer, first)
        return [xxhash.xxh3_128_hexdigest(piece) for piece in pieces]

    def verify(digests: list[str]) -> None:
        for part, piece, digest in zip(run, pieces, digests, strict=True):
            part.check(digest)
            part.check_values(piece)

    reread([source], read, verify)
    for part, piece in zip(run, pieces, strict=True):
        if piece:
            _store(part.target, piece)


def _store(target: Tensor, data: memoryview) -> None:
    if target.is_contiguous() and target.device.type == "cpu":
        _memory(target)[:] = data
        return
    flat = torch.empty(len(data), dtype=torch.uint8)  # with torch's alignment
    flat.numpy().data[:] = data
    copy_bits(target, flat.view(target.dtype).view(target.shape))


def _memory(tensor: Tensor) -> memoryview:
    """Return the writable bytes of a contiguous tensor on the host, also for dtypes that NumPy lacks."""
    flat = tensor.detach().view(-1) if tensor.ndim != 1 else tensor.detach()
    return flat.view(torch.uint8).numpy().data
