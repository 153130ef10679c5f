"""The backend for the SFTP of fsspec: atomic writes and lost connections. Independent of runs."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import xxhash
from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

from resumable.store.storage.backends import Backend, FileUpload, Upload
from resumable.store.storage.own_files import temporary_name

SILENCE_SECONDS = 60


class Sftp(Backend):
    """fsspec's SFTP: files become visible whole, by a rename, and a lost connection is opened again."""

    def __init__(self, file_system: AbstractFileSystem) -> None:
        super().__init__(file_system)
        self._token = secrets.token_bytes(16)
        self._set_up()

    @property
    def conditional(self) -> bool:
        return True

    def put(self, at: str, data: bytes) -> None:
        with self._written(at, data) as (file_system, temporary):
            _replace(file_system, temporary, at)

    def put_new(self, at: str, data: bytes) -> None:
        # The protocol's own rename fails if the name is taken; OpenSSH does it with a hard link.
        with self._written(at, data) as (file_system, temporary):
            try:
                file_system.ftp.rename(temporary, at)
            except OSError as error:
                if file_system.exists(at):
                    raise FileExistsError(errno.EEXIST, "it is there already") from error
                raise

    def begin(self, at: str) -> Upload:
        return SftpUpload(self, at)

    def temporary(self, at: str) -> str:
        """Return one name for each file, so that a retry overwrites what a lost connection left."""
        digits = xxhash.xxh3_64_hexdigest(self._token + at.encode())
        return f"{at.rpartition('/')[0]}/{temporary_name(digits)}"

    def using(self) -> AbstractContextManager[Any]:
        return self._connected()

    @contextmanager
    def _connected(self) -> Iterator[AbstractFileSystem]:
        transport = self._fs.client.get_transport()
        if transport is None or not transport.is_active():
            self._fs.client.close()
            self._fs._connect()
            self._set_up()
        try:
            yield self._fs
        except (EOFError, TimeoutError) as error:
            # Half of the answer may still arrive, and would be taken for the next one.
            self._fs.client.close()
            raise ConnectionResetError(errno.ECONNRESET, "the connection was lost") from error
        except OSError as error:
            if str(error) == "Failure":  # the protocol has no more detail
                raise OSError("the server reports no more than: failure (is there space left?)") from error
            raise

    def _set_up(self) -> None:
        self._fs.ftp.get_channel().settimeout(SILENCE_SECONDS)
        self._fs.client.get_transport().set_keepalive(SILENCE_SECONDS // 2)

    @contextmanager
    def _written(self, at: str, data: bytes) -> Iterator[tuple[AbstractFileSystem, str]]:
        upload = SftpUpload(self, at)
        try:
            upload.write(memoryview(data))
            upload.close()
            with self.using() as file_system:
                yield file_system, upload.temporary
        except BaseException:
            upload.abandon()
            raise


class SftpUpload(FileUpload):
    """`Upload` into a temporary file beside the target, which is then renamed."""

    _backend: Sftp

    def __init__(self, backend: Sftp, at: str) -> None:
        self.temporary = backend.temporary(at)
        self._size_bytes = 0
        super().__init__(backend, self.temporary)
        self._target = at

    def write(self, piece: memoryview) -> None:
        super().write(piece)
        self._size_bytes += len(piece)

    def close(self) -> None:
        """Finish the temporary file, and compare its size with what was written."""
        super().commit()
        stored = self._backend.size(self.temporary)
        if stored != self._size_bytes:
            raise OSError(errno.EIO, f"the server stored {stored} of {self._size_bytes} bytes")

    def commit(self) -> None:
        self.close()
        with self._backend.using() as file_system:
            _replace(file_system, self.temporary, self._target)


def _replace(file_system: AbstractFileSystem, temporary: str, at: str) -> None:
    try:
        file_system.mv(temporary, at)
    except OSError as error:
        if str(error) != "Operation unsupported":  # an extension of OpenSSH that most servers have
            raise
        with suppress(FileNotFoundError):
            file_system.rm_file(at)
        file_system.ftp.rename(temporary, at)
