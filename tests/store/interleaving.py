"""Programs that share one storage and move only when told to, one storage call at a time; knows nothing of runs.

Each actor is a thread with code of the product in it. It waits before every call that it makes to the storage, so a
test chooses which one takes the next call, and any schedule happens the same way each time.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from fsspec.spec import AbstractFileSystem

from resumable.store.storage.backends import Backend
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.store.storage.protocol import Entry, Seen, Storage, checked, reported

T = TypeVar("T")

# No call of ours takes this long: an actor that does not come back waits for something that nobody will do.
STUCK_SECONDS = 60


class Killed(BaseException):
    """What ends a thread where a SIGKILL would end its program: no call that it makes after this does anything."""


class Call(NamedTuple):
    """One call to the storage: what it does (`list`, `read`, `write`, `create`, `remove`, ...) and where."""

    kind: str
    path: str


class Actor:
    """A program: runs `work` as far as its first call to the storage, and from there one call per `step`."""

    def __init__(self, name: str, work: Callable[[Actor], object]) -> None:
        self.name = name
        self.pending: Call | None = None
        """What it does next; None once it has ended."""
        self.error: BaseException | None = None
        """What it ended with, if not well."""
        self.calls = 0
        self._killed = False
        self._failing: Literal["before", "after"] | None = None
        self._go, self._paused = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._paused.acquire()
        self._thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._thread.start()
        self._until_paused()

    def __repr__(self) -> str:
        return self.name

    @property
    def ended(self) -> bool:
        return self.pending is None

    def step(self) -> None:
        """Let it make its next call, and return when it waits before the one after."""
        assert not self.ended, f"{self} has ended"
        self._go.release()
        self._until_paused()

    def fail(self, when: Literal["before", "after"]) -> None:
        """Let its next call fail, without having done anything or after having done everything."""
        self._failing = when

    def kill(self) -> None:
        """End it where it stands."""
        if not self.ended:
            self._killed = True
            self.step()
        self._thread.join(STUCK_SECONDS)

    def turn(self, kind: str, path: str, call: Callable[[], T]) -> T:
        """Make a call when it is this actor's turn; for its own storage, in its own thread."""
        if self._killed:
            raise Killed
        self.pending = Call(kind, path)
        self._paused.release()
        self._go.acquire()
        if self._killed:
            raise Killed
        self.calls += 1
        failing, self._failing = self._failing, None
        if failing == "before":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        result = call()
        if failing == "after":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return result

    def _run(self, work: Callable[[Actor], object]) -> None:
        try:
            work(self)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.pending = None
            self._paused.release()

    def _until_paused(self) -> None:
        assert self._paused.acquire(timeout=STUCK_SECONDS), f"{self} is stuck behind {self.pending}"


class Change(NamedTuple):
    """A file that came to be or was removed, and by whom."""

    actor: Actor
    kind: Literal["put", "removed"]
    path: str


