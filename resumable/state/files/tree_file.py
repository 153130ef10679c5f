"""A tree of values as one safetensors file, and back; knows no storage and no run.

The tensors are the file's tensors. What else there is travels as a text in the header: the codec's document, and for
each tensor its facts and its digest. The header carries a digest of itself, at a place that never moves.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from resumable.errors import FormatVersionError, StateError
from resumable.state.codec import decode, encode
from resumable.state.codec.document_paths import Part
from resumable.state.codec.encoder import Encoded, Path
from resumable.state.staging.host_memory import HostTransfer
from resumable.state.staging.stager import CHUNK_BYTES, Plan, Windows
from resumable.state.tensors.facts import Believed, TensorFacts, bytes_of, facts_of, raw, tensor_digest
from resumable.state.tensors.safetensors_layout import Head, Slice, parse_head
from resumable.utils import strict_json
from resumable.utils.messages import quoted

VERSION = 1
BARE = "tensor"  # the key of a tensor that is in no container
CONTENT_KEY = "resumable"
DIGEST_KEY = "resumable_digest"

# The first bytes of every header, in this and in all later versions; 32 hexadecimal digits follow.
_OPENING = b'{"__metadata__":{"%s":"' % DIGEST_KEY.encode()
_SEAL = slice(8 + len(_OPENING), 8 + len(_OPENING) + 32)
_BLANK = "0" * 32
_PAGE_BYTES = 4096

_Sizes = Annotated[list[Annotated[int, Field(ge=0, lt=2**48)]], Field(max_length=64)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Record(_Document):
    """One tensor of the file."""

    dtype: str
    shape: _Sizes
    strides: _Sizes | None
    digest: str = Field(pattern=r"^[0-9a-f]{32}$")


class StateDict(_Document):
    """What torch keeps beside the keys of a `state_dict`, and of which: its position in each container on the way."""

    at: _Sizes
    metadata: Any


class _Content(_Document):
    version: int = VERSION
    document: Any
    tensors: dict[str, Record]
    state_dicts: list[StateDict]


@dataclass(frozen=True)
class Contents:
    """What the header of a file says."""

    document: Any
    records: Mapping[str, Record | Believed]
    slices: Mapping[str, Slice]
    state_dicts: tuple[StateDict, ...] = ()

    def tree(self, part: Part, tensors: Mapping[str, Tensor]) -> Any:
        """The tree that a part of the document stands for, made of these tensors."""
        tree, at = decode(part.document, tensors), part.at
        for each in self.state_dicts:
            if at is not None and at == tuple(each.at[: len(at)]):
                _state_dict(tree, each.at[len(at) :])._metadata = decode(each.metadata, {})
        return tree


# -- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneFile:
    """A whole file to be. It is made while it is iterated, through one window, and comes out the same each time."""

    header: bytes
    plan: Plan
    tensors: Mapping[str, Tensor]
    digests: Mapping[str, str]

    @property
    def size(self) -> int:
        return self.plan.layout.size

    def __iter__(self) -> Iterator[memoryview]:
        pages = min(CHUNK_BYTES, self.size) // _PAGE_BYTES + 1
        return iter(Windows(self._parts, HostTransfer().allocate(pages * _PAGE_BYTES)))

    def _parts(self) -> Iterator[memoryview]:
        yield memoryview(self.header)
        for key in self.plan.layout.slices:
            data = bytes_of(self.tensors[key])
            yield data
            # After it was copied: a file whose own reader would refuse it must not become visible.
            if xxhash.xxh3_128_hexdigest(data) != self.digests[key]:
                raise StateError(f"{key}: changed while it was written", "save a copy, or wait until it is complete")


def file_of(tree: Any, *, where: str) -> OneFile:
    """The file that holds `tree`. Live tensors are referred to, never copied; `where` begins the paths in messages.

    Raises `StateError` with the path of the first value that cannot come back exactly as it is.
    """
    encoded = encode(tree, key_of=_key, where=where)
    for key, tensor in encoded.tensors.items():
        _refuse_unreadable(tensor, f"{where}.{key}")
    facts = {key: facts_of(tensor) for key, tensor in encoded.tensors.items()}
    digests = {key: tensor_digest(tensor) for key, tensor in encoded.tensors.items()}
    try:
        content = strict_json.dumps(_content(tree, encoded, facts, digests, where).model_dump()).decode()
        plan = Plan.of(facts, metadata={DIGEST_KEY: _BLANK, CONTENT_KEY: content})
    except ValueError as error:
        raise StateError(f"{where}: no reader would take this: {quoted(error)}", "keep it in fewer tensors") from error
    return OneFile(_sealed(plan.layout.header), plan, encoded.tensors, digests)


def memory_bytes() -> int:
    """How much memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _key(path: Path) -> str:
    return ".".join(path) or BARE


