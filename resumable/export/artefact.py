"""The folder of an exported model: made whole or not at all, and read byte by byte; knows no model."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from resumable.errors import ConfigError, CorruptCheckpointError, NoCheckpointError, StorageError
from resumable.export.proof import FileRecord, Proof, parse
from resumable.proved import MAX_BYTES, PROOF
from resumable.store.storage import reported

# Those of the storage are about runs.
_HINTS: Mapping[int | None, str] = {
    errno.ENOSPC: "free some space there, or name a folder on another disk: --to DIR",
    errno.EDQUOT: "your quota there is used up: free some space, or name a folder on another disk: --to DIR",
    errno.EROFS: "it is mounted read-only: name a folder elsewhere: --to DIR",
}
PIECE_BYTES = 8 * 2**20

_LOADABLE = (".safetensors", ".safetensors.index.json", ".pt2", ".onnx", ".onnx.data", ".bin", ".pt")


def is_artefact(path: str) -> bool:
    """Whether `path` is a folder of this machine that holds a proof."""
    return "://" not in path and (Path(path).expanduser() / PROOF).is_file()


@contextmanager
def made(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that is durable and becomes `target` if all goes well, and is gone otherwise.

    `ConfigError` where `target` is there already; `StorageError` where nothing can be written.
    """
    refuse_existing(target)
    staging = target.with_name(f".{target.name}.tmp-{secrets.token_hex(8)}")
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        with reported("write", str(target)):
            _make(staging)
            yield staging
            for path in (*sorted(staging.iterdir()), staging):
                _sync(path)
            refuse_existing(target)
            staging.rename(target)
            for folder in (target.parent, *(new.parent for new in missing)):
                _sync(folder)
    except StorageError as error:
        raise StorageError(error.message, _HINTS.get(error.errno, error.hint)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # those in which there is something stay
            for folder in missing:
                folder.rmdir()


def _make(staging: Path) -> None:
    try:
        staging.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise ConfigError(
            f"{staging.parent}: no folder, and none can be made there", "name another one for the export: --to DIR"
        ) from error


def refuse_existing(target: Path) -> None:
    """`ConfigError` where something is in the way: nothing is ever replaced, for it may be serving."""
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists already", "name a new folder, or remove that one first")
    if (target.parent / PROOF).exists():
        raise ConfigError(f"{target.parent} is an exported model itself", "name a folder beside it, not in it")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def records(folder: Path) -> dict[str, FileRecord]:
    """Size and digest of every file but the proof."""
    return {path.name: _record(path) for path in sorted(folder.iterdir()) if path.name != PROOF}


def _record(path: Path) -> FileRecord:
    seen, size = xxhash.xxh3_128(), 0
    with reported("read", str(path)), path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            seen.update(piece)
            size += len(piece)
    return FileRecord(size=size, digest=seen.hexdigest())


def read_proof(folder: Path) -> Proof:
    """The proof in a folder. `NoCheckpointError` where there is none; raises as `proof.parse`."""
    path = folder / PROOF
    try:
        with reported("read", str(path)), path.open("rb") as file:
            return parse(file.read(MAX_BYTES + 1))
    except FileNotFoundError as error:
        raise NoCheckpointError(
            f"{folder}: no {PROOF} here, so it is no exported model", "name the folder that `resumable export` made"
        ) from error
    except CorruptCheckpointError as error:
        raise CorruptCheckpointError(f"{folder}: {error.message}", error.hint) from error


def check_files(folder: Path, proof: Proof) -> None:
    """Read every file that the proof names; `CorruptCheckpointError` names the first whose bytes are others.

    So is one that the proof does not name, if something may load it in the place of those that it does.
    """
    for path in sorted(folder.iterdir()):
        if path.name not in proof.files and path.name != PROOF and path.name.endswith(_LOADABLE):
            raise _damaged(folder, path.name, "not among the files of the proof, and a program may load it")
    for name, expected in proof.files.items():
        found = _found(folder / name)
        if found is None:
            raise _damaged(folder, name, "missing")
        if found.size != expected.size:
            raise _damaged(folder, name, f"{found.size} bytes, expected {expected.size}")
        if found.digest != expected.digest:
            raise _damaged(folder, name, f"its digest is {found.digest}, the proof is of {expected.digest}")


def _found(path: Path) -> FileRecord | None:
    return _record(path) if path.is_file() else None


def _damaged(folder: Path, name: str, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        f"{folder}: {name}: {reason}",
        "it was damaged, or this proof is that of another export: copy the whole folder again, or export again",
    )
