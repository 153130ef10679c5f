"""Compares a live object with its stored state, value by value and bit by bit; changes neither."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor

from resumable.errors import StateError
from resumable.state.adapter import Adapter, taking
from resumable.state.encoder import encode
from resumable.state.tensors import Recorded, TensorFacts, facts_of, tensor_digest

_TENSOR_TAGS = ("$tensor", "$array", "$octets")
_PAIR_TAGS = ("$dict", "$counter")
_SHOWN = 5


class Record(Recorded, Protocol):
    """A record of a stored tensor that also has its digest."""

    @property
    def digest(self) -> str: ...


def verify_round_trip(adapter: Adapter, document: Any, records: Mapping[str, Record]) -> None:
    """Capture the live object and compare it with its stored `document` and tensor `records`: types, dtypes, bits.

    Raises `StateError` that names the first differences.
    """
    found = differences(adapter, document, records)
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise StateError(
            f"{adapter.name} ({adapter.type}) is not as it was saved: {'; '.join(found[:_SHOWN])}{more}",
            "its load_state_dict must take back exactly what its state_dict gave",
        )


def differences(adapter: Adapter, document: Any, records: Mapping[str, Record]) -> list[str]:
    """Where the live object differs from its stored state, as `path: stored X, here Y`; empty where nowhere."""
    live = encode(adapter.capture(), key_of=adapter.key_of, where=adapter.name)
    comparison = _Comparison(records, live.tensors)
    with taking(adapter.name):
        return list(comparison.nodes(adapter.comparable(document), adapter.comparable(live.document), adapter.name))


class _Comparison:
    def __init__(self, records: Mapping[str, Record], tensors: Mapping[str, Tensor]) -> None:
        self._records = records
        self._tensors = tensors
        self._digests: dict[str, str] = {}

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
