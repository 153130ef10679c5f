"""The folder of an exported model: published atomically, verified byte by byte. Independent of the model."""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import xxhash

from resumable.errors import ConfigError, CorruptCheckpointError, NoCheckpointError, StorageError
from resumable.export.proof.schema import FileRecord, Proof, parse_proof
from resumable.store.storage.protocol import reported, storage_error
from resumable.weights.proof import MAX_BYTES, PROOF

# The hints of the storage are about runs.
_HINTS: Mapping[int | None, str] = {
    errno.ENOSPC: "free some space there, or name a folder on another disk: --to DIR",
    errno.EDQUOT: "your quota there is used up: free some space, or name a folder on another disk: --to DIR",
    errno.EROFS: "it is mounted read-only: name a folder elsewhere: --to DIR",
}

# An export holds one tensor in memory at a time; reading its files back must not take more than that.
_FILE_PIECE_BYTES = 8 * 2**20

_SHARD_INDEX = ".index.json"  # which a loader reads, unlike other JSON
_TEXTS = (".md", ".txt", ".rst", ".html", ".pdf", ".png", ".jpg", ".svg", ".json", ".yaml", ".yml", ".csv", ".log")
_NOTICES = ("LICENSE", "NOTICE", "README", "COPYING", "AUTHORS", "CHANGELOG")


def is_artifact(path: str) -> bool:
    """Return whether `path` is a local folder with an entry `proof.json`, of whatever kind."""
    return "://" not in path and os.path.lexists(Path(path).expanduser() / PROOF)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a staging folder that is synced and renamed to `target` on success, and removed on any error.

    Raises `ConfigError` where `target` exists already, `StorageError` where the folder cannot be written.
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
        with suppress(OSError):  # a folder that is not empty stays
            for folder in missing:
                folder.rmdir()


def _make(staging: Path) -> None:
    try:
        staging.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise ConfigError(
            f"{staging.parent}: not a folder, and none can be created",
            "choose another folder: --to DIR",
        ) from error


def refuse_existing(target: Path) -> None:
    """Raise `ConfigError` if anything exists at `target`: an export never replaces what may be serving."""
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists already", "choose a new folder, or remove that one first")
    if (target.parent / PROOF).exists():
        raise ConfigError(f"{target.parent} is an exported model itself", "choose a folder beside it, not in it")


def _sync(path: Path) -> None:
    from resumable.store.storage.direct_io import sync  # of POSIX alone, and reading a proof needs none of it

    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Return size and digest of every file except the proof."""
    found = {path.name: path for path in sorted(folder.iterdir()) if path.name != PROOF}
    return {name: FileRecord(size=path.stat().st_size, digest=_digest(path)) for name, path in found.items()}


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with reported("read", str(path)), _opened(path) as file:
        while piece := file.read(_FILE_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _opened(path: Path) -> BinaryIO:
    """Open the file without following a link or waiting for a pipe."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0)


def read_proof(folder: Path) -> Proof:
    """Read the proof in a folder; `NoCheckpointError` where there is none, and the errors of `parse_proof`."""
    path = folder / PROOF
    fault = _fault(path, range(MAX_BYTES + 1))
    if fault is not None and os.path.lexists(path):
        raise _damaged(folder, PROOF, fault)
    try:
        with reported("read", str(path)), _opened(path) as file:
            return parse_proof(file.read(MAX_BYTES + 1))
    except FileNotFoundError as error:
        raise NoCheckpointError(
            f"{folder}: no {PROOF}, so it is not an exported model", "name the folder that `resumable export` made"
        ) from error
    except CorruptCheckpointError as error:
        raise CorruptCheckpointError(f"{folder}: {error.message}", error.hint) from error


def check_files(folder: Path, proof: Proof) -> None:
    """Read every file of the proof; `CorruptCheckpointError` names the first whose bytes differ.

    A file that the proof does not list is refused if a loader may take it instead of a listed one. Kind and size of
    all files are checked before a byte of any is read.
    """
    for name, expected in proof.files.items():
        fault = _fault(folder / name, range(expected.size, expected.size + 1))
        if fault is not None:
            raise _damaged(folder, name, fault)
    for name, expected in proof.files.items():
        found = _digest(folder / name)
        if found != expected.digest:
            raise _damaged(folder, name, f"digest {found}, expected {expected.digest}")
    _refuse_unlisted(folder, proof)


def _fault(path: Path, sizes_bytes: range) -> str | None:
    """Return what is wrong with kind or size of a file, without opening it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        raise storage_error("look at", str(path), error) from error
    if stat.S_ISLNK(found.st_mode):
        return "a symbolic link, expected the file itself"
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if found.st_size not in sizes_bytes:
        most = "at most " if len(sizes_bytes) > 1 else ""
        return f"{found.st_size} bytes, expected {most}{sizes_bytes[-1]}"
    return None


def _refuse_unlisted(folder: Path, proof: Proof) -> None:
    """Refuse an unlisted file, unless only people read it and the program does not name it."""
    for path in sorted(folder.iterdir()):
        if path.name in proof.files or path.name == PROOF:
            continue
        if not path.is_dir() and not path.name.startswith(".") and not _for_people(path.name):
            raise _damaged(folder, path.name, "not listed in the proof, and a program may load it")
        if proof.format == "onnx" and _names(folder / proof.entry, path.name):
            raise _damaged(folder, path.name, f"not listed in the proof, and {proof.entry} names it")


def _for_people(name: str) -> bool:
    return (name.endswith(_TEXTS) and not name.endswith(_SHARD_INDEX)) or name.upper() in _NOTICES


def _names(program: Path, name: str) -> bool:
    """Return whether an ONNX file contains this name: its tensors may be in any file beside it."""
    with program.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return mapped.find(os.fsencode(name)) >= 0


def _damaged(folder: Path, name: str, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        f"{folder}: {name}: {reason}",
        "it was damaged, or this proof belongs to another export: copy the whole folder again, or export again",
    )
