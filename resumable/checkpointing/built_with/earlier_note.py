"""The settings in checkpoints of earlier versions: the numbers with which each optimizer was constructed at first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resumable.checkpointing.built_with.settings import Settings, plain
from resumable.state.objects.adapter import Adapter
from resumable.store.documents.manifest import Manifest

HYPERPARAMETERS = "hyperparameters"  # in the environment of a manifest


def earlier_values(manifest: Manifest, adapters: Mapping[str, Adapter], now: Settings) -> dict[str, list[Any]]:
    """Return by key the values of now, with those replaced that an optimizer is not constructed with any more."""
    noted = manifest.environment.get(HYPERPARAMETERS)
    found = {}
    for name, begun in noted.items() if isinstance(noted, dict) else ():
        defaults = getattr(adapters[name].target, "defaults", {}) if name in adapters else {}
        for key, value in begun.items() if isinstance(begun, dict) else ():
            setting = now.get(f"{name}.{key}")
            if setting is None or key not in defaults:
                continue
            is_other = _or_nothing(defaults[key]) != _or_nothing(value)
            found[f"{name}.{key}"] = [value if is_other else plain(each) for each in setting.values]
    return found


def _or_nothing(value: object) -> Any:
    try:
        return plain(value)
    except ValueError:
        return None
