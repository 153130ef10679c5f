"""Write a tree of values as one safetensors file, and read it. Independent of storages and runs.

The tree's tensors are the file's tensors. The rest is text in the header: the codec's document, and the facts and
digest of each tensor. The header contains a digest of itself, at a fixed offset.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from resumable.errors import FormatVersionError, StateError
from resumable.state.codec import Document, Tree, decode, encode
from resumable.state.codec.document_paths import Part
from resumable.state.codec.encoder import Encoded
from resumable.state.codec.named_tuples import named_values
from resumable.state.codec.tree import Path
from resumable.state.staging.file_images import WINDOW_BYTES, Windows
from resumable.state.staging.host_memory import HostTransfer
from resumable.state.tensors.facts import TensorFacts, UndigestedRecord, bytes_of, facts_of, raw, tensor_digest
from resumable.state.tensors.file_plan import FilePlan
from resumable.state.tensors.safetensors_layout import Head, Slice, parse_head
from resumable.utils import strict_json
from resumable.utils.memory import memory_bytes
from resumable.utils.messages import quoted

VERSION = 2
BARE = "tensor"  # the key of a tensor without a container
CONTENT_KEY = "resumable"
DIGEST_KEY = "resumable_digest"

# Every header begins with these bytes, in this and in all later versions; 32 hexadecimal digits follow.
_OPENING = b'{"__metadata__":{"%s":"' % DIGEST_KEY.encode()
_SEAL = slice(8 + len(_OPENING), 8 + len(_OPENING) + 32)
_BLANK = "0" * 32
_PAGE_BYTES = 4096

_Sizes = Annotated[list[Annotated[int, Field(ge=0, lt=2**48)]], Field(max_length=64)]


class _HeaderModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class TensorEntry(_HeaderModel):
    """One tensor of the file."""

    dtype: str
    shape: _Sizes
    strides: _Sizes | None
    digest: str = Field(pattern=r"^[0-9a-f]{32}$")


class StateDictMetadata(_HeaderModel):
    """The metadata of a `state_dict`, and the position of that dict in each container on the way to it."""

    at: _Sizes
    metadata: Any  # a document, validated when it is decoded


class _Content(_HeaderModel):
    version: int
    document: Any  # validated when it is decoded
    tensors: dict[str, TensorEntry]
    state_dicts: list[StateDictMetadata]


@dataclass(frozen=True)
class Contents:
    """The contents of a file's header."""

    document: Document
    records: Mapping[str, TensorEntry | UndigestedRecord]
    slices: Mapping[str, Slice]
    state_dicts: tuple[StateDictMetadata, ...] = ()

    def tree(self, part: Part, tensors: Mapping[str, Tensor]) -> Tree:
        """Decode a part of the document with these tensors."""
        tree, at = decode(part.document, tensors), part.at
        for each in self.state_dicts:
            if at is not None and at == tuple(each.at[: len(at)]):
                _state_dict(tree, each.at[len(at) :])._metadata = decode(each.metadata, {})
        return tree


# -- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TreeFile:
    """A complete file, produced while it is iterated, through one window; each iteration yields the same bytes."""

    header: bytes
    plan: FilePlan
    tensors: Mapping[str, Tensor]
    digests: Mapping[str, str]

    @property
    def size(self) -> int:
        return self.plan.layout.size

    def __iter__(self) -> Iterator[memoryview]:
        pages = min(WINDOW_BYTES, self.size) // _PAGE_BYTES + 1
        return iter(Windows(self._parts, [HostTransfer().allocate(pages * _PAGE_BYTES)]))

    def _parts(self) -> Iterator[memoryview]:
        yield memoryview(self.header)
        for key in self.plan.layout.slices:
            data = bytes_of(self.tensors[key])
            yield data
            # Checked after the copy: a file that its reader would refuse must not become visible.
            if xxhash.xxh3_128_hexdigest(data) != self.digests[key]:
                raise StateError(f"{key}: changed while it was written", "save a copy, or wait until it is complete")


def file_of(tree: object, *, where: str) -> TreeFile:
    """Return the file that holds `tree`; live tensors are referred to, never copied.

    Args:
        tree: The value to write.
        where: The name of the tree, with which paths in messages begin.

    Raises:
        StateError: A value cannot be restored exactly; the error names the path of the first one.
    """
    encoded = encode(tree, key_of=_key, where=where, arrays=False)  # older readers of such files know none
    for key, tensor in encoded.tensors.items():
        _refuse_unreadable(tensor, f"{where}.{key}")
    facts = {key: facts_of(tensor) for key, tensor in encoded.tensors.items()}
    digests = {key: tensor_digest(tensor) for key, tensor in encoded.tensors.items()}
    try:
        content = strict_json.dumps(_content(tree, encoded, facts, digests, where).model_dump()).decode()
        plan = FilePlan.of(facts, metadata={DIGEST_KEY: _BLANK, CONTENT_KEY: content})
    except ValueError as error:
        raise StateError(
            f"{where}: exceeds the limits of the format: {quoted(error)}", "keep it in fewer tensors"
        ) from error
    return TreeFile(_sealed(plan.layout.header), plan, encoded.tensors, digests)


