"""Opens passes over whatever a loop is given, and keeps what outlives a pass; knows no storage and no loops.

Three ways: a map-style dataset goes by address, an iterable dataset by its state or by replay, all else by replay.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, IterDataPipe

from resumable.data.addresses import PassAddress
from resumable.data.iterable_style import StreamPass, StreamSource
from resumable.data.map_style import KeyedPass, KeyedSource
from resumable.data.pass_base import FinishedPass, Opening, Pass, Position, Skipping, announce_epoch, length_of
from resumable.data.replay import ReplayPass, type_of, workers_of
from resumable.data.rng.find_generators import NEWEST_RULE, missing_key_warning
from resumable.data.sampler_state import States, state_of, stateful_parts, states_of
from resumable.data.sampler_state import load as load_sampler
from resumable.errors import CorruptCheckpointError, LoopError

__all__ = ["Data", "Pass", "PassAddress"]

# What a position by each way of reading holds at least.
_PARTS = {
    "address": {"batches", "order", "dataset_length", "sampler"},
    "state": {"batches", "workers", "dataset"},
    "replay": {"batches", "workers"},
}
_DRAWN = {"batches": int, "order": str, "ended": bool}  # how far stateful samplers were drawn

_open: weakref.WeakSet[Data] = weakref.WeakSet()


class Data:
    """The data side of one trainer: passes by address, and the workers that live across passes."""

    def __init__(
        self,
        data_seed: int,
        *,
        signals: Sequence[int] = (),
        warn: Callable[[str], None],
        skipping: Skipping,
        generator_rule: int = NEWEST_RULE,
        restored_elsewhere: Collection[Any] = (),
    ) -> None:
        """`signals` are ignored by loader workers; `skipping(what, total)` shows the progress of a replay.

        `generator_rule` is the number of the rule by which the run finds random generators. `restored_elsewhere` are
        objects that have their state back before `load` is called; samplers may be among them.
        """
        self._data_seed = data_seed
        self._generator_rule = generator_rule
        self._searched: set[int] = set()
        self._warned: set[str] = set()
        self._signals = tuple(int(number) for number in signals)
        self._warn = warn
        self._skipping = skipping
        self._owner = os.getpid()
        self._sources: dict[tuple[str, int, str], KeyedSource | StreamSource] = {}
        self._carried: dict[str, Any] = {}
        self._known: dict[str, Mapping[str, Any]] = {}  # samplers by role, by what they were met in
        self._settled = weakref.WeakValueDictionary[int, Any]()  # samplers whose state is right
        self._objects = tuple(restored_elsewhere)  # kept alive for the sake of their ids
        self._restored_elsewhere = frozenset(map(id, self._objects))
        self._passes: weakref.WeakSet[Pass] = weakref.WeakSet()
        _open.add(self)

    def open(self, loader: Any, address: PassAddress, resume: Position | None = None, *, set_epoch: int | None) -> Pass:
        """One pass over `loader`, from `resume` (what `Pass.position()` returned) or its start.

        Indices that were consumed are drawn again and compared; no sample is read for them. What has no indices is
        replayed, which blocks. `LoopError` where the data, its order, or the way of loading is not as it was.
        """
        _refuse(loader, address)
        if resume is not None and resume.get("finished"):
            return FinishedPass(address, resume, length_of(loader))
        opening = Opening(
            self._data_seed,
            address,
            set_epoch,
            resume,
            self._signals,
            self._warn,
            self._skipping,
            self._generator_rule,
        )
        kind = _kind(loader)
        self._tell_unkeyed(kind, loader)
        _check_kind(kind, opening)
        opened = self._open_as(kind, loader, opening)
        self._passes.add(opened)
        return opened

    def _open_as(self, kind: str, loader: Any, opening: Opening) -> Pass:
        if kind == "address":
            return self._open_by_address(loader, opening)
        announce_epoch(loader, opening.epoch)
        if kind == "stream":
            return StreamPass(loader, opening, self._source(loader, opening.address.loop, StreamSource))
        return ReplayPass(loader, opening)

    def _tell_unkeyed(self, kind: str, loader: Any) -> None:
        """Warn once of generators that get no key; here, because workers would each say it."""
        parts = {"loader": loader} if kind == "replay" else {"dataset": loader.dataset, "collate_fn": loader.collate_fn}
        if kind == "address":
            parts["sampler"] = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        read = next(iter(parts.values()))
        if id(read) in self._searched:
            return
        self._searched.add(id(read))
        reason = missing_key_warning(self._generator_rule, **parts)
        if reason is not None and reason not in self._warned:
            self._warned.add(reason)
            self._warn(f"{type_of(read)}: {reason}")

    def state(self) -> dict[str, Any]:
        """States of samplers that have one and live from pass to pass, as of now; for `load` in a later attempt."""
        return self._carried | {slot: states_of(parts) for slot, parts in self._known.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take what `state()` returned: samplers that were met in this attempt stand there at once, others when met."""
        self._carried = dict(state)
        self._settled.clear()
        for slot, parts in self._known.items():
            self._give(parts, self._carried.get(slot, {}), slot)

    def passed(self, loader: Any, address: PassAddress) -> None:
        """Meet the samplers of a pass that was over before the checkpoint: they stand where they stood then."""
        if _kind(loader) == "address":
            self._meet(stateful_parts(loader), _slot(address))

    def close(self) -> None:
        """End every worker. Passes that are open become errors to go on with. Nothing in a forked child."""
        if os.getpid() != self._owner:
            return  # the workers of a parent are not ours to end
        for opened in list(self._passes):
            opened.close()
        for source in self._sources.values():
            source.close()
        self._sources.clear()

    def _open_by_address(self, loader: Any, opening: Opening) -> Pass:
        parts, slot = stateful_parts(loader), _slot(opening.address)
        if opening.resume is None:
            now: States = {}
        else:  # its order is drawn again before its samplers stand where they stood
            settled = {role: state_of(part) for role, part in parts.items() if self._is_settled(part)}
            now = self._carried.pop(slot, {}) | settled
        self._meet(parts, slot)
        announce_epoch(loader, opening.epoch)  # behind the state of the pass before, which may hold that one's epoch
        return KeyedPass(loader, opening, self._source(loader, opening.address.loop, KeyedSource), now)

    def _meet(self, parts: Mapping[str, Any], slot: str) -> None:
        self._give(parts, self._carried.pop(slot, {}), slot)
        if parts:
            self._known[slot] = parts

    def _give(self, parts: Mapping[str, Any], states: States, slot: str) -> None:
        for role, part in parts.items():
            if role in states and not self._is_settled(part):
                load_sampler(part, states[role], slot, role)
        self._settled.update({id(part): part for part in parts.values()})

    def _is_settled(self, part: Any) -> bool:
        # Restored with the objects, or gone on in another pass: it stands there by itself.
        return id(part) in self._restored_elsewhere or self._settled.get(id(part)) is part

    def _source(self, loader: Any, loop: str, kind: type[KeyedSource] | type[StreamSource]) -> Any:
        # One per loop: evaluating over the very loader that a training pass is using must not take its workers.
        place = (loop, id(loader), kind.__name__)
        if place not in self._sources:
            self._sources[place] = kind()
            weakref.finalize(loader, _forget, weakref.ref(self), place).atexit = False
        return self._sources[place]


