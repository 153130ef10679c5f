"""An object store in a folder, as nasty as the real ones: no folders, no rename, whole objects, cached listings."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem


class FlatStore(AbstractFileSystem):
    """Each object is one file of `folder`, its key quoted. A conditional create is honoured. Listings are cached."""

    protocol = "flat"

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(folder=folder, **options)
        self.folder = Path(folder)
        self.requests: list[str] = []

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        if path not in self.dircache:
            self.dircache[path] = self._list(path)
            found = self._list(path)
        else:
            found = self.dircache[path]
        if not found:
            raise FileNotFoundError(path)
        return found if detail else [child["name"] for child in found]

    def _list(self, path: str) -> list[dict[str, Any]]:
        self.requests.append(f"list {path}")
        found: dict[str, dict[str, Any]] = {}
        for file in self.folder.iterdir():
            key = unquote(file.name)
            if key.startswith(path + "/") and not file.name.startswith("%tmp"):
                name = f"{path}/{key[len(path) + 1 :].split('/')[0]}"
                kind = "file" if name == key else "directory"
                found[name] = {"name": name, "type": kind, "size": file.stat().st_size if name == key else 0}
        return list(found.values())

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        cached = self._ls_from_cache(path)
        if cached:
            return next(iter(cached))
        try:
            return {"name": path, "type": "file", "size": self._file(path).stat().st_size}
        except FileNotFoundError:
            if self._list(path):
                return {"name": path, "type": "directory", "size": 0}
            raise

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        data = self._file(path).read_bytes()
        if start is not None and start >= len(data):
            raise OSError("416: the requested range is not satisfiable")
        return data[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        self.requests.append(f"put {self._strip_protocol(path)}")
        temporary = self.folder / f"%tmp{secrets.token_hex(8)}"
        temporary.write_bytes(value)
        try:
            if mode == "create":
                os.link(temporary, self._file(path))
            else:
                os.replace(temporary, self._file(path))
        finally:
            temporary.unlink(missing_ok=True)

    def rm_file(self, path: str) -> None:
        self._file(path).unlink(missing_ok=True)  # as object stores answer

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        raise AssertionError("there are no folders here, and buckets are the user's to make")

    def invalidate_cache(self, path: str | None = None) -> None:
        pass  # a backend may be as careless as this; not caching is what counts

    def _open(self, path: str, mode: str = "rb", **options: Any) -> FlatFile:
        return FlatFile(self, path, mode, **options)

    def _file(self, path: str) -> Path:
        return self.folder / quote(self._strip_protocol(path), safe="")


class FlatFile(AbstractBufferedFile):
    """Shown when it is closed; also when it is closed by accident, unless it was discarded."""

    parts: list[bytes]

    def _initiate_upload(self) -> None:
        self.parts = []

    def _upload_chunk(self, final: bool = False) -> bool:
        self.parts.append(self.buffer.getvalue())
        if final:
            self.fs.pipe_file(self.path, b"".join(self.parts))
        return True


class CarelessStore(FlatStore):
    """A server that ignores the condition of a conditional create, as several do."""

    protocol = "careless"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        super().pipe_file(path, value)
