"""Read the tensors of an object's files straight into their memory, and verify them. Independent of storages.

Each byte is read once, into its final memory, and digested while it is in the cache. Digests verify the tensors. A
header is verified by comparison with the one that this program would write, and parsed only if the records do not
determine it. A file with another header is read completely and verified by its own digest. A wrong read is repeated
before it counts as damage (`utils/reread.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import xxhash
from torch import Tensor

from resumable.state.files.read_targets import targets_of
from resumable.state.tensors.facts import DigestedRecords, Recorded, TensorFacts, copy_bits, empty, facts_of
from resumable.state.tensors.file_plan import FilePlan
from resumable.state.tensors.safetensors_layout import MAX_HEADER_BYTES, Layout, Slice, header_of, parse_table
from resumable.state.tensors.tensor_locations import alias_of
from resumable.state.tensors.tensor_views import checked_locations, refuse_other_bools, view_tensors, with_aliases
from resumable.utils.reread import Cached, reread
from resumable.utils.threads import in_lanes

_PREFIX = struct.Struct("<Q")
_HEAD_BYTES = 64 * 2**10  # most headers are shorter: one read


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


class ObjectFile(Readable, Protocol):
    """One file of an object, with a recorded digest."""

    def image(self) -> bytearray:
        """Return the whole file, verified by its digest."""


class MaybeDigested(Recorded, Protocol):
    """A record of a tensor that may have no digest."""

    @property
    def digest(self) -> str | None: ...


def read_tensors(
    sources: Sequence[ObjectFile], records: DigestedRecords, *, into: Mapping[str, Tensor], keys: Collection[str]
) -> dict[str, Tensor]:
    """Return the tensors `keys` of an object, each in its own memory, and for all other keys the tensors of `into`.

    A tensor of `into` with equal facts, in host memory that it does not share, is filled in place and returned itself.

    Raises:
        ValueError: A tensor's bytes differ from those that were saved; the contents of filled tensors are undefined.
    """
    try:
        return with_aliases(_read(sources, records, into, keys), records)
    except (RuntimeError, OverflowError) as error:  # torch raises these for an impossible size
        raise ValueError(str(error)) from error


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
    parts = [_TensorRead(key, place, targets[key], records[key].digest) for key, (_, place, _) in places.items()]
    in_lanes(lambda task: task(), [_task(source, run) for run in _runs(parts, source.range_bytes)], source.readers)
    return targets


def _read(
    sources: Sequence[ObjectFile], records: DigestedRecords, into: Mapping[str, Tensor], keys: Collection[str]
) -> dict[str, Tensor]:
    headers, places = _located(sources, records, _expected(records) if len(sources) == 1 else None)
    targets = targets_of(into, {key: facts for key, (_, _, facts) in places.items() if key in keys})
    slices: list[dict[str, Slice]] = [{} for _ in sources]
    for key, (number, place, _) in places.items():
        slices[number][key] = place
    tasks: list[Callable[[], None]] = []
    for source, header, here in zip(sources, headers, slices, strict=True):
        reads = [_TensorRead(key, here[key], targets[key], records[key].digest) for key in here if key in targets]
        tasks += _file_tasks(source, header, reads, {key: records[key] for key in here})
    in_lanes(lambda task: task(), tasks, max((source.readers for source in sources), default=1))
    return {key: into[key] for key in places if key not in keys} | targets


def _file_tasks(
    source: ObjectFile, header: _Header, reads: list[_TensorRead], records: DigestedRecords
) -> list[Callable[[], None]]:
    """Return the tasks that read one file in ranges, or completely if its header is not the expected one."""
    if header.is_ours and records.keys() == header.slices.keys():
        return [_task(source, run) for run in _runs(reads, source.range_bytes)]
    return [_whole_file_task(source, reads, records)]


class TensorReader:
    """Reads an object's tensors one at a time, in any order, each verified by its digest; for states beyond memory.

    The constructor reads the headers.

    Raises:
        ValueError: Bytes differ from those that were saved; the message names the file or tensor.
    """

    def __init__(self, sources: Sequence[ObjectFile], records: DigestedRecords) -> None:
        self._sources = sources
        self._records = records
        self._places = _located(sources, records, None)[1]

    def read(self, key: str) -> Tensor:
        """Return one tensor in its own memory; an alias is read as the tensor that it refers to."""
        key = alias_of(self._records[key]) or key
        number, place, facts = self._places[key]
        part = _TensorRead(key, place, empty(facts), self._records[key].digest)
        _task(self._sources[number], [part])()
        return part.target


@dataclass(frozen=True)
class _Header:
    slices: dict[str, Slice]
    is_ours: bool


def _expected(records: DigestedRecords) -> Layout | None:
    """Return the layout that this program writes for these tensors in one file; None if they exceed the format."""
    facts = {key: TensorFacts.recorded(record) for key, record in records.items() if alias_of(record) is None}
    try:
        return FilePlan.of(facts).layout
    except ValueError:
        return None


def read_head(source: Readable) -> bytearray:
    """Return the first bytes of a file, with its complete header if that is within the limits of the format."""
    head = bytearray(min(_HEAD_BYTES, source.size))
    source.read(memoryview(head), 0)
    length = _PREFIX.unpack_from(head)[0] if len(head) >= _PREFIX.size else 0
    missing = _PREFIX.size + length - len(head)
    if 0 < missing <= source.size - len(head) and length <= MAX_HEADER_BYTES:
        rest = bytearray(missing)
        source.read(memoryview(rest), len(head))
        head += rest
    return head


def _located(
    sources: Sequence[ObjectFile], records: DigestedRecords, expected: Layout | None
) -> tuple[list[_Header], Mapping[str, tuple[int, Slice, TensorFacts]]]:
    """Return the headers of an object's files, and the location of each of its tensors."""

    def parse(heads: list[bytearray]) -> tuple[list[_Header], Mapping[str, tuple[int, Slice, TensorFacts]]]:
        headers = [_header(source, head, expected) for source, head in zip(sources, heads, strict=True)]
        return headers, checked_locations([header.slices for header in headers], records)

    return reread(sources, lambda: [read_head(source) for source in sources], parse)


