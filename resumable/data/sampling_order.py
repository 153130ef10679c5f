"""The order of one pass: the user's own sampler under private streams, and a digest of what was consumed.

Knows nothing of datasets' contents or workers. Skipping draws indices and reads no sample.
"""

from __future__ import annotations

import contextlib
import struct
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
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

from resumable.data.pass_base import Opening, Position, length_of
from resumable.data.rng.find_generators import find_generators
from resumable.data.rng.generator_rule import Found
from resumable.data.rng.streams import PrivateStreams
from resumable.data.sampler_state import States, load, same, stateful_parts, states_of
from resumable.errors import LoopError

# These draw from the global streams before their first index or never, so the streams need no swap for the others.
_DRAWS_ONCE = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)
_PLAIN_ORDERS = (list, tuple, range)
_END = object()


# What travels to whoever fetches: the key of the batch, its index (or list of indices), and the epoch. A plain tuple,
# because to pickle a class by its name for every batch costs more than all that it holds.
KeyedBatch: TypeAlias = tuple[bytes, Any, int | None]


class Order(Iterator[KeyedBatch]):
    """Indices drawn lazily, possibly ahead of the loop; `consumed()` says that the loop took the oldest.

    A resumed order is drawn again from the state in which the samplers began the pass, as far as it was drawn before,
    and only then do they get the states that they had at the checkpoint: `now`, by role. So what is left of an order
    drawn at `iter()` stays, and what the loop wrote since has a say in what is drawn next.
    """

    def __init__(self, loader: Any, opening: Opening, now: States) -> None:
        self._opening = opening
        self._sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        self._dataset = loader.dataset
        self._dataset_length = length_of(loader.dataset)
        self._stateful = stateful_parts(loader)
        if opening.resume is not None:
            self._load(opening.resume)
        self.length = length_of(loader)  # of this pass, whatever the loop makes of a sampler later
        self._state = states_of(self._stateful)
        self._streams = PrivateStreams(opening.key, self._generators())
        self._indices: Iterator[Any] | None = None
        self._unswapped = False  # whether indices may be drawn without a look at the streams
        self._ended = False
        self._digest = xxhash.xxh3_128()
        self._ahead: deque[bytes] = deque()  # handed out, and not consumed yet
        self._kept: deque[Any] = deque()  # drawn again on a resume, and not handed out yet
        self._drawn = self._consumed = 0
        if opening.resume is not None:
            self._skip(opening.resume, now)

    def __next__(self) -> KeyedBatch:
        index = self._kept.popleft() if self._kept else self._draw()
        self._ahead.append(encode_index(index))
        number = self._drawn
        self._drawn += 1
        return self._opening.batch_key(number), index, self._opening.epoch

    def following(self, count: int) -> list[bytes]:
        """The keys of the next `count` batches to be drawn, or of those that are left."""
        end = self._drawn + count if self.length is None else min(self._drawn + count, self.length)
        return [self._opening.batch_key(number) for number in range(self._drawn, end)]

    def consumed(self) -> None:
        """Count the oldest index drawn as taken by the loop."""
        self._digest.update(self._ahead.popleft())
        self._consumed += 1

    def position(self) -> dict[str, Any]:
        """Batches consumed, the digest of their indices, and the samplers' states as of the start of the pass.

        Where samplers have a state, also how far they were drawn: their states as of now say so, too.
        """
        place = {
            "batches": self._consumed,
            "order": self._digest.hexdigest(),
            "dataset_length": self._dataset_length,
            "sampler": self._state,
        }
        return place | {"drawn": self._all_drawn()} if self._stateful else place

    def _all_drawn(self) -> dict[str, Any]:
        digest = self._digest.copy()
        for encoded in (*self._ahead, *map(encode_index, self._kept)):
            digest.update(encoded)
        return {"batches": self._drawn + len(self._kept), "order": digest.hexdigest(), "ended": self._ended}

    def _draw(self) -> Any:
        try:
            if self._indices is None:
                return self._begin()
            if self._unswapped:
                return next(self._indices)
            with self._streams:
                return next(self._indices)
        except StopIteration:
            self._indices, self._unswapped, self._ended = iter(()), True, True
            raise

    def _begin(self) -> Any:
        index = self._first()
        grown = self._generators()
        if grown.keys() - self._streams.generators.keys() and self._indices is not self._sampler:
            # A generator that came into being as iterating began has no key yet; later passes would find and key it.
            self._stand_at(self._state)
            index = self._first_again()
        if index is _END and self._stateful and self.length != 0:
            # A state from the end of the pass before may let this one begin there, as those in torchdata's manner do.
            index = self._first_again()
        if _draws_once(self._sampler):
            self._streams.leave_main_alone()
        self._unswapped = self._streams.swaps_nothing
        if index is _END:
            raise StopIteration
        return index

    def _first_again(self) -> Any:
        self._streams = PrivateStreams(self._opening.key, self._generators())
        return self._first()

    def _first(self) -> Any:
        with self._streams:
            self._indices = iter(self._sampler)
            return next(self._indices, _END)

    def _generators(self) -> Found:
        return find_generators(self._sampler, leave_out=(self._dataset,), rule=self._opening.generator_rule)

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
        self._stand_at(states)

    def _stand_at(self, states: States) -> None:
        for role, part in self._stateful.items():
            load(part, states[role], self._opening.address, role)

    def _skip(self, resume: Position, now: States) -> None:
        wanted = int(resume["batches"])
        found = self._discard(wanted) if wanted else 0
        self._drawn = self._consumed = found
        if found < wanted or self._digest.hexdigest() != resume["order"]:
            raise self._other_order(found, wanted)
        if "drawn" in resume:
            self._draw_ahead(resume["drawn"])
        elif self._changes_as_it_draws():
            return  # an earlier version did not say how far it had drawn, so its states fit no place in the order
        for role, part in self._stateful.items():
            # A state may say to the next iter() where to begin, so none is loaded without need.
            if role in now and not same(part.state_dict(), now[role]):
                load(part, now[role], self._opening.address, role)

    def _draw_ahead(self, drawn: Mapping[str, Any]) -> None:
        for _ in range(drawn["batches"] - self._consumed):
            self._keep_one()
        if drawn["ended"]:
            self._keep_one()
        if self._all_drawn() != drawn:
            raise self._other_order(drawn["batches"], drawn["batches"])

    def _changes_as_it_draws(self) -> bool:
        before = states_of(self._stateful)
        if before:
            self._keep_one()
        return not same(before, states_of(self._stateful))

    def _keep_one(self) -> None:
        with contextlib.suppress(StopIteration):
            self._kept.append(self._draw())

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
        return LoopError(f"{self._opening.address}: {what}", _DRAWN_AS_IT_GOES if self._stateful else _OTHER_ORDER)


_OTHER_ORDER = (
    "the sampler, its arguments, batch_size and drop_last must be as before. A sampler of your own must depend on "
    "nothing but its arguments, the random streams and set_epoch(). One that the loop writes to (weights, losses) "
    "needs state_dict and load_state_dict, for which a subclass is enough"
)
_DRAWN_AS_IT_GOES = (
    "the sampler, its arguments, batch_size and drop_last must be as before. What the loop writes to a sampler must "
    "have a say from its next iter() on, and not in indices drawn later in the same pass: draw the whole order at the "
    "head of __iter__"
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


def _draws_once(sampler: Any) -> bool:
    if type(sampler) is BatchSampler:
        return _draws_once(sampler.sampler)
    return type(sampler) in _DRAWS_ONCE or type(sampler) in _PLAIN_ORDERS
