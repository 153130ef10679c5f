"""The settings of loaders that a resume compares: batch size, length of the dataset. Independent of passes.

A pass in progress cannot go on with others. The next one can, and the change is logged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

from torch.utils.data import IterableDataset

from resumable.data.addresses import PassAddress
from resumable.data.mid_pass import in_words, refuse_in_mid_pass
from resumable.data.pass_base import StoredPosition, length_of
from resumable.data.passes.loader_kind import iterates_as_torch
from resumable.data.passes.replay import HELD

Settings: TypeAlias = dict[str, Any]

MAX_SLOTS = 64  # passes of an epoch, and cycles, whose settings are noted
_TRAINED = ("batches", "fit", "cycle")  # not evaluations, which no resume goes on in
_OF_A_PASS = ("batch_size", "dataset")  # with another one the rest of a pass is another pass
_NAMES = (*_OF_A_PASS, "length", "drop_last", "num_workers")
_VARY = "vary"  # those that the program itself changes from pass to pass


class LoaderSettings:
    """The settings of the loaders of one launch, by slot; `before` returns what the checkpoint notes of them.

    `before` is called when the first pass is opened: from then on the checkpoint of the launch is final. `report` gets
    the words for settings of a new pass that differ from those of the pass before it.
    """

    def __init__(
        self, before: Callable[[], object] = lambda: None, *, report: Callable[[str], object] = lambda words: None
    ) -> None:
        self._before = before
        self._seen: set[str] = set()
        self._report = report

    @functools.cached_property
    def _noted(self) -> dict[str, Settings]:
        return _slots_in(self._before())

    def note(self) -> object:
        """Return what a checkpoint notes; None for nothing."""
        return {slot: dict(each) for slot, each in self._noted.items()} or None

    def see(self, loader: object, address: PassAddress, resume: StoredPosition | None) -> None:
        """Compare a loader whose pass is opened; raise `ChangedDataError` where a pass in progress cannot go on."""
        slot = address.slot
        if address.loop.partition(":")[0] not in _TRAINED or len(self._noted.keys() | {slot}) > MAX_SLOTS:
            return
        now, before = settings_of(loader), self._noted.get(slot, {})
        changed = {name: (before[name], each) for name, each in now.items() if each != before.get(name, each)}
        if resume is not None and resume["batches"]:
            refuse_in_mid_pass(address, {name: values for name, values in changed.items() if name in _OF_A_PASS})
        vary = set(before.get(_VARY, ())) | (changed.keys() if slot in self._seen else set())
        self._seen.add(slot)
        self._noted[slot] = now | ({_VARY: sorted(vary)} if vary else {})
        reported = {name: values for name, values in changed.items() if name not in vary}
        if reported:
            self._report(in_words(address, reported))


def settings_of(loader: Any) -> Settings:
    """Return the settings of a loader that decide which batches it makes."""
    if not iterates_as_torch(loader):
        return {"length": length_of(loader)} if type(loader) in HELD else {}
    batches = loader if loader.batch_sampler is None else loader.batch_sampler
    found = {name: getattr(batches, name, None) for name in ("batch_size", "drop_last")}
    if isinstance(loader.dataset, IterableDataset):
        found["num_workers"] = loader.num_workers  # elsewhere any number makes the same batches
    else:
        found["dataset"] = length_of(loader.dataset)
    return {name: value for name, value in found.items() if isinstance(value, int)}


def _slots_in(noted: object) -> dict[str, Settings]:
    """Return what a checkpoint notes, which comes from anybody, without what has not its form."""
    slots = list(noted.items())[:MAX_SLOTS] if isinstance(noted, dict) else []
    return {slot: _settings_in(each) for slot, each in slots if isinstance(each, dict)}


def _settings_in(noted: dict[str, Any]) -> Settings:
    found: Settings = {name: noted[name] for name in _NAMES if isinstance(noted.get(name), int)}
    vary = noted.get(_VARY)
    return found | {_VARY: [name for name in _NAMES if name in vary]} if isinstance(vary, list) else found
