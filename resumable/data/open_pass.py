"""Open passes over the loaders of a trainer, and hold what outlives a pass. Independent of storage and loops."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

from torch.utils.data import DataLoader, IterableDataset

from resumable.data.addresses import PassAddress
from resumable.data.libraries.torchdata_threads import threads_warning
from resumable.data.libraries.webdataset_shuffles import unseeded_warning
from resumable.data.loader_settings import LoaderSettings
from resumable.data.loader_states import LoaderStates
from resumable.data.pass_base import FinishedPass, Opening, Pass, Skipping, StoredPosition, length_of
from resumable.data.passes.in_order import RangePass
from resumable.data.passes.iterable_style import StreamPass, StreamSource
from resumable.data.passes.loader_kind import LoaderKind, check_position, iterates_as_torch, loader_kind, refuse_loader
from resumable.data.passes.loader_stream import stream_of
from resumable.data.passes.map_style import KeyedPass, KeyedSource
from resumable.data.passes.prepared import FollowedPass, PreparedPass
from resumable.data.passes.replay import ReplayPass, type_of
from resumable.data.passes.state_trial import Verdict
from resumable.data.rng.find_generators import NEWEST_RULE, missing_key_warning
from resumable.data.sampling.set_epoch import announce_epoch
from resumable.prepared.loaders import PreparedLoader, prepared_loader, seed_samplers
from resumable.stateful import Stateful

__all__ = ["Data", "Pass", "PassAddress"]

T = TypeVar("T")

# The data of every trainer that still lives: its workers end when the program does.
_all_data: weakref.WeakSet[Data] = weakref.WeakSet()


class Data:
    """The data side of one trainer: passes by address, and the workers that live across passes."""

    def __init__(
        self,
        data_seed: int,
        *,
        signals: Sequence[int] = (),
        warn: Callable[[str], None],
        skipping: Skipping,
        tolerates_others: bool = False,
        generator_rule: int = NEWEST_RULE,
        unwraps: bool = True,
        restored_elsewhere: Collection[object] = (),
        settings: LoaderSettings | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            data_seed: The seed that all keys of the run are made of.
            signals: Signals that loader workers ignore.
            warn: Logs one warning.
            skipping: `skipping(what, total)` is a context in which a replay shows its progress.
            tolerates_others: Whether a resume that makes other batches goes on with a warning.
            generator_rule: The number of the rule by which the run finds random generators.
            unwraps: Whether the run reads the plain loader inside a prepared one; runs of earlier versions do not.
            restored_elsewhere: Objects whose state is restored before `load` is called; samplers may be among them.
            settings: Compares the settings of loaders with those that the checkpoint notes.
        """
        self._data_seed = data_seed
        self._generator_rule = generator_rule
        self._unwraps = unwraps
        self._searched: set[int] = set()  # ids of what was searched for generators without a key
        self._warned: set[str] = set()
        self._settings = settings or LoaderSettings()
        self._verdicts: dict[int, Verdict] = {}  # on the states of datasets, by their ids
        self._signals = tuple(int(number) for number in signals)
        self._warn = warn
        self._tolerate = warn if tolerates_others else None
        self._skipping = skipping
        self._process = os.getpid()
        self._keyed = _Sources(KeyedSource)
        self._streams = _Sources(StreamSource)
        self._states = LoaderStates(self._warn_once, restored_elsewhere=restored_elsewhere)
        self._passes: weakref.WeakSet[Pass[object]] = weakref.WeakSet()
        _all_data.add(self)

    def follow(self, *, generator_rule: int, unwraps: bool) -> None:
        """Follow the rules of a run that another launch has begun meanwhile; no pass is open yet."""
        self._generator_rule, self._unwraps = generator_rule, unwraps

    def open(
        self, loader: Iterable[T], address: PassAddress, resume: StoredPosition | None = None, *, set_epoch: int | None
    ) -> Pass[T]:
        """Open one pass over `loader`, from `resume` or its start.

        Indices that were consumed are drawn again and compared; no sample is read for them. What has no indices is
        replayed, which blocks.

        Args:
            loader: A DataLoader or any iterable.
            address: The address of the pass, of which its keys are made.
            resume: What `Pass.position()` returned at the checkpoint.
            set_epoch: The argument of `set_epoch` for the loader and its parts; None calls none.

        Raises:
            LoopError: The data, its order, or the way of loading changed since the checkpoint.
        """
        prepared = self._prepared(loader)
        plain: Iterable[Any] = loader if prepared is None else prepared.plain
        refuse_loader(plain, address)
        if resume is not None and resume.get("finished"):
            return FinishedPass(address, resume, length_of(loader))
        self._settings.see(plain, address, resume)
        opening = Opening(
            self._data_seed,
            address,
            set_epoch,
            resume,
            self._signals,
            self._warn,
            self._tolerate,
            self._skipping,
            self._generator_rule,
        )
        kind = loader_kind(plain)
        self._warn_of_missing_keys(kind, plain)
        check_position(kind, opening)
        opened = self._open(plain, opening) if prepared is None else self._open_prepared(prepared, opening)
        self._passes.add(opened)
        return opened

    def _prepared(self, loader: object) -> PreparedLoader | None:
        """Return the parts of a prepared loader whose plain loader can take its place, else None."""
        prepared = prepared_loader(loader) if self._unwraps else None
        if prepared is None:
            return None
        # The last batch of a stream shows only by reading on, which would move the state of the stream.
        readable = ("address", "stream") if prepared.follower is None else ("address",)
        return prepared if loader_kind(prepared.plain) in readable else None

    def _open_prepared(self, prepared: PreparedLoader, opening: Opening) -> Pass[Any]:
        if loader_kind(prepared.plain) == "address":
            seed_samplers(prepared.plain, opening.key)
        opened = self._open(prepared.plain, opening)
        # A cycle stays open while other passes begin and end, in an order that a resume does not repeat.
        if prepared.follower is None or opening.address.is_cycle or not isinstance(opened, KeyedPass):
            return PreparedPass(opened, prepared)
        return FollowedPass(opened, prepared)

    def _open(self, loader: Iterable[T], opening: Opening) -> Pass[T]:
        if not iterates_as_torch(loader):
            announce_epoch(loader, opening.epoch)
            if type(loader) is range and (opening.resume is None or "order" in opening.resume):
                return cast(Pass[T], RangePass(loader, opening))
            # A run of an earlier version replays these, under other streams.
            if loader_kind(loader) == "loader" and (opening.resume is None or opening.resume["kind"] == "state"):
                stream = stream_of(cast(Stateful, loader), rule=opening.generator_rule)
                return StreamPass(stream, opening, StreamSource(), self._verdicts)
            return ReplayPass(loader, opening)
        if not isinstance(loader.dataset, IterableDataset):
            return self._open_by_address(loader, opening)
        announce_epoch(loader, opening.epoch)
        return StreamPass(loader, opening, self._streams.of(loader, opening.address.loop), self._verdicts)

    def _warn_of_missing_keys(self, kind: LoaderKind, loader: Any) -> None:
        """Warn once of generators that get no key; here, because every worker would repeat the warning."""
        whole = kind in ("loader", "replay")
        parts = {"loader": loader} if whole else {"dataset": loader.dataset, "collate_fn": loader.collate_fn}
        if kind == "address":
            parts["sampler"] = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        read = next(iter(parts.values()))
        if id(read) in self._searched:
            return
        self._searched.add(id(read))
        if kind != "address":
            self._warn_once(read, unseeded_warning(read))
            self._warn_once(read, threads_warning(read))
        warning = missing_key_warning(self._generator_rule, **parts)
        self._warn_once(read, warning)

    def _warn_once(self, about: object, warning: str | None) -> None:
        if warning is not None and warning not in self._warned:
            self._warned.add(warning)
            self._warn(f"{type_of(about)}: {warning}")

    def state(self) -> dict[str, Any]:
        """Return the states of samplers and map-style datasets, as of now; for `load` in a later attempt."""
        return self._states.now()

    def load(self, state: Mapping[str, Any]) -> None:
        """Load what `state()` returned: into samplers of this attempt at once, into others when they appear."""
        self._states.load(state)

    def passed(self, loader: object, address: PassAddress) -> None:
        """Restore the samplers of a pass that was over before the checkpoint to their states at the checkpoint."""
        prepared = self._prepared(loader)
        plain: object = loader if prepared is None else prepared.plain
        if iterates_as_torch(plain) and not isinstance(plain.dataset, IterableDataset):
            self._states.passed(plain, address)

    def close(self) -> None:
        """Shut down all workers; iterating an open pass afterwards raises `LoopError`. No-op in a forked child."""
        if os.getpid() != self._process:
            return  # the workers belong to the parent
        for opened in list(self._passes):
            opened.close()
        self._keyed.close()
        self._streams.close()

    def _open_by_address(self, loader: DataLoader[Any], opening: Opening) -> KeyedPass:
        now = self._states.begin(loader, opening.address, resumes=opening.resume is not None)
        announce_epoch(loader, opening.epoch)  # after the state of the pass before, which may hold that pass's epoch
        return KeyedPass(loader, opening, self._keyed.of(loader, opening.address.loop), now)


class _Closable(Protocol):
    def close(self) -> None: ...


S = TypeVar("S", bound=_Closable)


class _Sources(Generic[S]):
    """The sources of batches of each loop and loader; a source is closed when its loader is collected."""

    def __init__(self, make: Callable[[], S]) -> None:
        self._make = make
        self._sources: dict[tuple[str, int], S] = {}

    def of(self, loader: object, loop: str) -> S:
        # One per loop: evaluating over the very loader that a training pass is using must not take its workers.
        key = (loop, id(loader))
        if key not in self._sources:
            self._sources[key] = self._make()
            weakref.finalize(loader, _drop, weakref.ref(self), key).atexit = False
        return self._sources[key]

    def drop(self, key: tuple[str, int]) -> None:
        source = self._sources.pop(key, None)
        if source is not None:
            source.close()

    def close(self) -> None:
        while self._sources:
            self.drop(next(iter(self._sources)))


def _drop(sources: weakref.ref[_Sources[S]], key: tuple[str, int]) -> None:
    alive = sources()
    if alive is not None:
        alive.drop(key)


@atexit.register
def _close_all() -> None:
    # Registered after torch's own, so it runs before: afterwards workers are no longer shut down in order.
    for data in list(_all_data):
        data.close()
