"""Compare the settings of a launch with those that a checkpoint notes. Pure: reads no object and no storage.

A note holds for each key the values in runs of equal ones, `[[0.1, 2], [0.01, 1]]`. What the program sets and a resume
replaced is noted beside it: so the value in effect is known, until a launch overrules it or is built with it again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from resumable.checkpointing.built_with.settings import MAX_ITEMS, MAX_PARTS, MAX_SETTINGS, Setting, Settings, plain
from resumable.utils.checks import is_count
from resumable.utils.messages import quoted

MAX_RUNS = 64  # of one setting

Runs: TypeAlias = list[list[Any]]
Noted: TypeAlias = Mapping[str, Sequence[Any]]
"""By key, the values of a setting."""


@dataclass(frozen=True)
class SettingChange:
    """A setting whose value at `place` is not the one in effect at the checkpoint."""

    key: str
    place: int
    path: str
    before: Any
    now: Any
    restored: bool
    is_new: bool
    """Whether the launch before was built otherwise, too: such a change is reported."""


def plain_values(settings: Settings) -> dict[str, list[Any]]:
    """Return the values of settings as JSON has them."""
    return {key: list(map(plain, setting.values)) for key, setting in settings.items()}


def runs_of(values: Noted) -> dict[str, Runs]:
    """Return values as a note holds them; leaves out what is too long."""
    noted = {}
    for key, each in itertools.islice(values.items(), MAX_SETTINGS):
        runs = [[json.loads(text), sum(1 for _ in equal)] for text, equal in itertools.groupby(each, key=json.dumps)]
        if len(runs) <= MAX_RUNS:
            noted[key] = runs
    return noted


def values_in(noted: object) -> dict[str, list[Any]]:
    """Return the values of a note, which comes from anybody; what has not its form is left out."""
    if not isinstance(noted, dict):
        return {}
    found = itertools.islice(noted.items(), MAX_SETTINGS)
    return {key: [value for value, count in runs for _ in range(count)] for key, runs in found if _are_runs(runs)}


def changes(now: Settings, built: Noted, in_effect: Noted) -> list[SettingChange]:
    """Return where a launch is built otherwise than with what is `in_effect`; `built` are those of the one before."""
    found = []
    for key, setting in now.items():
        if key in built and key in in_effect and _is_comparable(setting, built[key]):
            values = zip(setting.paths, built[key], in_effect[key], map(plain, setting.values), strict=False)
            for place, (path, last, before, value) in enumerate(values):
                if _is_other(value, before):
                    is_new = _is_other(value, last)
                    found.append(SettingChange(key, place, path, before, value, setting.restored, is_new))
    return found


def is_named(change: SettingChange, names: Collection[str]) -> bool:
    """Return whether one of the names is that of a change, or of its whole setting."""
    return change.key in names or change.path in names


def shown(changed: Iterable[SettingChange]) -> dict[str, str]:
    """Return the text of each change by its name: one for a whole setting that changes alike."""
    by_key: dict[str, list[SettingChange]] = {}
    for each in changed:
        by_key.setdefault(each.key, []).append(each)
    found = {}
    for key, group in by_key.items():
        texts = {f"{_text(each.before)}->{_text(each.now)}" for each in group}
        if len(group) > 1 and len(texts) == 1:
            found[key] = texts.pop()
        else:
            found |= {each.path: f"{_text(each.before)}->{_text(each.now)}" for each in group}
    return found


def _is_comparable(setting: Setting, before: Sequence[Any]) -> bool:
    # Groups are added in order; the parts of another structure are not the same parts.
    return setting.restored or len(setting.values) == len(before)


def _is_other(one: object, other: object) -> bool:
    return json.dumps(one) != json.dumps(other)  # for 1 equals True


def _text(value: Any) -> str:
    return quoted(json.dumps(value))


def _are_runs(runs: object) -> bool:
    if not isinstance(runs, list) or len(runs) > MAX_RUNS:
        return False
    return all(
        isinstance(run, list) and len(run) == 2 and is_count(run[1], below=MAX_PARTS + 1) and _is_value(run[0])
        for run in runs
    )


def _is_value(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= MAX_ITEMS and all(map(_is_value, value))
    return value is None or isinstance(value, bool | int | float | str)
