"""The order of one pass: the user's own sampler under private streams, and a digest of what was consumed.

Knows nothing of datasets' contents or workers. Skipping draws indices and reads no sample.
"""

from __future__ import annotations

import copy
import struct
import sys
from array import array
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch
import xxhash
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from resumable.data.generators import Found, find_generators
from resumable.data.passes import Opening, Position, length_of, taking
from resumable.data.streams import PrivateStreams
from resumable.errors import LoopError

# These draw from the global streams before their first index or never, so the streams need no swap for the others.
_DRAWS_ONCE = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)
_PLAIN_ORDERS = (list, tuple, range)
_END = object()


# What travels to whoever fetches: the key of the batch, its index (or list of indices), and the epoch. A plain tuple,
# because to pickle a class by its name for every batch costs more than all that it holds.
KeyedBatch: TypeAlias = tuple[bytes, Any, int | None]


class Order(Iterator[KeyedBatch]):
    """Indices drawn lazily, possibly ahead of the loop; `consumed()` says that the loop took the oldest."""

    def __init__(self, loader: Any, opening: Opening, *, length: int | None) -> None:
        self._opening = opening
        self._sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        self._dataset = loader.dataset
        self._dataset_length = length_of(loader.dataset)
        self._length = length
        self._stateful = stateful_parts(loader)
        if opening.resume is not None:
            self._load(opening.resume)
        self._state = {role: copy.deepcopy(part.state_dict()) for role, part in self._stateful.items()}
        self._streams = PrivateStreams(
            opening.key, find_generators(self._sampler, leave_out=(self._dataset,), rule=opening.generator_rule)
        )
        self._indices: Iterator[Any] | None = None
        self._unswapped = False  # whether indices may be drawn without a look at the streams
        self._digest = xxhash.xxh3_128()
        self._ahead: deque[bytes] = deque()
        self._drawn = self._consumed = 0
        if opening.resume is not None:
            self._skip(opening.resume)

    def __next__(self) -> KeyedBatch:
        index = self._draw()
        self._ahead.append(encode_index(index))
        number = self._drawn
        self._drawn += 1
        return self._opening.batch_key(number), index, self._opening.epoch

    def following(self, count: int) -> list[bytes]:
        """The keys of the next `count` batches to be drawn, or of those that are left."""
        end = self._drawn + count if self._length is None else min(self._drawn + count, self._length)
        return [self._opening.batch_key(number) for number in range(self._drawn, end)]

    def consumed(self) -> None:
        """Count the oldest index drawn as taken by the loop."""
        self._digest.update(self._ahead.popleft())
        self._consumed += 1

    def position(self) -> dict[str, Any]:
        """Batches consumed, the digest of their indices, and the sampler's state as of the start of the pass."""
        return {
            "batches": self._consumed,
            "order": self._digest.hexdigest(),
            "dataset_length": self._dataset_length,
            "sampler": self._state,
        }

    def states(self) -> dict[str, Any]:
        """The states of samplers that have one, as of now."""
        return {role: copy.deepcopy(part.state_dict()) for role, part in self._stateful.items()}

    def _draw(self) -> Any:
        if self._indices is None:
            return self._begin()
        if self._unswapped:
            return next(self._indices)
        with self._streams:
            return next(self._indices)

    def _begin(self) -> Any:
        index = self._first()
        grown = self._generators()
        if grown.keys() - self._streams.generators.keys() and self._indices is not self._sampler:
            # A generator that came into being as iterating began has no key yet; later passes would find and key it.
            self._streams = PrivateStreams(self._opening.key, grown)
            index = self._first()
        if _draws_once(self._sampler):
            self._streams.leave_main_alone()
        self._unswapped = self._streams.swaps_nothing
        if index is _END:
            raise StopIteration
        return index

    def _generators(self) -> Found:
        return find_generators(self._sampler, leave_out=(self._dataset,), rule=self._opening.generator_rule)

    def _first(self) -> Any:
        with self._streams:
            self._indices = iter(self._sampler)
            return next(self._indices, _END)

    def _load(self, resume: Position) -> None:
        before = resume["dataset_length"]
        if before != self._dataset_length:
            raise LoopError(
                f"{self._opening.address}: the dataset has {self._dataset_length} samples, it had {before} when the "
                "checkpoint was written",
                "continue with the data that the run began with, or start another run",
            )
        states: dict[str, Any] = resume["sampler"]
        if states.keys() != self._stateful.keys():
            raise LoopError(
                f"{self._opening.address}: samplers with a state_dict are {sorted(self._stateful)}, in the checkpoint "
                f"{sorted(states)}",
                "use the sampler that the run began with",
            )
        for role, part in self._stateful.items():
            with taking(self._opening.address, role):
                part.load_state_dict(copy.deepcopy(states[role]))

    def _skip(self, resume: Position) -> None:
        wanted = int(resume["batches"])
        found = self._discard(wanted) if wanted else 0
        self._drawn = self._consumed = found
        if found < wanted or self._digest.hexdigest() != resume["order"]:
            raise self._other_order(found, wanted)

    def _discard(self, wanted: int) -> int:
        try:
            self._digest.update(encode_index(self._begin()))
        except StopIteration:
            return 0
        update, count = self._digest.update, 1
        assert self._indices is not None
        with self._streams:
            for index in islice(self._indices, wanted - 1):
                update(encode_index(index))
                count += 1
        return count

    def _other_order(self, found: int, wanted: int) -> LoopError:
        what = (
            f"the sampler gives {found} batches, {wanted} were consumed before the checkpoint"
            if found < wanted
            else f"the order of the first {wanted} batches differs from the order before the checkpoint"
        )
        return LoopError(
            f"{self._opening.address}: {what}",
            "the sampler, its arguments, batch_size and drop_last must be as before; a sampler of your own must depend "
            "on nothing but its arguments, the random streams and set_epoch(), or have state_dict/load_state_dict",
        )


