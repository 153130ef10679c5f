"""What one launch was built with: noted in its checkpoints, compared at its resume, and overruled where it is named."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from resumable.checkpointing.built_with.changes import (
    SettingChange,
    changes,
    is_named,
    plain_values,
    runs_of,
    shown,
    values_in,
)
from resumable.checkpointing.built_with.earlier_note import earlier_values
from resumable.checkpointing.built_with.overrule import overrule
from resumable.checkpointing.built_with.settings import Setting, Settings, settings_of
from resumable.config.config import Config
from resumable.errors import ConfigError
from resumable.run.checkpoint import Checkpoint
from resumable.state.objects.adapter import Adapter
from resumable.utils.events import emit
from resumable.utils.messages import listed, nearest, quoted

NOTE = "built_with"  # its key in the notes of a checkpoint

_MOST = 12  # names in a line
_SETTINGS, _IN_EFFECT = "settings", "in_effect"

# A notebook gives the objects of an earlier launch, trained meanwhile, to a new launch of the same run.
_first_seen: dict[int, dict[tuple[str, str], Settings]] = {}  # by id, for metrics have hashes that change


class BuiltWith:
    """The settings of the objects of one launch, as they were when it got them, before anything was restored.

    Raises `ConfigError` where the config overrules what no given object has.
    """

    def __init__(self, config: Config, adapters: Mapping[str, Adapter]) -> None:
        self._run, self._overruled = config.run, config.overrule
        self._settings: dict[str, Setting] = {}
        self._seen: set[str] = set()
        self._noted: object = None  # once for all checkpoints
        self._compared: set[str] = set()
        self._overruling: list[SettingChange] = []
        self._in_effect: dict[str, list[Any]] = {}  # by key, where it is not what this launch was built with
        self.see(adapters)
        if any(each.restored for each in self._settings.values()):  # or a framework builds its optimizer later
            self._refuse_unknown()

    def see(self, adapters: Mapping[str, Adapter]) -> None:
        """Note the settings of those objects that were not seen before."""
        for name in [each for each in adapters if each not in self._seen]:  # in their order, as lines name them
            self._seen.add(name)
            self._settings |= _at_first(self._run, name, adapters[name].target)
            self._noted = None

    def note(self) -> object:
        """Return what a checkpoint notes: the settings of this launch, and what is in effect in place of some."""
        if self._noted is None and self._settings:
            first = dict(sorted(self._settings.items(), key=lambda each: not each[1].restored))
            self._noted = {_SETTINGS: runs_of(plain_values(first)), _IN_EFFECT: runs_of(self._in_effect)}
        return self._noted

    def compare(self, resumed: Checkpoint, adapters: Mapping[str, Adapter]) -> None:
        """Compare these objects with those of the launch that wrote the checkpoint, once each; log what differs."""
        self._refuse_unknown()
        names = adapters.keys() - self._compared
        self._compared |= names
        self._noted = None
        now = {key: each for key, each in self._settings.items() if key.partition(".")[0] in names}
        note = resumed.notes.get(NOTE)
        if isinstance(note, dict):
            built = values_in(note.get(_SETTINGS))
            found = changes(now, built, built | values_in(note.get(_IN_EFFECT)))
        else:
            built = earlier_values(resumed.manifest, adapters, now)
            found = changes(now, built, built)
        self._overruling += [each for each in found if self._is_overruled(each)]
        for each in found:
            if each.restored and not self._is_overruled(each):
                self._in_effect.setdefault(each.key, plain_values(now)[each.key])[each.place] = each.before
        self._report(found)

    def overrule(self, adapters: Mapping[str, Adapter]) -> None:
        """Set what the config overrules; to be called after each restore."""
        overrule(self._overruling, self._settings, adapters)

    def _is_overruled(self, change: SettingChange) -> bool:
        return change.restored and is_named(change, self._overruled)

    def _report(self, found: list[SettingChange]) -> None:
        kept = shown(each for each in found if each.restored and each.is_new and not self._is_overruled(each))
        if kept:
            emit(
                "CHANGED",
                _in_words(kept),
                note=f"the checkpoint's are used; to use this launch's: overrule: [{listed(kept, most=_MOST)}]",
            )
        used = shown(each for each in found if self._is_overruled(each) or (each.is_new and not each.restored))
        if used:
            emit("CHANGED", _in_words(used), note="this launch's are used from here on")

    def _refuse_unknown(self) -> None:
        """Raise `ConfigError` for a name to overrule that no setting has."""
        known = {path for key, each in self._settings.items() for path in (key, *each.paths)}
        for name in self._overruled:
            if name in known:
                continue
            guess = nearest(name, known, cutoff=0)
            raise ConfigError(
                f"config: overrule: expected the name of a setting of this launch, found {quoted(name)!r}"
                + (f"; the nearest is {guess[0]!r}" if guess else ""),
                "the CHANGED line of a resume names those that differ",
            )


def _at_first(run: str, name: str, target: object) -> Settings:
    """Return the settings of an object, as this program first gave it to a launch of this run."""
    found, key = settings_of(name, target), id(target)
    if not found:
        return found
    if key not in _first_seen:
        try:
            weakref.finalize(target, _first_seen.pop, key, None).atexit = False
        except TypeError:  # it has no weak references
            return found
        _first_seen[key] = {}
    return _first_seen[key].setdefault((run, name), found)


def _in_words(changed: Mapping[str, str]) -> str:
    return listed((f"{name} {change}" for name, change in changed.items()), most=_MOST)
