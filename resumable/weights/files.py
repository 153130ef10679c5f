"""Safetensors files of any writer: one file, or shards with an index. Independent of runs and models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from resumable.errors import CheckpointError, CorruptCheckpointError
from resumable.store.documents.strict_record import first_fault
from resumable.store.storage.protocol import checked
from resumable.store.storage.user_file import File, join, split
from resumable.utils import pickles, strict_json
from resumable.utils.messages import quoted
from resumable.utils.reread import reread
from resumable.weights.proof import ProvedWeights

if TYPE_CHECKING:
    from resumable.state.loading.sources import SafetensorsFile, StoredFiles

SINGLE = "model.safetensors"  # Hugging Face's names
INDEX = "model.safetensors.index.json"
COPY_AGAIN = "is the copy complete? Fetch or export it again"

_PROGRAMS = (".onnx", ".pt2")
Options = Mapping[str, object] | None
T = TypeVar("T")


class ShardIndex(BaseModel):
    """The file `model.safetensors.index.json`: which shard holds each tensor."""

    model_config = ConfigDict(frozen=True, strict=True)

    metadata: dict[str, object] = {}
    weight_map: dict[str, str]


def open_files(url: str, options: Options, proof: ProvedWeights | None = None) -> StoredFiles | None:
    """Open the safetensors file at `url`, or the shards that the index there names; None where there is no file.

    Raises `CorruptCheckpointError` for damage, and `CheckpointError` for a file of another kind.
    """
    from resumable.state.loading.sources import SafetensorsFile

    file = File.existing(url, options)
    if file is None:
        return None
    try:
        if url.endswith(".index.json"):
            return _shards(file, url, options, proof)
        return _stored(file, [SafetensorsFile.opened(file)], {}, proof)
    except ValueError as error:
        raise _malformed(file, error) from error


def parse_small(file: File, parse: Callable[[bytes], T], *, max_bytes: int) -> T:
    """Parse the whole of a small file; `ValueError` where it is larger than `max_bytes`."""
    if file.size > max_bytes:
        raise ValueError(f"{file.size} bytes, more than the {max_bytes} allowed")
    return reread([file], lambda: bytes(file.image()), parse)


def refused_program(headline: str) -> CheckpointError:
    """Return the error for an exported program, from which no weights are read."""
    return CheckpointError(
        headline,
        "load from the run that it was exported from, or from `resumable export RUN --to DIR --format safetensors`",
    )


def _stored(
    file: File, files: Sequence[SafetensorsFile], beside: Mapping[str, str], proof: ProvedWeights | None
) -> StoredFiles:
    from resumable.state.loading.sources import StoredFiles

    found = StoredFiles(file.name, files, beside, records=None if proof is None else proof.tensors)
    if proof is not None and (other := found.aliases.items() ^ proof.tied.items()):
        name = min(other)[0]
        raise ValueError(f"tensor {name!r}: tied to {found.aliases.get(name)!r}, expected {proof.tied.get(name)!r}")
    return found


def _shards(file: File, url: str, options: Options, proof: ProvedWeights | None) -> StoredFiles:
    from resumable.state.loading.sources import SafetensorsFile

    index = _index(file)
    folder = split(url)[0]
    opened: dict[str, SafetensorsFile] = {}
    for shard in dict.fromkeys(index.weight_map.values()):
        source = File.existing(join(folder, _inside(shard)), options)
        if source is None:
            raise CorruptCheckpointError(f"{file.name}: names {shard!r}, which is missing", "is the copy complete?")
        try:
            opened[shard] = SafetensorsFile.opened(source)
        except ValueError as error:
            raise _malformed(source, error) from error
    for key, shard in index.weight_map.items():
        if key not in opened[shard].slices:
            raise ValueError(f"tensor {key!r}: not in {shard!r}")
    beside = {dropped: kept for dropped, kept in index.metadata.items() if isinstance(kept, str)}
    return _stored(file, list(opened.values()), beside, proof)


def _index(file: File) -> ShardIndex:
    try:
        return parse_small(
            file, lambda data: ShardIndex.model_validate(strict_json.loads(data)), max_bytes=strict_json.MAX_BYTES
        )
    except ValidationError as error:
        raise ValueError(first_fault(error)) from error


def _inside(shard: str) -> str:
    try:
        return checked(shard)
    except ValueError:
        raise ValueError(f"names {shard!r}, which is no file inside of this folder") from None


def _malformed(file: File, error: ValueError) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    if file.name.endswith(_PROGRAMS):
        return refused_program(f"{file.name}: a program, expected a safetensors file")
    head = bytearray(min(pickles.HEAD_BYTES, file.size))
    file.read(memoryview(head), 0)
    if pickles.is_archive(head) or pickles.is_pickle(head):
        return pickles.pickle_error(file.name)
    return CorruptCheckpointError(f"{file.name}: {quoted(error)}", COPY_AGAIN)