def _content(
    tree: Any, encoded: Encoded, facts: Mapping[str, TensorFacts], digests: Mapping[str, str], where: str
) -> _Content:
    records = {
        key: Record(
            dtype=fact.dtype,
            shape=list(fact.shape),
            strides=None if fact.strides is None else list(fact.strides),
            digest=digests[key],
        )
        for key, fact in facts.items()
    }
    beside = [
        StateDict(at=list(at), metadata=encode(metadata, key_of=None, where=f"{where}._metadata").document)
        for at, metadata in _state_dicts(tree, ())
    ]
    return _Content(document=encoded.document, tensors=records, state_dicts=beside)


def _state_dicts(tree: Any, at: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Where in a tree that has no cycles something stands that torch keeps beside the keys, and what."""
    if type(tree) is OrderedDict and hasattr(tree, "_metadata"):
        yield at, tree._metadata
    for position, child in enumerate(_parts_of(tree)):
        if isinstance(child, dict | list | tuple):
            yield from _state_dicts(child, (*at, position))


def _state_dict(tree: Any, at: list[int]) -> Any:
    for position in at:
        parts = _parts_of(tree)
        if position >= len(parts):
            raise ValueError(f"no state_dict at {at}")
        tree = parts[position]
    if type(tree) is not OrderedDict:
        raise ValueError(f"a {type(tree).__name__} at {at}, expected a state_dict")
    return tree


def _parts_of(tree: Any) -> list[Any]:
    """In the order of `paths.children`."""
    if isinstance(tree, dict):
        return list(tree.values())
    return list(tree) if type(tree) in (list, tuple) else []


def _refuse_unreadable(tensor: Tensor, path: str) -> None:
    if tensor.dtype is torch.bool and bool((raw(tensor) > 1).any()):
        raise StateError(f"{path}: a bool that is neither 0 nor 1", "fill the tensor first: its memory never was")
    streams = tensor.device.type == "cpu" and tensor.is_contiguous()
    if not streams and facts_of(tensor).nbytes > memory_bytes():
        raise StateError(f"{path}: laid out row by row it is larger than the memory", "keep what it was expanded from")


def _sealed(header: bytes) -> bytes:
    digest = xxhash.xxh3_128_hexdigest(header).encode()
    return header[: _SEAL.start] + digest + header[_SEAL.stop :]


# -- reading ----------------------------------------------------------------------------------------------------------


def contents_of(data: bytearray, *, size: int) -> Contents:
    """What a file of `size` bytes holds that begins with `data`, which has all of its header.

    `ValueError` for what no such file begins with, and for damage; `FormatVersionError` for what a newer version wrote.
    Of a file that others wrote all is believed: it is a dict of tensors.
    """
    head = parse_head(data, size=size)
    # By two names, so that no damage to one of them makes a file pass for somebody else's.
    if not any(key.startswith(CONTENT_KEY) for key in head.metadata):
        return _foreign(head)
    header = bytes(data[: 8 + int.from_bytes(data[:8], "little")])
    blank = header[: _SEAL.start] + _BLANK.encode() + header[_SEAL.stop :]
    if header[8 : _SEAL.start] != _OPENING or _sealed(blank) != header:
        raise ValueError("the header is not the one that was written: its digest differs")
    return _own(head)


def _own(head: Head) -> Contents:
    content = strict_json.loads(head.metadata.get(CONTENT_KEY, "").encode())
    version = content.get("version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise FormatVersionError(f"version {version} of the format, and this program reads {VERSION}", "upgrade it")
    try:
        known = _Content.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"malformed: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from error
    if known.tensors.keys() != head.slices.keys():
        raise ValueError("malformed: other tensors than are in the file")
    return Contents(known.document, known.tensors, head.slices, tuple(known.state_dicts))


def _foreign(head: Head) -> Contents:
    document = {"$dict": [[key, {"$tensor": key}] for key in head.slices]}
    records = {key: Believed.tagged(place.dtype_tag, place.shape) for key, place in head.slices.items()}
    return Contents(document, records, head.slices)
