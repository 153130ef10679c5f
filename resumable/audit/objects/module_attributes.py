"""Plain attributes of the modules that were given: `model.temperature`, `dropout.p`. No checkpoint has them.

Numbers count wherever they change. Tensors and containers, such as a hidden state, count where the loop's code changes
an attribute of their name.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping

import torch

from resumable.audit.names.clocks_and_handles import is_clock
from resumable.audit.objects.findings import Finding, Weight, difference
from resumable.audit.objects.fingerprint import Fingerprint, Fingerprints
from resumable.audit.objects.plain_reads import attributes_of, is_a, submodules

_TYPES = (bool, int, float)
_ADVICE = "keep it in a buffer of the module, or in a dict that is passed to Trainer(...)"
_SKIPPED = {"training", "track_running_stats"}  # saved, or a flag that freezing sets
_METRICS = "torchmetrics"  # its modules keep states in attributes, and save those that are persistent


class ModuleAttributes:
    """The numbers among the attributes of given modules, at the last look."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[weakref.ref[torch.nn.Module], Fingerprint]] = {}

    def look(
        self, given: Mapping[str, object], set_only: Collection[str], changed: Collection[str], ids: Collection[int]
    ) -> list[Finding]:
        """Return the attributes that changed, but for those that the loop only ever sets (`set_only`).

        `changed` are the names of attributes that the loop's code changes, `ids` those of what the launch was given.
        """
        found, fingerprints = [], Fingerprints(ids)
        for path, module, name, value in _attributes(given, changed, ids):
            place, now = f"{path}.{name}", fingerprints.of(value)
            then, before = self._seen.get(place, (None, now))
            self._seen[place] = weakref.ref(module), now
            is_same = then is not None and then() is module  # or it was replaced, which is a change of the structure
            text = difference(before, now) if is_same and name not in set_only else None
            if text is not None:
                what = f"changes in the loop and is in no checkpoint ({text})"
                found.append(Finding(place, what, _ADVICE, Weight.STRONG))
        return found


def _attributes(
    given: Mapping[str, object], changed: Collection[str], ids: Collection[int]
) -> Iterator[tuple[str, torch.nn.Module, str, object]]:
    for name, module in given.items():
        for path, part in submodules(module) if is_a(module, torch.nn.Module) else ():
            if type(part).__module__.partition(".")[0] == _METRICS:
                continue
            for attribute, value in attributes_of(part).items():
                is_state = attribute in changed and _is_state(value) and id(value) not in ids
                if (type(value) in _TYPES or is_state) and _is_plain(attribute) and not is_clock(value):
                    yield f"{name}.{path}" if path else name, part, attribute, value


def _is_plain(attribute: str) -> bool:
    return attribute[:1] != "_" and attribute not in _SKIPPED


def _is_state(value: object) -> bool:
    return value is None or is_a(value, (torch.Tensor, tuple, list, dict))
