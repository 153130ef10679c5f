"""Weights into a model from wherever they lie: runs, checkpoints, safetensors files of anybody; knows no trainer.

What a place is, is told by what is there, never by its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from resumable.errors import (
    CheckpointError,
    ConfigError,
    CorruptCheckpointError,
    NoCheckpointError,
    RunMismatchError,
)
from resumable.run.checkpoint import Checkpoint
from resumable.run.run import Run
from resumable.run.target import parse_target, selector_slip
from resumable.state.loading.result import Loaded
from resumable.store.layout import CHECKPOINTS, MANIFEST, RUN_FILE, CheckpointName
from resumable.store.manifest import first_fault
from resumable.store.storage.open import local_path, open_storage
from resumable.store.storage.protocol import Seen, Storage, checked
from resumable.utils import strict_json
from resumable.utils.location import file_location, location
from resumable.utils.messages import listed, quoted
from resumable.utils.reread import reread
from resumable.weights import proof as proved
from resumable.weights.proof import GOLDEN_FILE, PROOF, Weights

if TYPE_CHECKING:
    from torch import nn

    from resumable.state.loading.sources import SafetensorsFile, StoredFiles

SINGLE = "model.safetensors"  # as Hugging Face calls them
INDEX = "model.safetensors.index.json"

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json")
_PROGRAMS = (".onnx", ".pt2")
_MAGIC_OF_PICKLES = (b"PK\x03\x04", b"\x80")  # torch.save's archive, and a bare pickle
_AGAIN = "is the copy complete? Fetch or export it again"
_SHOWN = 8
_Options = Mapping[str, Any] | None
T = TypeVar("T")


def load_weights(
    model: nn.Module,
    url: str | os.PathLike[str],
    *,
    name: str | None = None,
    strict: bool = True,
    rename: Mapping[str, str] | None = None,
    skip: Iterable[str] = (),
    storage_options: _Options = None,
) -> Loaded:
    """Copy weights and buffers into `model`, in place: its dtypes, its devices and its very parameters stay.

    `url` is a run (`RUN`, `RUN@best`, `RUN@latest`, `RUN@finite`, `RUN@STEP`), a checkpoint's folder, a
    `.safetensors` file, or a folder in Hugging Face's layout (one file, or shards with an index), on this machine or at
    any fsspec URL, which gets `storage_options`. Where an export's `proof.json` is in the folder, it proves every
    tensor that is read. `name` selects an object of a run, such as an EMA.

    `rename` maps beginnings of stored keys to beginnings of the model's names, the first that matches wins. Names that
    match a pattern in `skip` (`head.*`) stay as they are. With `strict`, whatever does not fit is a
    `RunMismatchError`, and nothing was changed; otherwise what fits is taken, and what does not is returned and logged.
    Raises `NoCheckpointError` where there is nothing of the kind, and `CorruptCheckpointError` for damage, after which
    the values of the model are undefined.
    """
    from resumable.state.loading.arguments import refuse_other_model, refuse_other_place
    from resumable.state.loading.into_model import load

    refuse_other_place(url, model)
    refuse_other_model(model)
    found = _found(str(url), storage_options)
    if isinstance(found, Checkpoint):
        return found.load_into(model, name=name, strict=strict, rename=rename, skip=skip)
    if name is not None:
        raise RunMismatchError(
            f"{found.where}: holds the weights of one model, and no object {name!r}",
            "leave `name` out; it chooses between the objects of a run",
        )
    try:
        return Loaded.told(load(model, found, strict=strict, rename=rename, skip=skip), found.where)
    except (RunMismatchError, ConfigError):
        raise
    except ValueError as error:
        raise CorruptCheckpointError(f"{found.where}: {quoted(error)}", _AGAIN) from error


# -- what is there ----------------------------------------------------------------------------------------------------


def _found(url: str, options: _Options) -> Checkpoint | StoredFiles:
    run_url, selector = parse_target(url)
    if selector is not None and _is_run(_names_in(run_url, options)):
        return Run(run_url, storage_options=options).select(selector)
    if url.endswith((".safetensors", ".index.json")):  # only which of two questions is asked first
        return _file(url, options) or _folder(url, options) or _nothing(url, options)
    return _folder(url, options) or _file(url, options) or _nothing(url, options)


def _folder(url: str, options: _Options) -> Checkpoint | StoredFiles | None:
    names = _names_in(url, options)
    if _is_run(names):
        return Run(url, storage_options=options).latest()
    if MANIFEST in names:
        return _checkpoint(url, options)
    proof = _proof(url, options) if PROOF in names else None
    for name in (SINGLE, INDEX):  # in the order of Hugging Face's own libraries
        if name in names:
            return _file(_joined(url, name), options, proof)
    if proof is not None:
        raise CorruptCheckpointError(
            f"{location(url)}: its {PROOF} is of weights, and neither {SINGLE} nor {INDEX} is here",
            "copy the whole folder again",
        )
    return None


def _proof(url: str, options: _Options) -> Weights:
    """What the folder of an exported model says of its weights."""
    file = _StoredFile.at(_joined(url, PROOF), options)
    where = location(url)
    try:
        proof = proved.parse(b"") if file is None else file.parsed(proved.parse, proved.MAX_BYTES)
    except (CheckpointError, ValueError) as error:
        told = error if isinstance(error, CheckpointError) else proved.damaged(error)
        hint = f"{told.hint}; a file of weights that is named itself is read without a proof"
        raise type(told)(f"{where}: {told.message}", hint) from error
    if proof.format != "safetensors":
        raise _program(f"{where}: an exported program ({proof.format}), which holds no files of weights")
    return proof.weights


def _names_in(url: str, options: _Options) -> set[str]:
    return {entry.name for entry in open_storage(url, options, probe=False).list("")}


def _is_run(names: set[str]) -> bool:
    return RUN_FILE in names or CHECKPOINTS in names


def _checkpoint(url: str, options: _Options) -> Checkpoint:
    checkpoints, name = _split(_real(url))
    run, folder = _split(checkpoints)
    parsed = CheckpointName.parse(name)
    if parsed is None or folder != CHECKPOINTS:
        raise CheckpointError(
            f"{location(url)}: a checkpoint outside of its run, which its files may lead into",
            f"keep it in RUN/{CHECKPOINTS}/, or name one of its .safetensors files",
        )
    return Run(run, storage_options=options).folder(parsed)


def _file(url: str, options: _Options, proof: Weights | None = None) -> StoredFiles | None:
    """The safetensors file there, or the shards that the index there names; None where there is no file."""
    from resumable.state.loading.sources import SafetensorsFile

    file = _StoredFile.at(url, options)
    if file is None:
        return None
    try:
        if url.endswith(".index.json"):
            return _shards(file, url, options, proof)
        return _stored(file, [SafetensorsFile.opened(file)], {}, proof)
    except ValueError as error:
        raise _malformed(file, error) from error


def _stored(
    file: _StoredFile, files: Sequence[SafetensorsFile], beside: Mapping[str, str], proof: Weights | None
) -> StoredFiles:
    from resumable.state.loading.sources import StoredFiles

    found = StoredFiles(file.name, files, beside, records=None if proof is None else proof.tensors)
    if proof is not None and (other := found.others.items() ^ proof.tied.items()):
        name = min(other)[0]
        raise ValueError(f"tensor {name!r}: tied to {found.others.get(name)!r}, expected {proof.tied.get(name)!r}")
    return found


class _Index(BaseModel):
    """`model.safetensors.index.json`: in which file each tensor lies."""

    model_config = ConfigDict(frozen=True, strict=True)

    metadata: dict[str, Any] = {}
    weight_map: dict[str, str]


def _shards(file: _StoredFile, url: str, options: _Options, proof: Weights | None) -> StoredFiles:
    from resumable.state.loading.sources import SafetensorsFile

    index = _parsed_index(file)
    folder = _split(url)[0]
    opened: dict[str, SafetensorsFile] = {}
    for shard in dict.fromkeys(index.weight_map.values()):
        source = _StoredFile.at(_joined(folder, _inside(shard)), options)
        if source is None:
            raise CorruptCheckpointError(f"{file.name}: names {shard!r}, which is not there", "is the copy complete?")
        try:
            opened[shard] = SafetensorsFile.opened(source)
        except ValueError as error:
            raise _malformed(source, error) from error
    for key, shard in index.weight_map.items():
        if key not in opened[shard].slices:
            raise ValueError(f"tensor {key!r}: not in {shard!r}")
    beside = {dropped: kept for dropped, kept in index.metadata.items() if isinstance(kept, str)}
    return _stored(file, list(opened.values()), beside, proof)


def _parsed_index(file: _StoredFile) -> _Index:
    try:
        return file.parsed(lambda data: _Index.model_validate(strict_json.loads(data)), strict_json.MAX_BYTES)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from error


def _inside(shard: str) -> str:
    try:
        return checked(shard)
    except ValueError:
        raise ValueError(f"names {shard!r}, which is no file inside of this folder") from None


def _malformed(file: _StoredFile, error: ValueError) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    if file.name.endswith(_PROGRAMS):
        return _program(f"{file.name}: a program, and no safetensors file")
    if file.begins_with(_MAGIC_OF_PICKLES):
        return _pickle(file.name)
    return CorruptCheckpointError(f"{file.name}: {quoted(error)}", _AGAIN)


def _pickle(where: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: a pickle, which may run any code when it is read, and is not read here",
        "`resumable convert FILE TO` makes a safetensors file of its tensors",
    )


def _program(said: str) -> CheckpointError:
    return CheckpointError(
        said,
        "load from the run that it was exported from, or from `resumable export RUN --to DIR --format safetensors`",
    )


def _nothing(url: str, options: _Options) -> StoredFiles:
    names = sorted(_names_in(url, options))
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        raise _pickle(_joined(location(url), pickles[0]))
    shown = listed(map(quoted, names), most=_SHOWN)
    raise NoCheckpointError(
        f"{location(url)}: no weights here; looked for a run ({RUN_FILE}, {CHECKPOINTS}/), a checkpoint "
        f"({MANIFEST}), {SINGLE}, {INDEX}, and a .safetensors file of this name; found {shown or 'nothing'}",
        _elsewhere(url, names),
    )


def _elsewhere(url: str, names: Sequence[str]) -> str:
    loadable = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    others = [name for name in loadable if name != GOLDEN_FILE]  # an input and outputs, no weights
    if others:
        return f"name one of the files: {_joined(location(url), others[0])}"
    return (None if names else selector_slip(url)) or "check the path or URL"


# -- files ------------------------------------------------------------------------------------------------------------


class _StoredFile:
    """One file. Other than in a run, links are followed: there are caches that are made of them."""

    def __init__(self, storage: Storage, path: str, size: int) -> None:
        self._storage = storage
        self._path = path
        self.size = size
        self.readers = storage.readers
        self.range_bytes = storage.range_bytes
        self.name = self.where = file_location(storage.url, path)

    @classmethod
    def at(cls, url: str, options: _Options) -> _StoredFile | None:
        """The file there; None where there is none."""
        folder, name = _split(_real(url))
        if not name:
            return None
        storage = open_storage(folder, options, probe=False)
        try:
            return cls(storage, name, storage.size(name))
        except (FileNotFoundError, ValueError):
            return None

    def read(self, buffer: memoryview, offset: int, seen: Seen | None = None) -> None:
        got = self._storage.read_into(self._path, buffer, offset=offset, seen=seen)
        if got != len(buffer):
            raise CorruptCheckpointError(f"{self.name}: {offset + got} bytes, expected {self.size}")

    def drop_cache(self) -> None:
        self._storage.drop_cache(self._path)

    def parsed(self, parse: Callable[[bytes], T], max_bytes: int) -> T:
        """What `parse` makes of all of a file that is small; `ValueError` for one that is not."""
        return reread([self], lambda: self._storage.read(self._path, max_bytes=max_bytes), parse)

    def begins_with(self, magic: tuple[bytes, ...]) -> bool:
        head = bytearray(min(8, self.size))
        self.read(memoryview(head), 0)
        return bytes(head).startswith(magic)


def _real(url: str) -> str:
    path = local_path(url)
    return url if path is None else os.path.realpath(path)


def _split(url: str) -> tuple[str, str]:
    """A folder and a name in it. Of a chained URL (`zip://a/b::s3://...`) the first link is split."""
    link, chained, rest = url.partition("::")
    protocol, separator, path = link.rpartition("://")
    folder, slash, name = path.rstrip("/").rpartition("/")
    return f"{protocol}{separator}{folder or (slash if not separator else '')}{chained}{rest}", name


def _joined(url: str, name: str) -> str:
    link, chained, rest = url.partition("::")
    return f"{link.rstrip('/')}/{name}{chained}{rest}"
