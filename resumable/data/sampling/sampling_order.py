"""The order of one pass: known in whole, or drawn as it goes by the user's own sampler under private streams.

Independent of the content of datasets and of workers. Skipping reads no sample.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

import xxhash
from torch.utils.data import DataLoader

from resumable.data.mid_pass import refuse_in_mid_pass
from resumable.data.pass_base import Opening, StoredPosition, length_of
from resumable.data.rng.find_generators import find_generators
from resumable.data.rng.generator_rule import Found
from resumable.data.rng.streams import PrivateStreams
from resumable.data.sampling.index_encoding import encode_index
from resumable.data.sampling.order_kind import SequentialOrder, draws_first_or_never, index_sampler
from resumable.data.sampling.packed_order import MAX_INDICES, PackedOrder, Packing
from resumable.data.sampling.sampler_state import (
    Samplers,
    SamplerStates,
    copied_states,
    is_same_state,
    load_sampler_state,
    stateful_samplers,
)
from resumable.errors import ChangedDataError, LoopError

_END = object()
_MAX_WITHOUT_LENGTH = 2**16  # indices that are drawn at once: a sampler without a length may have no end


# What is sent to the process that fetches: the key of the batch, its index (or list of indices), and the epoch. A plain
# tuple, because pickling a class by its name for every batch costs more than the content.
KeyedBatch: TypeAlias = tuple[bytes, object, int | None]


class Order(Iterator[KeyedBatch], ABC):
    """The indices of one pass, handed out possibly ahead of the loop; `consumed()` counts the oldest as taken."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self.length: int | None  # of this pass, whatever the loop makes of a sampler later
        self._drawn = self._consumed = 0

    def following(self, count: int) -> list[bytes]:
        """Return the keys of the next `count` batches to be drawn, or of those that are left."""
        end = self._drawn + count if self.length is None else min(self._drawn + count, self.length)
        return [self._opening.batch_key(number) for number in range(self._drawn, end)]

    @abstractmethod
    def is_over(self) -> bool:
        """Return whether the loop has taken the last index."""

    @abstractmethod
    def consumed(self) -> None:
        """Count the oldest index drawn as taken by the loop."""

    @abstractmethod
    def position(self) -> dict[str, Any]:
        """Return the batches consumed, and what leads a resume to the same order."""


class KnownOrder(Order):
    """An order that is known in whole: skipping costs nothing, and nothing that the loop does changes it.

    A position holds its name; `indices` are those of an order that has to be stored.
    """

    def __init__(
        self, opening: Opening, order: SequentialOrder | PackedOrder, facts: Mapping[str, Any], *, has_length: bool
    ) -> None:
        """`facts` are what the loader must have in common with that of the checkpoint."""
        super().__init__(opening)
        self._order, self._facts = order, facts
        self._item = order.__getitem__
        self._end = len(order)
        self.length = self._end if has_length else None
        self._drawn = self._consumed = opening.batches_done

    def __next__(self) -> KeyedBatch:
        number = self._drawn
        if number >= self._end:
            raise StopIteration
        self._drawn = number + 1
        return self._opening.batch_key(number), self._item(number), self._opening.epoch

    def is_over(self) -> bool:
        return self._consumed >= self._end

    def consumed(self) -> None:
        self._consumed += 1

    def position(self) -> dict[str, Any]:
        position = {"batches": self._consumed, "order": self._order.name, "sampler": {}, **self._facts}
        return position | {"indices": self._order} if isinstance(self._order, PackedOrder) else position