def _header(source: ObjectFile, head: bytearray, expected: Layout | None) -> _Header:
    """Parse a header; report whether its bytes are exactly those that this program would write."""
    if expected is not None and source.size == expected.size and head.startswith(expected.header):
        return _Header(expected.slices, True)
    try:
        slices = parse_table(head, size=source.size)
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from error
    header = head[: _PREFIX.size + _PREFIX.unpack_from(head)[0]]
    return _Header(slices, header_of(slices) == header)


@dataclass(frozen=True)
class _TensorRead:
    """One tensor to read: its location in a file, its memory, and its recorded digest."""

    key: str
    place: Slice
    target: Tensor
    digest: str | None

    @property
    def nbytes(self) -> int:
        return self.place.end - self.place.start

    def check(self, digest: str) -> None:
        if self.digest is not None and digest != self.digest:
            raise ValueError(f"tensor {self.key!r}: digest differs")

    def check_values(self, data: memoryview) -> None:
        if self.target.dtype is torch.bool and data:
            refuse_other_bools(self.key, torch.frombuffer(data, dtype=torch.uint8), facts_of(self.target))


def _runs(parts: Iterable[_TensorRead], range_bytes: int) -> Iterator[list[_TensorRead]]:
    """Group adjacent small tensors, which share one read; a large tensor is alone.

    The largest runs come first, so that no thread is left with a large one at the end.
    """
    runs: list[list[_TensorRead]] = []
    length, end = range_bytes, -1
    for part in sorted(parts, key=lambda part: (part.place.start, part.place.end)):
        if length + part.nbytes > range_bytes or part.place.start != end:
            runs.append([])
            length = 0
        runs[-1].append(part)
        length, end = length + part.nbytes, part.place.end
    return iter(sorted(runs, key=lambda run: run[0].place.start - run[-1].place.end))


def _task(source: Readable, run: list[_TensorRead]) -> Callable[[], None]:
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


def _read_direct(source: Readable, part: _TensorRead) -> None:
    memory = _memory(part.target)

    def read() -> str:
        digest = _RestartableDigest(part.place.start)
        source.read(memory, part.place.start, digest.see)
        return digest.hexdigest()

    def verify(digest: str) -> None:
        part.check(digest)
        part.check_values(memory)

    reread([source], read, verify)


def _read_run(source: Readable, run: list[_TensorRead]) -> None:
    first = run[0].place.start
    buffer = memoryview(bytearray(run[-1].place.end - first))
    pieces = [buffer[part.place.start - first : part.place.end - first] for part in run]

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


def _whole_file_task(source: ObjectFile, parts: list[_TensorRead], records: DigestedRecords) -> Callable[[], None]:
    def read() -> None:
        tensors = view_tensors([source.image()], records)
        for part in parts:
            copy_bits(part.target, tensors[part.key])

    return read


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
