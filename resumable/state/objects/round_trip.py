"""Compares a live object with its stored state, value by value and bit by bit; changes neither."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resumable.errors import StateError
from resumable.state.codec.encoder import encode
from resumable.state.objects.adapter import Adapter, taking
from resumable.state.tensors.facts import DigestedRecord, TensorFacts, facts_of, same_place, tensor_digest
from resumable.utils.messages import listed
from resumable.utils.threads import in_lanes

_TENSOR_TAGS = ("$tensor", "$array", "$octets")
_PAIR_TAGS = ("$dict", "$counter")
_SHOWN = 5
_THREADS = min(4, os.cpu_count() or 1)


Records = Mapping[str, DigestedRecord]


@dataclass(frozen=True)
class Compared:
    """How a live object differs from its stored state, in words, and which of its tensors do not."""

    differences: list[str]
    unchanged: set[str]


def verify_round_trip(
    adapter: Adapter, document: Any, records: Records, *, proven: Mapping[str, Tensor] | None = None
) -> None:
    """Capture the live object and compare it with its stored `document` and tensor `records`: types, dtypes, bits.

    Raises `StateError` that names the first differences.
    """
    found = compare(adapter, document, records, proven=proven).differences
    if found:
        raise StateError(
            f"{adapter.name} ({adapter.type}) is not as it was saved: {listed(found, most=_SHOWN, separator='; ')}",
            "its load_state_dict must take back exactly what its state_dict gave",
        )


def differences(adapter: Adapter, document: Any, records: Records) -> list[str]:
    """Where the live object differs from its stored state, as `path: stored X, here Y`; empty where nowhere."""
    return compare(adapter, document, records).differences


def compare(
    adapter: Adapter, document: Any, records: Records, *, proven: Mapping[str, Tensor] | None = None
) -> Compared:
    """Capture the live object and compare it with its stored state.

    `proven` are tensors whose digests were found right and that nobody has written to since. If all the live ones are
    these, in the same memory, they are not digested again. If one is not, it may have been copied over another.
    """
    live = encode(adapter.capture(), key_of=adapter.key_of, where=adapter.name)
    known = {key: records[key].digest for key in live.tensors if key in records}
    if proven is None or not _are(live.tensors, proven, known):
        alike = {
            key: tensor for key, tensor in live.tensors.items() if key in known and _is_alike(tensor, records[key])
        }
        known = tensor_digests(alike)
    comparison = _Comparison(records, live.tensors, known)
    with taking(adapter.name):
        then, now = adapter.comparable(document), adapter.comparable(live.document)
        same = comparison.tensors_are_alike() and json.dumps(then) == json.dumps(now)
        found = [] if same else list(comparison.nodes(then, now, adapter.name))
    return Compared(found, {key for key, digest in known.items() if digest == records[key].digest})


def tensor_digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The digest of each tensor, several at a time."""
    return dict(zip(tensors, in_lanes(tensor_digest, list(tensors.values()), _THREADS), strict=True))


def _are(live: Mapping[str, Tensor], proven: Mapping[str, Tensor], keys: Iterable[str]) -> bool:
    return all(key in proven and same_place(live[key]) == same_place(proven[key]) for key in keys)


def _is_alike(tensor: Tensor, record: DigestedRecord) -> bool:
    return facts_of(tensor) == TensorFacts.recorded(record)


class _Comparison:
    def __init__(self, records: Records, tensors: Mapping[str, Tensor], digests: dict[str, str]) -> None:
        self._records = records
        self._tensors = tensors
        self._digests = digests

    def tensors_are_alike(self) -> bool:
        """Whether each live tensor is known to be the one that is stored under its very key.

        With equal texts of the documents, which tell all types apart, there is then no difference to be looked for.
        """
        return all(
            key in self._digests
            and self._digests[key] == self._records[key].digest
            and _is_alike(tensor, self._records[key])
            for key, tensor in self._tensors.items()
        )

    def nodes(self, saved: Any, live: Any, path: str) -> Iterator[str]:
        if type(saved) is not type(live):
            yield _difference(path, saved, live)
        elif type(saved) is dict:
            yield from self._objects(saved, live, path)
        elif type(saved) is list:
            yield from self._lists(saved, live, path)
        elif saved != live or (type(saved) is float and str(saved) != str(live)):
            yield _difference(path, saved, live)

    def _objects(self, saved: dict[str, Any], live: dict[str, Any], path: str) -> Iterator[str]:
        tag = next(iter(saved), "")
        if tag.startswith("$") and saved.keys() != live.keys():
            yield _difference(path, saved, live)
        elif tag in _TENSOR_TAGS:
            yield from self._stored(saved[tag], live[tag], path)
        elif tag in _PAIR_TAGS:
            yield from self.nodes(_by_key(saved[tag]), _by_key(live[tag]), path)
        else:
            yield from (f"{path}.{key}: stored, but not here" for key in saved if key not in live)
            yield from (f"{path}.{key}: here, but not stored" for key in live if key not in saved)
            for key in saved:
                if key in live:
                    yield from self.nodes(saved[key], live[key], path if key.startswith("$") else f"{path}.{key}")

    def _lists(self, saved: list[Any], live: list[Any], path: str) -> Iterator[str]:
        if len(saved) != len(live):
            yield f"{path}: stored {len(saved)} values, here {len(live)}"
            return
        for index, (then, now) in enumerate(zip(saved, live, strict=True)):
            yield from self.nodes(then, now, f"{path}.{index}")

    def _stored(self, saved: str, live: str, path: str) -> Iterator[str]:
        record, tensor = self._records.get(saved), self._tensors[live]
        if record is None:
            yield f"{path}: nothing stored under {saved!r}"
            return
        then, now = TensorFacts.recorded(record), facts_of(tensor)
        if then != now:
            yield f"{path}: stored {_text(then)}, here {_text(now)}"
        elif record.digest != self._digest(live):
            yield f"{path}: other values"

    def _digest(self, key: str) -> str:
        if key not in self._digests:
            self._digests[key] = tensor_digest(self._tensors[key])
        return self._digests[key]


def _by_key(pairs: list[list[Any]]) -> dict[str, Any]:
    return {json.dumps(key, sort_keys=True): value for key, value in pairs}


def _difference(path: str, saved: Any, live: Any) -> str:
    return f"{path}: stored {_short(saved)}, here {_short(live)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(facts: TensorFacts) -> str:
    strides = "" if facts.strides is None else f" strides {list(facts.strides)}"
    return f"{facts.dtype}{list(facts.shape)}{strides}"