def _is_drawn(value: Any, *, at_least: int) -> bool:
    fits = isinstance(value, dict) and all(type(value.get(key)) is kind for key, kind in _DRAWN.items())
    return fits and value["batches"] >= at_least


def _slot(address: PassAddress) -> str:
    # Passes of an epoch may be over different loaders; those of a cycle are all over one, and have no end.
    return address.loop if address.loop.startswith("cycle:") else f"{address.loop}/{address.number}"


def _forget(data: weakref.ref[Data], place: tuple[str, int, str]) -> None:
    alive = data()
    source = alive._sources.pop(place, None) if alive is not None else None
    if source is not None:
        source.close()


@atexit.register
def _close_all() -> None:
    # Registered after torch's own, so run before it: once that ran, workers are no longer ended in an orderly way.
    for data in list(_open):
        data.close()


def _refuse(loader: Any, address: PassAddress) -> None:
    if getattr(loader, "in_order", True) is False and workers_of(loader) > 0:
        raise LoopError(
            f"{address}: the loader has in_order=False, so batches come in the order in which workers finish",
            "leave in_order at True: without it no run can be repeated",
        )
    if not hasattr(type(loader), "__iter__") and not hasattr(type(loader), "__getitem__"):
        raise LoopError(f"{address}: {type_of(loader)} cannot be iterated", "pass a DataLoader or another iterable")


def _kind(loader: Any) -> str:
    """How this loader is read: by address, as a stream, or by replay."""
    plain = _iterates_as_torch(type(loader)) and not isinstance(loader.dataset, IterDataPipe)
    if not plain:
        return "replay"
    return "stream" if isinstance(loader.dataset, IterableDataset) else "address"


def _iterates_as_torch(kind: type) -> bool:
    bases: list[Any] = [DataLoader]
    module = sys.modules.get("torchdata.stateful_dataloader.stateful_dataloader")
    if module is not None:
        bases.append(module.StatefulDataLoader)
    names = ("__iter__", "_get_iterator", "_index_sampler", "_auto_collation")
    return any(all(getattr(kind, name, None) is getattr(base, name) for name in names) for base in bases)


def _check_kind(kind: str, opening: Opening) -> None:
    if opening.resume is None:
        return
    before = opening.resume.get("kind")
    fits = {"address": ("address",), "stream": ("state", "replay"), "replay": ("replay",)}[kind]
    if before not in fits:
        raise LoopError(
            f"{opening.address}: the checkpoint holds a position by {before}, but this loader goes by {kind}",
            "resume with the kind of loader and dataset that the run began with",
        )
    whole = _PARTS[before] <= opening.resume.keys() and isinstance(opening.resume.get("sampler", {}), dict)
    drawn = "drawn" not in opening.resume or _is_drawn(opening.resume["drawn"], at_least=opening.batches_done)
    if not whole or not drawn:
        raise CorruptCheckpointError(f"{opening.address}: not the position of a pass by {before}")
