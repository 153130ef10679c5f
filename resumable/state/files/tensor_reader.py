"""Reads the tensors of an object's files straight into their memory, and proves them on the way; knows no storage.

Each byte is read once, into the place where it is to stay, and digested while it is still in the cache. What is read
is proved by the digests of the tensors, and the headers by being exactly what this program would have written; where
the records alone tell what that is, they need not be parsed. A file with another header is read whole, and proved by
its own digest. What is not what it should be is read again before that is believed (`rereading.py`).
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
from resumable.state.staging.stager import Plan
from resumable.state.tensors.facts import DigestedRecord, Recorded, TensorFacts, empty, facts_of, fill
from resumable.state.tensors.safetensors_layout import MAX_HEADER_BYTES, Layout, Slice, header_of, parse_table
from resumable.state.tensors.tensor_locations import alias_of
from resumable.state.tensors.tensor_views import placed, refuse_other_bools, unstage, with_aliases
from resumable.utils.reread import Cached, reread
from resumable.utils.threads import in_lanes

_PREFIX = struct.Struct("<Q")
_HEAD_BYTES = 64 * 2**10  # most headers are shorter: one read


class Readable(Cached, Protocol):
    """One file, in whatever place."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def readers(self) -> int:
        """How many threads may read at once to advantage."""

    @property
    def range_bytes(self) -> int:
        """How much a read asks for at least, where there is a choice."""

    def read(self, buffer: memoryview, offset: int, seen: Callable[[memoryview, int], None] | None = None) -> None:
        """Fill the whole of `buffer`, or raise; `seen` is shown each part in order, anew from the first if need be."""


class Source(Readable, Protocol):
    """One file of an object, whose digest is known."""

    def image(self) -> bytearray:
        """The whole file, proved by its digest."""


class MaybeDigested(Recorded, Protocol):
    """A record of a tensor that may have no digest."""

    @property
    def digest(self) -> str | None: ...


Records = Mapping[str, DigestedRecord]


def read_tensors(
    sources: Sequence[Source], records: Records, *, into: Mapping[str, Tensor], keys: Collection[str]
) -> dict[str, Tensor]:
    """The tensors `keys` of an object, each in memory of its own, and of all other keys those of `into`.

    A tensor of `into` that is alike, and alone in its memory on the host, is filled in place and returned itself.
    Raises `ValueError` that names the tensor whose bytes are not those that were saved; what was filled by then is
    undefined.
    """
    try:
        return with_aliases(_read(sources, records, into, keys), records)
    except (RuntimeError, OverflowError) as error:  # torch's word for an impossible size
        raise ValueError(str(error)) from error