class Contents:
    """The files that all see, and what happened to them, oldest first."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.folders: set[str] = set()
        self.changes: list[Change] = []

    def put(self, actor: Actor, path: str, data: bytes) -> None:
        self.files[path] = data
        parts = path.split("/")[:-1]
        self.folders.update("/".join(parts[: end + 1]) for end in range(len(parts)))
        self.changes.append(Change(actor, "put", path))

    def remove(self, actor: Actor, path: str) -> None:
        if self.files.pop(path, None) is not None:
            self.changes.append(Change(actor, "removed", path))

    def children(self, folder: str, *, folders: Iterable[str] = ()) -> list[Entry]:
        """The direct children: files, the folders that files imply, and those of `folders`."""
        start = f"{folder}/" if folder else ""
        found = {
            Entry(rest.partition("/")[0], "/" in rest, None if "/" in rest else len(data))
            for rest, data in (
                (path.removeprefix(start), data) for path, data in self.files.items() if path.startswith(start)
            )
        }
        found |= {
            Entry(rest, True)
            for rest in (each.removeprefix(start) for each in folders if each.startswith(start))
            if rest and "/" not in rest
        }
        return sorted(found)


class Folder:
    """`Storage` as a folder is one: empty folders show, and of several creates of one file one succeeds."""

    patience_seconds = 0.0
    locks = False
    parallel = 1
    readers = 1
    removed_at_once = 1
    range_bytes = 2**20
    caches_reads = True
    exclusive = True

    def __init__(self, contents: Contents, actor: Actor) -> None:
        self.url = "folder"
        self._contents = contents
        self._actor = actor

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        data = self._turn("read", path, lambda: self._file(path))
        if max_bytes is not None and len(data) > max_bytes:
            raise ValueError(f"{len(data)} bytes, more than the {max_bytes} allowed")
        return data

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0, seen: Seen | None = None) -> int:
        piece = self._turn("read", path, lambda: self._file(path))[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        if seen:
            seen(buffer[: len(piece)], offset)
        return len(piece)

    def size(self, path: str) -> int:
        return len(self._turn("size", path, lambda: self._file(path)))

    def drop_cache(self, path: str) -> None:
        pass

    def list(self, path: str) -> list[Entry]:
        return self._turn("list", path, lambda: self._contents.children(path, folders=self._contents.folders))

    def list_below(self, path: str) -> None:
        return None

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        data = b"".join(chunks)
        self._turn("write", path, lambda: self._contents.put(self._actor, path, data))

    def link(self, source: str, target: str) -> bool:
        self._turn("link", target, lambda: self._contents.put(self._actor, target, self._file(source)))
        return True

    def create(self, path: str, data: bytes) -> None:
        def act() -> None:
            if self._contents.files.get(path, data) != data:
                raise FileExistsError(path)
            self._contents.put(self._actor, path, data)

        self._turn("create", path, act)

    def remove(self, path: str) -> None:
        self._turn("remove", path, lambda: self._contents.remove(self._actor, path))

    def remove_all(self, paths: Sequence[str]) -> None:
        for path in paths:
            self.remove(path)

    def remove_dir(self, path: str) -> None:
        def act() -> None:
            if not self._contents.children(path, folders=self._contents.folders):
                self._contents.folders.discard(path)

        self._turn("remove_dir", path, act)

    def free_bytes(self) -> int | None:
        return None

    def lock(self, path: str) -> Callable[[], None]:
        return lambda: None

    def _file(self, path: str) -> bytes:
        try:
            return self._contents.files[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def _turn(self, kind: str, path: str, call: Callable[[], T]) -> T:
        with reported(kind, path):
            return self._actor.turn(kind, checked(path) if path else path, call)


class Shelf(AbstractFileSystem):
    """An object store as fsspec shows one, each request a call of its own; if not `honest`, conditions are ignored."""

    protocol = "shelf"
    cachable = False

    def __init__(self, contents: Contents, actor: Actor, *, honest: bool) -> None:
        super().__init__()
        self._contents = contents
        self._actor = actor
        self._honest = honest

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        found = self._actor.turn("list", _inside(path), lambda: self._contents.children(_inside(path)))
        if not found:
            raise FileNotFoundError(path)
        children = [
            {"name": f"{path}/{entry.name}", "type": "directory" if entry.is_dir else "file", "size": entry.size or 0}
            for entry in found
        ]
        return children if detail else [child["name"] for child in children]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        data = self._actor.turn("size", _inside(path), lambda: self._file(path))
        return {"name": path, "type": "file", "size": len(data)}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        return self._actor.turn("read", _inside(path), lambda: self._file(path))[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        def act() -> None:
            if mode == "create" and self._honest and _inside(path) in self._contents.files:
                raise FileExistsError(path)
            self._contents.put(self._actor, _inside(path), value)

        self._actor.turn("write" if mode == "overwrite" else "create", _inside(path), act)

    def rm_file(self, path: str) -> None:
        self._actor.turn("remove", _inside(path), lambda: self._contents.remove(self._actor, _inside(path)))

    def rmdir(self, path: str) -> None:
        raise NotImplementedError

    def below(self, path: str) -> list[dict[str, Any]]:
        """All files below a folder, by one request."""

        def act() -> list[dict[str, Any]]:
            start = f"{_inside(path)}/"
            found = {name: len(data) for name, data in self._contents.files.items() if name.startswith(start)}
            return [{"name": f"bucket/run/{name}", "type": "file", "size": size} for name, size in found.items()]

        return self._actor.turn("list", _inside(path), act)

    def rm_files(self, paths: Sequence[str]) -> None:
        """Remove several, by one request."""

        def act() -> None:
            for path in paths:
                self._contents.remove(self._actor, _inside(path))

        self._actor.turn("remove", _inside(paths[0]), act)

    def _file(self, path: str) -> bytes:
        try:
            return self._contents.files[_inside(path)]
        except KeyError:
            raise FileNotFoundError(path) from None


def _inside(path: str) -> str:
    return path.removeprefix("bucket/run").strip("/")


Kind = Literal["folder", "bucket", "careless bucket"]


def seen_by(actor: Actor, kind: Kind, contents: Contents) -> Storage:
    """The storage as one actor has it: a folder, or an object store with or without conditional create."""
    if kind == "folder":
        return Folder(contents, actor)
    place = Honest if kind == "bucket" else Careless
    return place(Shelf(contents, actor, honest=kind == "bucket"), "bucket/run", "shelf://bucket/run")


class Several(Backend):
    """One request lists all files, and one removes several, as on S3."""

    has_folders = False
    removed_at_once = 1000

    def below(self, folder: str) -> list[dict[str, Any]]:
        return self._fs.below(folder)

    def remove_all(self, ats: Sequence[str]) -> None:
        self._fs.rm_files(ats)


class Honest(FsspecStorage):
    """One that need not be tried out (which two threads of one program cannot do at a time in Python 3.11)."""

    exclusive = True  # type: ignore[assignment]

    def __init__(self, file_system: AbstractFileSystem, root: str, url: str) -> None:
        super().__init__(file_system, root, url)
        self._backend = Several(file_system)
        self.removed_at_once = self._backend.removed_at_once


class Careless(FsspecStorage):
    """The same where create is: look, write, read back."""

    exclusive = False  # type: ignore[assignment]
