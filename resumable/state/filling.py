"""Reads the tensors of an object's files straight into their memory, and proves them on the way; knows no storage.

Each byte is read once, into the place where it is to stay, and digested while it is still in the cache. What is read
is proved by the digests of the tensors, and the headers by being exactly what this program would have written; where
the records alone tell what that is, they need not be parsed. A file with another header is read whole, and proved by
its own digest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import xxhash
from torch import Tensor

from resumable.lanes import in_lanes
from resumable.state.image import MAX_HEADER_BYTES, Layout, Slice, header_of, parse_table
from resumable.state.stager import Plan
from resumable.state.tensors import DigestedRecord, Recorded, TensorFacts, empty, facts_of, fill, is_dense
from resumable.state.unstage import alias_of, placed, refuse_other_bools, unstage, with_aliases

_PREFIX = struct.Struct("<Q")
_HEAD_BYTES = 64 * 2**10  # most headers are shorter: one read


class Readable(Protocol):
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
        targets = _targets(into or {}, {key: facts for key, (_, _, facts) in places.items()})
    except (RuntimeError, OverflowError) as error:  # torch's word for an impossible size
        raise ValueError(str(error)) from error
    parts = [_Part(key, place, targets[key], records[key].digest) for key, (_, place, _) in places.items()]
    in_lanes(lambda task: task(), [_task(source, run) for run in _runs(parts, source.range_bytes)], source.readers)
    return targets


def _read(sources: Sequence[Source], records: Records, into: Mapping[str, Tensor], keys: Collection[str]) -> _Tensors:
    expected = _expected(records) if len(sources) == 1 else None
    headers = [_header(source, expected) for source in sources]
    places = placed([header.slices for header in headers], records)
    targets = _targets(into, {key: facts for key, (_, _, facts) in places.items() if key in keys})
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


def fillable(into: Mapping[str, Tensor], facts: Mapping[str, TensorFacts]) -> set[str]:
    """The keys of those tensors that would be filled in place with tensors of these facts."""
    shared = _shared_memory(into.values())
    return {key for key, tensor in into.items() if _may_be_filled(tensor, facts[key], shared)}


_Tensors = dict[str, Tensor]


class TensorReader:
    """An object's tensors one at a time, in any order, each proved by its digest: for states larger than the memory.

    Making one reads the headers. `ValueError` names what is not as it was saved.
    """

    def __init__(self, sources: Sequence[Source], records: Records) -> None:
        self._sources = sources
        self._records = records
        self._places = placed([_header(source, None).slices for source in sources], records)

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


def _header(source: Source, expected: Layout | None) -> _Header:
    """Where the tensors of a file lie, and whether every byte that says so is one that this program would write."""
    head = read_head(source)
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
    memory, digest = _memory(part.target), _Digest(part.place.start)
    source.read(memory, part.place.start, digest.see)
    part.check(digest.hexdigest())
    part.check_values(memory)


def _spread(source: Readable, run: list[_Part]) -> None:
    first = run[0].place.start
    buffer = memoryview(bytearray(run[-1].place.end - first))
    source.read(buffer, first)
    for part in run:
        data = buffer[part.place.start - first : part.place.end - first]
        part.check(xxhash.xxh3_128_hexdigest(data))
        part.check_values(data)
        if data:
            _put(part.target, data)


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


def _targets(into: Mapping[str, Tensor], wanted: Mapping[str, TensorFacts]) -> dict[str, Tensor]:
    """For each key the tensor to fill: that of `into` where nothing else can see its memory change, else a new one."""
    shared = _shared_memory(into.values())
    given = {id(tensor) for key, tensor in into.items() if key not in wanted}
    targets: dict[str, Tensor] = {}
    for key, facts in wanted.items():
        # One live tensor under two names that were two when they were saved has room for one of them only.
        fits = key in into and id(into[key]) not in given and _may_be_filled(into[key], facts, shared)
        targets[key] = into[key] if fits else empty(facts)
        given.add(id(targets[key]))
    return targets


def _may_be_filled(tensor: Tensor, facts: TensorFacts, shared: Collection[int]) -> bool:
    plain = (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_conj()
        and not tensor.is_neg()
        and (tensor.is_contiguous() or is_dense(tensor.shape, tensor.stride()))
        and facts_of(tensor) == facts
    )
    if not plain:
        return False
    storage = tensor.untyped_storage()
    return storage.nbytes() == facts.nbytes and storage.data_ptr() not in shared


def _shared_memory(tensors: Iterable[Tensor]) -> set[int]:
    seen: set[int] = set()
    shared: set[int] = set()
    for tensor in {id(tensor): tensor for tensor in tensors}.values():
        if tensor.layout is torch.strided and not tensor.is_meta and tensor.numel():
            address = tensor.untyped_storage().data_ptr()
            (shared if address in seen else seen).add(address)
    return shared
