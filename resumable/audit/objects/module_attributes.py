"""Plain attributes of the modules that were given: `model.temperature`, `dropout.p`. No checkpoint has them."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping

import torch

from resumable.audit.names.clocks_and_handles import is_clock
from resumable.audit.objects.findings import Finding, Weight
from resumable.audit.objects.plain_reads import attributes_of, is_a, submodules

_TYPES = (bool, int, float)
_ADVICE = "keep it in a buffer of the module, or in a dict that is passed to Trainer(...)"
_SKIPPED = {"training", "track_running_stats"}  # saved, or a flag that freezing sets
_METRICS = "torchmetrics"  # its modules keep states in attributes, and save those that are persistent


class ModuleAttributes:
    """The numbers among the attributes of given modules, at the last look."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[weakref.ref[torch.nn.Module], str]] = {}

    def look(self, given: Mapping[str, object], set_only: Collection[str]) -> list[Finding]:
        """Return the attributes that changed, but for those that the loop only ever sets (`set_only`)."""
        found = []
        for path, module, name, value in _numbers(given):
            place, text = f"{path}.{name}", repr(value)
            then, before = self._seen.get(place, (None, text))
            is_same = then is not None and then() is module  # or it was replaced, which is a change of the structure
            if is_same and before != text and name not in set_only:
                what = f"changes in the loop and is in no checkpoint (it was {before} and is {text})"
                found.append(Finding(place, what, _ADVICE, Weight.STRONG))
            self._seen[place] = weakref.ref(module), text
        return found


def _numbers(given: Mapping[str, object]) -> Iterator[tuple[str, torch.nn.Module, str, object]]:
    for name, module in given.items():
        for path, part in submodules(module) if is_a(module, torch.nn.Module) else ():
            if type(part).__module__.partition(".")[0] == _METRICS:
                continue
            for attribute, value in attributes_of(part).items():
                if type(value) in _TYPES and attribute[:1] != "_" and attribute not in _SKIPPED and not is_clock(value):
                    yield f"{name}.{path}" if path else name, part, attribute, value