class DrawnOrder(Order):
    """Indices drawn lazily, possibly ahead of the loop.

    A resumed order is drawn again from the state in which the samplers began the pass, as far as it was drawn before.
    Only then do they get the states of the checkpoint (`now`, by role). So the rest of an order drawn at `iter()`
    stays, and what the loop wrote since then decides what is drawn next.
    """

    def __init__(self, loader: DataLoader[object], opening: Opening, now: SamplerStates) -> None:
        super().__init__(opening)
        self._sampler = index_sampler(loader)
        self._dataset = loader.dataset
        self._dataset_length = length_of(loader.dataset)
        self._stateful = stateful_samplers(loader)
        if opening.resume is not None:
            self._load(opening.resume)
        self.length = length_of(loader)
        self._state = copied_states(self._stateful)
        self._streams = PrivateStreams(opening.key, self._generators())
        self._indices: Iterator[object] | None = None
        self._unswapped = False  # True if indices may be drawn without swapping streams
        self._ended = False
        self._digest = xxhash.xxh3_128()
        self._ahead: deque[bytes] = deque()  # yielded, and not consumed yet
        self._kept: deque[object] = deque()  # drawn again on a resume, and not yielded yet
        if opening.resume is not None:
            self._skip(opening.resume, now)

    def __next__(self) -> KeyedBatch:
        index = self._kept.popleft() if self._kept else self._draw()
        self._ahead.append(encode_index(index))
        number = self._drawn
        self._drawn += 1
        return self._opening.batch_key(number), index, self._opening.epoch

    def is_over(self) -> bool:
        """Return whether the loop has taken the last index; draws one ahead where none is."""
        if not self._ahead and not self._kept:
            self._keep_one()
        return not self._ahead and not self._kept

    def consumed(self) -> None:
        self._digest.update(self._ahead.popleft())
        self._consumed += 1

    def position(self) -> dict[str, Any]:
        """Return the batches consumed, the digest of their indices, and the samplers' states at the start of the pass.

        Where samplers have a state, also return how far they were drawn, which their states as of now reflect, too.
        """
        position = {
            "batches": self._consumed,
            "order": self._digest.hexdigest(),
            "dataset_length": self._dataset_length,
            "sampler": self._state,
        }
        return position | {"drawn": self._all_drawn()} if self._stateful else position

    def whole(self) -> PackedOrder | None:
        """Draw everything at once, and return it; None where it cannot be stored, and what was drawn is kept."""
        packing = Packing(MAX_INDICES if self.length is not None else _MAX_WITHOUT_LENGTH)
        try:
            index = self._begin()
        except StopIteration:
            return packing.packed()
        assert self._indices is not None
        with self._streams:
            while index is not _END:
                if len(packing) == self.length or not packing.add(index):
                    self._kept.extend([*packing, index])
                    return None
                index = next(self._indices, _END)
        return packing.packed()

    def _all_drawn(self) -> dict[str, Any]:
        digest = self._digest.copy()
        for encoded in (*self._ahead, *map(encode_index, self._kept)):
            digest.update(encoded)
        return {"batches": self._drawn + len(self._kept), "order": digest.hexdigest(), "ended": self._ended}

    def _draw(self) -> object:
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

    def _begin(self) -> object:
        index = self._first()
        grown = self._generators()
        if grown.keys() - self._streams.generators.keys() and self._indices is not self._sampler:
            # A generator created when iterating began has no key yet; later passes would find and key it.
            self._load_states(self._state)
            index = self._first_again()
        if index is _END and self._stateful and self.length != 0:
            # A state from the end of the pass before may make this one begin there, as those of torchdata do.
            index = self._first_again()
        if draws_first_or_never(self._sampler):
            self._streams.leave_main_alone()
        self._unswapped = self._streams.swaps_nothing
        if index is _END:
            raise StopIteration
        return index

    def _first_again(self) -> object:
        self._streams = PrivateStreams(self._opening.key, self._generators())
        return self._first()

    def _first(self) -> object:
        with self._streams:
            self._indices = iter(self._sampler)
            return next(self._indices, _END)

    def _generators(self) -> Found:
        return find_generators(self._sampler, leave_out=(self._dataset,), rule=self._opening.generator_rule)

    def _load(self, resume: StoredPosition) -> None:
        refuse_other_length(self._opening, resume, self._dataset_length)
        refuse_other_samplers(self._opening, resume, self._stateful)
        self._load_states(resume["sampler"])

    def _load_states(self, states: SamplerStates) -> None:
        for role, sampler in self._stateful.items():
            load_sampler_state(sampler, states[role], self._opening.address, role)

    def _skip(self, resume: StoredPosition, now: SamplerStates) -> None:
        wanted = int(resume["batches"])
        found = self._discard(wanted) if wanted else 0
        self._drawn = self._consumed = found
        if found < wanted or self._digest.hexdigest() != resume["order"]:
            raise self._other_order(found, wanted)
        if "drawn" in resume:
            self._draw_ahead(resume["drawn"])
        elif self._changes_as_it_draws():
            return  # an earlier version did not store how far it had drawn, so its states match no place in the order
        for role, sampler in self._stateful.items():
            # A state may decide where the next iter() begins, so none is loaded without need.
            if role in now and not is_same_state(sampler.state_dict(), now[role]):
                load_sampler_state(sampler, now[role], self._opening.address, role)

    def _draw_ahead(self, drawn: Mapping[str, Any]) -> None:
        for _ in range(drawn["batches"] - self._consumed):
            self._keep_one()
        if drawn["ended"]:
            self._keep_one()
        if self._all_drawn() != drawn:
            raise self._other_order(drawn["batches"], drawn["batches"])

    def _changes_as_it_draws(self) -> bool:
        before = copied_states(self._stateful)
        if before:
            self._keep_one()
        return not is_same_state(before, copied_states(self._stateful))

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

    def _other_order(self, found: int, wanted: int) -> ChangedDataError:
        hint = _DRAWN_AS_IT_GOES if self._stateful else OTHER_ORDER
        return other_order(self._opening, found=found, wanted=wanted, hint=hint)


def refuse_other_length(opening: Opening, resume: StoredPosition, length: int | None) -> None:
    """Raise `ChangedDataError` where the dataset has another length than at the checkpoint."""
    before = resume["dataset_length"]
    if before != length:
        refuse_in_mid_pass(opening.address, {"dataset": (before, length)})


def refuse_other_samplers(opening: Opening, resume: StoredPosition, stateful: Samplers) -> None:
    """Raise `LoopError` where other samplers have a state than at the checkpoint."""
    states: dict[str, Any] = resume["sampler"]
    if states.keys() != stateful.keys():
        raise LoopError(
            f"{opening.address}: samplers with a state_dict are {sorted(stateful)}, in the checkpoint {sorted(states)}",
            "use the sampler that the run began with",
        )


def other_order(opening: Opening, *, found: int, wanted: int, hint: str) -> ChangedDataError:
    """Return the error for a sampler that does not lead to the position of the checkpoint."""
    what = (
        f"the sampler yields {found} batches, {wanted} were consumed before the checkpoint"
        if found < wanted
        else f"the order of the first {wanted} batches differs from the order before the checkpoint"
    )
    return ChangedDataError(f"{opening.address}: {what}", hint)


OTHER_ORDER = (
    "the sampler, its arguments, batch_size and drop_last must be as before. A sampler of your own must depend on "
    "nothing but its arguments, the random streams and set_epoch(). One that the loop writes to (weights, losses) "
    "needs state_dict and load_state_dict, for which a subclass is enough"
)
_DRAWN_AS_IT_GOES = (
    "the sampler, its arguments, batch_size and drop_last must be as before. What the loop writes to a sampler must "
    "take effect at its next iter(), and not in indices drawn later in the same pass: draw the whole order at the head "
    "of __iter__"
)
