"""The folder of an exported model: made whole or not at all, and read byte by byte; knows no model."""

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
from resumable.export.proof.schema import FileRecord, Proof, parse
from resumable.store.storage.protocol import reported, storage_error
from resumable.weights.proof import MAX_BYTES, PROOF

# Those of the storage are about runs.
_HINTS: Mapping[int | None, str] = {
    errno.ENOSPC: "free some space there, or name a folder on another disk: --to DIR",
    errno.EDQUOT: "your quota there is used up: free some space, or name a folder on another disk: --to DIR",
    errno.EROFS: "it is mounted read-only: name a folder elsewhere: --to DIR",
}
PIECE_BYTES = 8 * 2**20

_LOADABLE = ".index.json"  # of shards
_TEXTS = (".md", ".txt", ".rst", ".html", ".pdf", ".png", ".jpg", ".svg", ".json", ".yaml", ".yml", ".csv", ".log")
_NOTICES = ("LICENSE", "NOTICE", "README", "COPYING", "AUTHORS", "CHANGELOG")


def is_artifact(path: str) -> bool:
    """Whether `path` is a folder of this machine that holds a proof, or something in its place."""
    return "://" not in path and os.path.lexists(Path(path).expanduser() / PROOF)


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
    found = {path.name: path for path in sorted(folder.iterdir()) if path.name != PROOF}
    return {name: FileRecord(size=path.stat().st_size, digest=_digest(path)) for name, path in found.items()}


def _digest(path: Path) -> str:
    seen = xxhash.xxh3_128()
    with reported("read", str(path)), _opened(path) as file:
        while piece := file.read(PIECE_BYTES):
            seen.update(piece)
    return seen.hexdigest()


def _opened(path: Path) -> BinaryIO:
    """The file of this very name: a link is not followed, and a pipe not waited for."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0)


def read_proof(folder: Path) -> Proof:
    """The proof in a folder. `NoCheckpointError` where there is none; raises as `proof.parse`."""
    path = folder / PROOF
    fault = _fault(path, range(MAX_BYTES + 1))
    if fault is not None and os.path.lexists(path):
        raise _damaged(folder, PROOF, fault)
    try:
        with reported("read", str(path)), _opened(path) as file:
            return parse(file.read(MAX_BYTES + 1))
    except FileNotFoundError as error:
        raise NoCheckpointError(
            f"{folder}: no {PROOF} here, so it is no exported model", "name the folder that `resumable export` made"
        ) from error
    except CorruptCheckpointError as error:
        raise CorruptCheckpointError(f"{folder}: {error.message}", error.hint) from error


def check_files(folder: Path, proof: Proof) -> None:
    """Read every file that the proof names; `CorruptCheckpointError` names the first whose bytes are others.

    So is one that the proof does not name, if something may load it in the place of those that it does. What each is,
    and its size, is looked at before a byte of any is read.
    """
    for name, expected in proof.files.items():
        fault = _fault(folder / name, range(expected.size, expected.size + 1))
        if fault is not None:
            raise _damaged(folder, name, fault)
    for name, expected in proof.files.items():
        found = _digest(folder / name)
        if found != expected.digest:
            raise _damaged(folder, name, f"its digest is {found}, the proof is of {expected.digest}")
    _refuse_strangers(folder, proof)


def _fault(path: Path, sizes_bytes: range) -> str | None:
    """What is wrong with a file by what the folder says of it; nothing is opened."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        raise storage_error("look at", str(path), error) from error
    if stat.S_ISLNK(found.st_mode):
        return "a symbolic link, expected the file itself"
    if not stat.S_ISREG(found.st_mode):
        return "no regular file"
    if found.st_size not in sizes_bytes:
        most = "at most " if len(sizes_bytes) > 1 else ""
        return f"{found.st_size} bytes, expected {most}{sizes_bytes[-1]}"
    return None


def _refuse_strangers(folder: Path, proof: Proof) -> None:
    """A file may lie beside those of the proof where it is read by people alone, and the program does not name it."""
    for path in sorted(folder.iterdir()):
        if path.name in proof.files or path.name == PROOF:
            continue
        if not path.is_dir() and not path.name.startswith(".") and not _for_people(path.name):
            raise _damaged(folder, path.name, "not among the files of the proof, and a program may load it")
        if proof.format == "onnx" and _names(folder / proof.entry, path.name):
            raise _damaged(folder, path.name, f"not among the files of the proof, and {proof.entry} names it")


def _for_people(name: str) -> bool:
    return (name.endswith(_TEXTS) and not name.endswith(_LOADABLE)) or name.upper() in _NOTICES


def _names(program: Path, name: str) -> bool:
    """Whether the name stands in an ONNX file, which may keep tensors in any file beside it."""
    with program.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return mapped.find(os.fsencode(name)) >= 0


def _damaged(folder: Path, name: str, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        f"{folder}: {name}: {reason}",
        "it was damaged, or this proof is that of another export: copy the whole folder again, or export again",
    )