def _key(path: Path) -> str:
    return ".".join(path) or BARE


def _content(
    tree: object, encoded: Encoded, facts: Mapping[str, TensorFacts], digests: Mapping[str, str], where: str
) -> _Content:
    records = {
        key: TensorEntry(
            dtype=fact.dtype,
            shape=list(fact.shape),
            strides=None if fact.strides is None else list(fact.strides),
            digest=digests[key],
        )
        for key, fact in facts.items()
    }
    state_dicts = [
        StateDictMetadata(at=list(at), metadata=encode(metadata, key_of=None, where=f"{where}._metadata").document)
        for at, metadata in _state_dicts(tree, ())
    ]
    version = VERSION if encoded.features else 1  # a file that earlier programs can read stays one
    return _Content(version=version, document=encoded.document, tensors=records, state_dicts=state_dicts)


def _state_dicts(tree: object, at: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Tree]]:
    """Yield the positions of the `state_dict`s with metadata in a tree without cycles, and that metadata."""
    if type(tree) is OrderedDict and hasattr(tree, "_metadata"):
        yield at, tree._metadata
    for position, child in enumerate(_parts_of(tree)):
        if isinstance(child, dict | list | tuple | deque):
            yield from _state_dicts(child, (*at, position))


def _state_dict(tree: object, at: list[int]) -> Any:
    for position in at:
        parts = _parts_of(tree)
        if position >= len(parts):
            raise ValueError(f"no state_dict at {at}")
        tree = parts[position]
    if type(tree) is not OrderedDict:
        raise ValueError(f"a {type(tree).__name__} at {at}, expected a state_dict")
    return tree


def _parts_of(tree: object) -> list[object]:
    """Return the children of a container, in the order of `document_paths.named_children`."""
    if isinstance(tree, dict):
        return list(tree.values())
    if isinstance(tree, tuple) and type(tree) is not tuple:
        return list(named_values(tree) or ())
    return list(tree) if isinstance(tree, tuple | list | deque) else []


def _refuse_unreadable(tensor: Tensor, path: str) -> None:
    if tensor.dtype is torch.bool and bool((raw(tensor) > 1).any()):
        raise StateError(
            f"{path}: a bool that is neither 0 nor 1", "fill the tensor first: its memory is uninitialized"
        )
    streams = tensor.device.type == "cpu" and tensor.is_contiguous()
    if not streams and facts_of(tensor).nbytes > memory_bytes():
        raise StateError(
            f"{path}: in row-major order it is larger than the memory", "store the tensor that it was expanded from"
        )


def _sealed(header: bytes) -> bytes:
    digest = xxhash.xxh3_128_hexdigest(header).encode()
    return header[: _SEAL.start] + digest + header[_SEAL.stop :]


# -- reading ----------------------------------------------------------------------------------------------------------


def contents_of(data: bytearray, *, size: int) -> Contents:
    """Return the contents of a file of `size` bytes that begins with `data`, which includes the whole header.

    A file of another program is a dict of tensors, whose header is trusted.

    Raises:
        ValueError: The bytes are damaged, or not of a safetensors file.
        FormatVersionError: A newer version wrote the file.
    """
    head = parse_head(data, size=size)
    # Two keys mark the file, so that damage to one cannot make it look like a file of another program.
    if not any(key.startswith(CONTENT_KEY) for key in head.metadata):
        return _other_program(head)
    header = bytes(data[: 8 + int.from_bytes(data[:8], "little")])
    blank = header[: _SEAL.start] + _BLANK.encode() + header[_SEAL.stop :]
    if header[8 : _SEAL.start] != _OPENING or _sealed(blank) != header:
        raise ValueError("the header is not the one that was written: its digest differs")
    return _own(head)


def _own(head: Head) -> Contents:
    content = strict_json.loads(head.metadata.get(CONTENT_KEY, "").encode())
    version = content.get("version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise FormatVersionError(f"version {version} of the format, expected at most {VERSION}", "upgrade resumable")
    try:
        stored = _Content.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"malformed: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from error
    if stored.tensors.keys() != head.slices.keys():
        raise ValueError("malformed: its list of tensors differs from those in the file")
    return Contents(stored.document, stored.tensors, head.slices, tuple(stored.state_dicts))


def _other_program(head: Head) -> Contents:
    document: Document = {"$dict": [[key, {"$tensor": key}] for key in head.slices]}
    records = {key: UndigestedRecord.tagged(place.dtype_tag, place.shape) for key, place in head.slices.items()}
    return Contents(document, records, head.slices)