def encode_index(index: Any) -> bytes:
    """Bytes that differ where indices differ: framed, so that [1, 2], [3] is not [1], [2, 3]."""
    if type(index) is int:
        return _one(index)
    if type(index) is list:
        try:
            return b"l" + len(index).to_bytes(4, "little") + array("q", index).tobytes()
        except (TypeError, OverflowError):
            pass
    return _encode_slowly(index)


def _one(index: int) -> bytes:
    try:
        return b"q" + struct.pack("<q", index)
    except struct.error:
        return _framed(b"r", repr(index).encode())


def _encode_slowly(index: Any) -> bytes:
    if isinstance(index, list | tuple):
        return b"L" + len(index).to_bytes(4, "little") + b"".join(map(encode_index, index))
    if isinstance(index, torch.Tensor):
        index = index.detach().cpu().numpy()
    if isinstance(index, np.ndarray | np.generic):
        return _framed(b"a", f"{index.dtype.str}{index.shape}".encode()) + _framed(b"d", index.tobytes())
    if isinstance(index, dict):
        return b"D" + len(index).to_bytes(4, "little") + b"".join(map(encode_index, index.items()))
    if isinstance(index, str | bytes | int | float | bool | slice | None):
        return _framed(b"r", repr(index).encode())
    # Nothing is known of this type: an address in its repr would make every resume fail, so only its type counts.
    return _framed(b"t", type(index).__qualname__.encode())


def _framed(tag: bytes, data: bytes) -> bytes:
    return tag + len(data).to_bytes(4, "little") + data


def stateful_parts(loader: Any) -> dict[str, Any]:
    batch_sampler = loader.batch_sampler
    parts = {
        "batch_sampler": batch_sampler,
        "batch_sampler.sampler": getattr(batch_sampler, "sampler", None),
        "sampler": loader.sampler,
    }
    stateful: dict[str, Any] = {}
    for role, part in parts.items():
        both = callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None))
        if both and not _is_positional(part) and not any(part is other for other in stateful.values()):
            stateful[role] = part
    return stateful


def _is_positional(sampler: Any) -> bool:
    # torchdata's keeps only how far it came in the pass before; loading that as of the start skips the whole pass.
    module = sys.modules.get("torchdata.stateful_dataloader.sampler")
    kind = getattr(module, "StatefulDistributedSampler", None)
    return kind is not None and type(sampler) is kind


def _draws_once(sampler: Any) -> bool:
    if type(sampler) is BatchSampler:
        return _draws_once(sampler.sampler)
    return type(sampler) in _DRAWS_ONCE or type(sampler) in _PLAIN_ORDERS
