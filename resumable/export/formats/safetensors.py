"""Write weights as safetensors files in Hugging Face layout, tensor by tensor. Independent of checkpoints and models.

One file `model.safetensors`, or shards with an index. A tied tensor is stored under one name; the others are in the
file's metadata, as Hugging Face's own writer does it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xxhash

from resumable.state.tensors.facts import DTYPES, TensorFacts, bytes_of
from resumable.state.tensors.safetensors_layout import Layout
from resumable.store.storage.protocol import Storage
from resumable.weights.files import INDEX, SINGLE

if TYPE_CHECKING:
    from torch import Tensor

ReadTensor = Callable[[str], "Tensor"]


@dataclass(frozen=True)
class WeightSpec:
    """One tensor to write: its name, and its dtype and shape in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def facts(self) -> TensorFacts:
        return TensorFacts(self.dtype, self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def shards(weights: Iterable[WeightSpec], *, max_bytes: int | None) -> list[list[WeightSpec]]:
    """Group the weights in their order into shards of at most `max_bytes`; a larger tensor gets its own shard."""
    found: list[list[WeightSpec]] = [[]]
    filled = 0
    for weight in weights:
        if found[-1] and max_bytes is not None and filled + weight.nbytes > max_bytes:
            found.append([])
            filled = 0
        found[-1].append(weight)
        filled += weight.nbytes
    return found


def write_weights(
    storage: Storage, weights: Sequence[WeightSpec], read: ReadTensor, *, tied: Mapping[str, str], max_bytes: int | None
) -> dict[str, str]:
    """Write all files and return the XXH3-128 of each written tensor by name. At most one tensor is in memory.

    `read` returns a tensor by name, which is cast to the dtype of its `WeightSpec`.
    """
    parts = shards(weights, max_bytes=max_bytes)
    digests: dict[str, str] = {}
    index: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = SINGLE if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        index |= dict.fromkeys((weight.name for weight in part), name)
        here = {weight.name for weight in part}
        image = SafetensorsStream(part, read, {other: kept for other, kept in tied.items() if kept in here}, digests)
        storage.write(name, image)
    if len(parts) > 1:
        storage.write(INDEX, [_index(weights, index)])
    return digests


def _index(weights: Iterable[WeightSpec], where: Mapping[str, str]) -> bytes:
    total = sum(weight.nbytes for weight in weights)
    document = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return json.dumps(document, indent=2).encode() + b"\n"


class SafetensorsStream:
    """The bytes of one file: an iterable that reads each tensor when its turn comes. It can be iterated again."""

    def __init__(
        self, weights: Sequence[WeightSpec], read: ReadTensor, tied: Mapping[str, str], digests: dict[str, str]
    ) -> None:
        facts = {weight.name: weight.facts for weight in weights}
        self._layout = Layout(((name, *fact.stored_as, fact.nbytes) for name, fact in facts.items()), metadata=tied)
        self._facts = facts
        self._read = read
        self._digests = digests

    def __iter__(self) -> Iterator[memoryview]:
        yield memoryview(self._layout.header)
        for name in self._layout.slices:
            data = bytes_of(self._read(name).to(self._facts[name].torch_dtype))
            self._digests[name] = xxhash.xxh3_128_hexdigest(data)
            if data:
                yield data
                data.release()  # or the writer would keep this tensor alive while the next one is read