def read_placed(
    source: Readable,
    slices: Mapping[str, Slice],
    records: Mapping[str, MaybeDigested],
    *,
    into: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The tensors of `records` out of one file whose header is known to be good and says `slices`; `into` as above.

    Raises `ValueError` that names the tensor whose bytes have not the digest of its record; without one they are
    believed.
    """
    try:
        places = placed([slices], records)
        targets = targets_of(into or {}, {key: facts for key, (_, _, facts) in places.items()})
    except (RuntimeError, OverflowError) as error:  # torch's word for an impossible size
        raise ValueError(str(error)) from error
    parts = [_Part(key, place, targets[key], records[key].digest) for key, (_, place, _) in places.items()]
    in_lanes(lambda task: task(), [_task(source, run) for run in _runs(parts, source.range_bytes)], source.readers)
    return targets


def _read(sources: Sequence[Source], records: Records, into: Mapping[str, Tensor], keys: Collection[str]) -> _Tensors:
    headers, places = _looked_at(sources, records, _expected(records) if len(sources) == 1 else None)
    targets = targets_of(into, {key: facts for key, (_, _, facts) in places.items() if key in keys})
    tensors = {key: into[key] for key in places if key not in keys} | targets
    tasks: list[Callable[[], None]] = []
    for number, (source, header) in enumerate(zip(sources, headers, strict=True)):
        here = {key: place for key, (held_by, place, _) in places.items() if held_by == number}
        parts = [_Part(key, here[key], targets[key], records[key].digest) for key in here if key in targets]
        if header.is_ours and here.keys() == header.slices.keys():
            tasks += [_task(source, run) for run in _runs(parts, source.range_bytes)]
        else:
            tasks.append(_foreign(source, parts, {key: records[key] for key in here}))
    in_lanes(lambda task: task(), tasks, max((source.readers for source in sources), default=1))
    return tensors


_Tensors = dict[str, Tensor]


class TensorReader:
    """An object's tensors one at a time, in any order, each proved by its digest: for states larger than the memory.

    Making one reads the headers. `ValueError` names what is not as it was saved.
    """

    def __init__(self, sources: Sequence[Source], records: Records) -> None:
        self._sources = sources
        self._records = records
        self._places = _looked_at(sources, records, None)[1]

    def read(self, key: str) -> Tensor:
        """One of them, in memory of its own; an alias is read as the tensor that it is another name of."""
        key = alias_of(self._records[key]) or key
        number, place, facts = self._places[key]
        part = _Part(key, place, empty(facts), self._records[key].digest)
        _task(self._sources[number], [part])()
        return part.target


@dataclass(frozen=True)
class _Header:
    slices: dict[str, Slice]
    is_ours: bool


def _expected(records: Records) -> Layout | None:
    """What this program writes for an object with such tensors in one file; None where it would write nothing."""
    facts = {key: TensorFacts.recorded(record) for key, record in records.items() if alias_of(record) is None}
    try:
        return Plan.of(facts).layout
    except ValueError:
        return None


def read_head(source: Readable) -> bytearray:
    """The first bytes of a file: all of its header, if it has one that a reader would take, or more."""
    head = bytearray(min(_HEAD_BYTES, source.size))
    source.read(memoryview(head), 0)
    length = _PREFIX.unpack_from(head)[0] if len(head) >= _PREFIX.size else 0
    missing = _PREFIX.size + length - len(head)
    if 0 < missing <= source.size - len(head) and length <= MAX_HEADER_BYTES:
        rest = bytearray(missing)
        source.read(memoryview(rest), len(head))
        head += rest
    return head


def _looked_at(
    sources: Sequence[Source], records: Records, expected: Layout | None
) -> tuple[list[_Header], Mapping[str, tuple[int, Slice, TensorFacts]]]:
    """Return the headers of an object's files, and where each of its tensors lies by them."""

    def judge(heads: list[bytearray]) -> tuple[list[_Header], Mapping[str, tuple[int, Slice, TensorFacts]]]:
        headers = [_header(source, head, expected) for source, head in zip(sources, heads, strict=True)]
        return headers, placed([header.slices for header in headers], records)

    return reread(sources, lambda: [read_head(source) for source in sources], judge)


def _header(source: Source, head: bytearray, expected: Layout | None) -> _Header:
    """Where the tensors of a file lie, and whether every byte that says so is one that this program would write."""
    if expected is not None and source.size == expected.size and head.startswith(expected.header):
        return _Header(expected.slices, True)
    try:
        slices = parse_table(head, size=source.size)
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from error
    header = head[: _PREFIX.size + _PREFIX.unpack_from(head)[0]]
    return _Header(slices, header_of(slices) == header)


@dataclass(frozen=True)
class _Part:
    """One tensor on its way from its place in a file to its memory."""

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


def _runs(parts: Iterable[_Part], range_bytes: int) -> Iterator[list[_Part]]:
    """Small tensors that lie beside each other together, so that one read brings them; a large one alone.

    The largest first, so that no thread is left with a large one at the end.
    """
    runs: list[list[_Part]] = []
    taken, end = range_bytes, -1
    for part in sorted(parts, key=lambda part: (part.place.start, part.place.end)):
        if taken + part.nbytes > range_bytes or part.place.start != end:
            runs.append([])
            taken = 0
        runs[-1].append(part)
        taken, end = taken + part.nbytes, part.place.end
    return iter(sorted(runs, key=lambda run: run[0].place.start - run[-1].place.end))


def _task(source: Readable, run: list[_Part]) -> Callable[[], None]:
    if len(run) == 1 and run[0].target.is_contiguous() and run[0].target.device.type == "cpu" and run[0].nbytes:
        return lambda: _straight(source, run[0])
    return lambda: _spread(source, run)


class _Digest:
    """XXH3-128 of what is shown to it from `start` on. A read that is repeated shows all again, and begins anew."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._digest = xxhash.xxh3_128()

    def see(self, piece: memoryview, offset: int) -> None:
        if offset == self._start:
            self._digest.reset()
        self._digest.update(piece)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _straight(source: Readable, part: _Part) -> None:
    memory = _memory(part.target)

    def read() -> str:
        digest = _Digest(part.place.start)
        source.read(memory, part.place.start, digest.see)
        return digest.hexdigest()

    def judge(digest: str) -> None:
        part.check(digest)
        part.check_values(memory)

    reread([source], read, judge)


def _spread(source: Readable, run: list[_Part]) -> None:
    first = run[0].place.start
    buffer = memoryview(bytearray(run[-1].place.end - first))
    pieces = [buffer[part.place.start - first : part.place.end - first] for part in run]

    def read() -> list[str]:
        source.read(buffer, first)
        return [xxhash.xxh3_128_hexdigest(piece) for piece in pieces]

    def judge(digests: list[str]) -> None:
        for part, piece, digest in zip(run, pieces, digests, strict=True):
            part.check(digest)
            part.check_values(piece)

    reread([source], read, judge)
    for part, piece in zip(run, pieces, strict=True):
        if piece:
            _put(part.target, piece)


def _foreign(source: Source, parts: list[_Part], records: Records) -> Callable[[], None]:
    def read() -> None:
        tensors = unstage([source.image()], records)
        for part in parts:
            fill(part.target, tensors[part.key])

    return read


def _put(target: Tensor, data: memoryview) -> None:
    if target.is_contiguous() and target.device.type == "cpu":
        _memory(target)[:] = data
        return
    flat = torch.empty(len(data), dtype=torch.uint8)  # aligned as torch aligns it
    flat.numpy().data[:] = data
    fill(target, flat.view(target.dtype).view(target.shape))


def _memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the host, to be written; also of one whose dtype NumPy does not know."""
    flat = tensor.detach().view(-1) if tensor.ndim != 1 else tensor.detach()
    return flat.view(torch.uint8).numpy().data
