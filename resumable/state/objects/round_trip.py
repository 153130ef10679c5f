"""Compare a live object with its stored state, value by value and bit by bit. Changes neither."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resumable.errors import StateError
from resumable.state.codec import Document, encode
from resumable.state.objects.adapter import Adapter, mismatch_on_error
from resumable.state.tensors.document_tags import FILLED, items_below
from resumable.state.tensors.facts import (
    DigestedRecord,
    DigestedRecords,
    TensorFacts,
    digest_in_boxes,
    facts_of,
    same_place,
)
from resumable.state.tensors.inline_records import InlineRecords
from resumable.state.tensors.number_lists import DTYPES, items_of
from resumable.utils.messages import listed
from resumable.utils.threads import in_lanes

_TENSOR_TAGS = ("$tensor", "$array", "$octets")
_PAIR_TAGS = ("$dict", "$counter")
_SHOWN = 5
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class RoundTrip:
    """The differences between a live object and its stored state, and the keys of its unchanged tensors."""

    differences: list[str]
    unchanged: set[str]


def verify_round_trip(
    adapter: Adapter, document: Document, records: DigestedRecords, *, proven: Mapping[str, Tensor] | None = None
) -> None:
    """Verify that the live object has the types, dtypes and bits of its stored `document` and tensor `records`.

    Raises:
        StateError: They differ; the message lists the first differences.
    """
    found = compare_with_stored(adapter, document, records, proven=proven).differences
    if found:
        shown = listed(found, most=_SHOWN, separator="; ")
        raise StateError(
            f"{adapter.name} ({adapter.type}) differs from what was saved: {shown}",
            "its load_state_dict must restore exactly what its state_dict returned",
        )


def differences(adapter: Adapter, document: Document, records: DigestedRecords) -> list[str]:
    """Return the differences between the live object and its stored state, as `path: stored X, here Y`."""
    return compare_with_stored(adapter, document, records).differences


def compare_with_stored(
    adapter: Adapter, document: Document, records: DigestedRecords, *, proven: Mapping[str, Tensor] | None = None
) -> RoundTrip:
    """Capture the live object and compare it with its stored state.

    `proven` are tensors whose digests were verified, and which were not written since. If every live tensor is one of
    them, in the same memory, none is digested again; otherwise one may have been copied over another. The small tensors
    in the document are compared like stored ones, so it does not matter which of them stand there.
    """
    arrays = _has_arrays(document)
    live = encode(adapter.capture(), key_of=adapter.key_of, where=adapter.name, arrays=arrays)
    with mismatch_on_error(adapter.name):
        inline = InlineRecords.of(document, adapter.key_of, records)
        held = {**records, **inline.records}
        digests = _digests(live.tensors, records, inline.records, proven)
        comparison = _DocumentComparison(held, live.tensors, digests)
        then, now = adapter.comparable(inline.document), adapter.comparable(live.document)
        same = comparison.tensors_are_alike() and json.dumps(then) == json.dumps(now)
        found = [] if same else list(comparison.nodes(then, now, adapter.name))
    return RoundTrip(found, {key for key, digest in digests.items() if digest == held[key].digest} & records.keys())


def tensor_digests(tensors: Mapping[str, Tensor], records: DigestedRecords) -> dict[str, str]:
    """Return the digest of each tensor in the boxes of its record, computed by several threads."""
    found = in_lanes(lambda key: digest_in_boxes(tensors[key], records[key].boxes), list(tensors), _THREADS)
    return dict(zip(tensors, found, strict=True))


def _digests(
    live: Mapping[str, Tensor],
    records: DigestedRecords,
    inline: DigestedRecords,
    proven: Mapping[str, Tensor] | None,
) -> dict[str, str]:
    """Return the digest of each live tensor that has the facts of its record; those of `proven` are known."""
    known = {key: records[key].digest for key in live if key in records}
    if proven is None or not _are(live, proven, known):
        known = {}
    held = {**records, **inline}
    alike = {key: tensor for key, tensor in live.items() if key in held and _is_alike(tensor, held[key])}
    return known | tensor_digests({key: tensor for key, tensor in alike.items() if key not in known}, held)


def _are(live: Mapping[str, Tensor], proven: Mapping[str, Tensor], keys: Iterable[str]) -> bool:
    return all(key in proven and same_place(live[key]) == same_place(proven[key]) for key in keys)


def _is_alike(tensor: Tensor, record: DigestedRecord) -> bool:
    return facts_of(tensor) == TensorFacts.recorded(record)


class _DocumentComparison:
    def __init__(self, records: DigestedRecords, tensors: Mapping[str, Tensor], digests: dict[str, str]) -> None:
        self._records = records
        self._tensors = tensors
        self._digests = digests

    def tensors_are_alike(self) -> bool:
        """Return whether each live tensor has the digest and facts that are stored under its key.

        If the documents, which distinguish all types, are equal too, there is no difference left to find.
        """
        return all(
            key in self._digests
            and self._digests[key] == self._records[key].digest
            and _is_alike(tensor, self._records[key])
            for key, tensor in self._tensors.items()
        )

    def nodes(self, saved: Document, live: Document, path: str) -> Iterator[str]:
        saved, live = _listed(saved), _listed(live)
        if type(saved) is not type(live):
            yield _difference(path, saved, live)
        elif isinstance(saved, dict) and isinstance(live, dict):
            yield from self._objects(saved, live, path)
        elif isinstance(saved, list) and isinstance(live, list):
            yield from self._lists(saved, live, path)
        elif saved != live or (type(saved) is float and str(saved) != str(live)):
            yield _difference(path, saved, live)

    def _objects(self, saved: dict[str, Document], live: dict[str, Document], path: str) -> Iterator[str]:
        tag = next(iter(saved), "")
        if tag.startswith("$") and saved.keys() != live.keys():
            yield _difference(path, saved, live)
        elif tag in _TENSOR_TAGS:
            yield from self._stored(saved[tag], live[tag], path)
        elif tag in _PAIR_TAGS:
            yield from self.nodes(_by_key(saved[tag]), _by_key(live[tag]), path)
        elif tag in FILLED:
            yield from self._filled(tag, saved[tag], live[tag], path)
        else:
            yield from self._items(saved, live, path)

    def _filled(self, tag: str, saved: Any, live: Any, path: str) -> Iterator[str]:
        (then, beside), (now, beside_now) = items_below(tag, saved), items_below(tag, live)  # type: ignore[misc]
        if beside != beside_now:
            yield _difference(path, beside, beside_now)
        yield from self.nodes(then, now, path)

    def _items(self, saved: dict[str, Document], live: dict[str, Document], path: str) -> Iterator[str]:
        yield from (f"{path}.{key}: stored, but not here" for key in saved if key not in live)
        yield from (f"{path}.{key}: here, but not stored" for key in live if key not in saved)
        for key in saved:
            if key in live:
                yield from self.nodes(saved[key], live[key], path if key.startswith("$") else f"{path}.{key}")

    def _lists(self, saved: list[Document], live: list[Document], path: str) -> Iterator[str]:
        if len(saved) != len(live):
            yield f"{path}: stored {len(saved)} values, here {len(live)}"
            return
        for index, (then, now) in enumerate(zip(saved, live, strict=True)):
            yield from self.nodes(then, now, f"{path}.{index}")

    def _stored(self, saved: Any, live: Any, path: str) -> Iterator[str]:
        record, tensor = self._records.get(saved), self._tensors[live]
        if record is None:
            yield f"{path}: nothing stored under {saved!r}"
            return
        then, now = TensorFacts.recorded(record), facts_of(tensor)
        if then != now:
            yield f"{path}: stored {_text(then)}, here {_text(now)}"
        elif record.digest != self._digest(live, record):
            yield f"{path}: other values"

    def _digest(self, key: str, record: DigestedRecord) -> str:
        if key not in self._digests:
            self._digests[key] = digest_in_boxes(self._tensors[key], record.boxes)
        return self._digests[key]


def _has_arrays(document: Document) -> bool:
    """Return whether a document has lists of numbers as arrays; versions 1 and 2 of the format had none."""
    text = json.dumps(document)
    return any(f'"{tag}":' in text for tag in DTYPES)


def _listed(document: Document) -> Document:
    items = items_of(document)
    return document if items is None else items


def _by_key(pairs: Any) -> dict[str, Document]:
    return {json.dumps(key, sort_keys=True): value for key, value in pairs}


def _difference(path: str, saved: Document, live: Document) -> str:
    return f"{path}: stored {_short(saved)}, here {_short(live)}"


def _short(value: Document) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(facts: TensorFacts) -> str:
    strides = "" if facts.strides is None else f" strides {list(facts.strides)}"
    return f"{facts.dtype}{list(facts.shape)}{strides}"
