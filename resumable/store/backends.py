"""What fsspec's filesystems differ in, behind one face; knows no runs, no relative paths and no words for users.

Failures leave as the backend raises them. What is repeated in here is one request among many of a large file; all other
patience is the caller's.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, cast

import xxhash
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem  # type: ignore[import-untyped]

from resumable.store.layout import TEMPORARY

# For botocore, below what the user says: so that one lost part does not cost the whole of a large file, and that no silence lasts.
S3_CONFIG = {
    "retries": {"total_max_attempts": 3, "mode": "standard"},
    "connect_timeout": 5,
    "read_timeout": 20,
}
S3_REQUEST_SECONDS = 600  # with its repetitions; the timeouts above do not see a server that reads no more
SFTP_SILENCE_SECONDS = 60

_REFUSED = ("PreconditionFailed", "412")
_UNKNOWN_CONDITION = ("NotImplemented", "501", "InvalidArgument", "MethodNotAllowed", "405")
_DAMAGED_ON_THE_WAY = ("IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "NoSuchUpload", "RequestTimeout")


class Unconditional(NotImplementedError):
    """The server says that it knows no conditional writes."""


class Upload:
    """A file that is written piece by piece, and there, whole, after `commit`."""

    def __init__(self, backend: Backend, at: str) -> None:
        self._backend = backend
        self._at = at
        with backend.using() as file_system:
            self._file = file_system.open(at, "wb")

    def write(self, piece: memoryview) -> None:
        """Append to it."""
        with self._backend.using():
            self._file.write(piece)

    def commit(self) -> None:
        """Make it visible."""
        with self._backend.using():
            self._file.close()

    def abandon(self) -> None:
        """Leave it so that closing it, also when it is collected, does not publish what there is. Never raises."""
        with suppress(Exception):
            self._file.discard()
        if isinstance(self._file, AbstractBufferedFile):
            self._file.closed = True
            return
        with suppress(Exception):
            self._file.close()
        with suppress(Exception):  # seen while it grew
            self._backend.remove(self._at)


class Backend:
    """Any filesystem of fsspec that nothing else uses; its listing cache is turned off."""

    has_folders = True

    def __init__(self, file_system: AbstractFileSystem) -> None:
        self._fs = file_system
        # Not an argument of the constructor: sftp hands all of those to the connection.
        with suppress(AttributeError):
            file_system.dircache.use_listings_cache = False

    @property
    def conditional(self) -> bool:
        """Whether `put_new` asks the server to refuse. Whether that does must be tried out."""
        # fsspec's own asks first, and then writes. The method of an async filesystem belongs to the instance.
        return getattr(self._fs.pipe_file, "__func__", None) is not AbstractFileSystem.pipe_file

    def using(self) -> AbstractContextManager[Any]:
        """The filesystem, for one call."""
        return nullcontext(self._fs)

    def get(self, at: str, start: int, stop: int) -> bytes:
        """The bytes of a range; fewer only where the file ends. `FileNotFoundError`."""
        try:
            with self.using() as file_system:
                data = bytes(file_system.cat_file(at, start=start, end=stop)[: stop - start])
        except FileNotFoundError:
            raise
        except Exception:
            if self.size(at) > start:
                raise
            return b""  # a range that starts at the end is an error to some
        if len(data) < stop - start and start + len(data) < self.size(at):
            raise ConnectionResetError(errno.ECONNRESET, f"the answer ended after {len(data)} bytes")
        return data

    def size(self, at: str) -> int:
        """In bytes. `FileNotFoundError` also for what is not a file."""
        with self.using() as file_system:
            file_system.invalidate_cache(file_system._parent(at))
            found = file_system.info(at)
        if found["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, "not a file")
        return int(found["size"])

    def children(self, folder: str) -> list[dict[str, Any]]:
        """What fsspec lists. `FileNotFoundError`."""
        with self.using() as file_system:
            file_system.invalidate_cache(folder)
            return cast(list[dict[str, Any]], file_system.ls(folder, detail=True))

    def put(self, at: str, data: bytes) -> None:
        """Write a whole file. `FileNotFoundError` where a folder is missing."""
        with self.using() as file_system:
            file_system.pipe_file(at, data)

    def put_new(self, at: str, data: bytes) -> None:
        """As `put`, with the condition that nothing is there: `FileExistsError`, `Unconditional`."""
        with self.using() as file_system:
            file_system.pipe_file(at, data, mode="create")

    def begin(self, at: str) -> Upload:
        """Begin a file. `FileNotFoundError` where a folder is missing."""
        return Upload(self, at)

    def remove(self, at: str) -> None:
        """Remove a file. `FileNotFoundError`, or nothing."""
        with self.using() as file_system:
            file_system.rm_file(at)

    def remove_folder(self, folder: str) -> None:
        """Remove what must be an empty folder; some backends would remove what is in it."""
        with self.using() as file_system:
            file_system.rmdir(folder)

    def make_folder(self, folder: str) -> None:
        """Make one folder. `FileExistsError`; `FileNotFoundError` where the one above is missing."""
        with self.using() as file_system:
            file_system.mkdir(folder, create_parents=False)


class S3(Backend):
    """s3fs: no request without an end, none that is not needed, and no upload left behind."""

    has_folders = False

    def __init__(self, file_system: AbstractFileSystem) -> None:
        super().__init__(file_system)
        file_system.config_kwargs = _s3_config() | file_system.config_kwargs
        file_system.retries = 1  # a second round around botocore's
        file_system.call_s3 = partial(file_system.call_s3, timeout=S3_REQUEST_SECONDS)
        self._abandoned: set[str] = set()

    def get(self, at: str, start: int, stop: int) -> bytes:
        # The client compares what comes with the length that the server announced; a range spares it another question.
        try:
            with _translated():
                return bytes(self._fs.cat_file(at, start=start, end=stop, timeout=S3_REQUEST_SECONDS))
        except OSError as error:
            if _code(error) in ("InvalidRange", "416"):
                return b""
            raise

    def children(self, folder: str) -> list[dict[str, Any]]:
        # Not `ls`: where a folder is empty that looks whether it is a file.
        bucket, key, _ = self._fs.split_path(folder)
        question = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": "/"}
        found: list[dict[str, Any]] = []
        while True:
            with _translated():
                page = self._fs.call_s3("list_objects_v2", **question)
            found += [_child(bucket, below["Prefix"], "directory") for below in page.get("CommonPrefixes", [])]
            found += [_child(bucket, file["Key"], "file") for file in page.get("Contents", [])]
            if not page.get("IsTruncated"):
                return found
            question["ContinuationToken"] = page["NextContinuationToken"]

    def put(self, at: str, data: bytes) -> None:
        self._sweep()
        with _translated():
            self._fs.pipe_file(at, data, timeout=S3_REQUEST_SECONDS)

    def put_new(self, at: str, data: bytes) -> None:
        try:
            with _translated():
                self._fs.pipe_file(at, data, mode="create", timeout=S3_REQUEST_SECONDS)
        except OSError as error:
            if _code(error) in _UNKNOWN_CONDITION:
                raise Unconditional(str(error)) from error
            raise

    def begin(self, at: str) -> Upload:
        self._sweep()
        return S3Upload(self, at)

    def using(self) -> AbstractContextManager[Any]:
        return self._translating()

    @contextmanager
    def _translating(self) -> Iterator[AbstractFileSystem]:
        with _translated():
            yield self._fs

    def abandoned(self, at: str) -> None:
        """An upload of this file may be left on the server, where nobody sees it and somebody pays for it."""
        self._abandoned.add(at)
        self._sweep()

    def _sweep(self) -> None:
        """Abort the uploads that failed, also such whose very beginning was never answered. Never raises."""
        for at in list(self._abandoned):
            bucket, key, _ = self._fs.split_path(at)
            try:
                listed = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
                for upload in listed.get("Uploads", []):
                    if upload["Key"] == key:
                        self._fs.abort_mpu(bucket, key, upload["UploadId"])
            except (FileNotFoundError, PermissionError):
                pass  # some servers say so when there is none, and some users may not ask
            except Exception:
                return  # later, then
            self._abandoned.discard(at)


def _child(bucket: str, key: str, kind: str) -> dict[str, Any]:
    return {"name": f"{bucket}/{key}", "type": kind}


def _s3_config() -> dict[str, Any]:
    from botocore.config import Config  # type: ignore[import-untyped]

    # Some servers answer a range with the checksum of the whole; what is read is checked by digests of ours anyway.
    known = "response_checksum_validation" in Config.OPTION_DEFAULTS
    return S3_CONFIG | ({"response_checksum_validation": "when_required"} if known else {})


class S3Upload(Upload):
    """In parts, of which nothing is visible before the last request."""

    _backend: S3

    def abandon(self) -> None:
        super().abandon()
        self._backend.abandoned(self._at)


@contextmanager
def _translated() -> Iterator[None]:
    """Failures of s3fs in the words of the rest."""
    try:
        yield
    except OSError as error:
        code = _code(error)
        if code in _REFUSED:  # not every server names the condition, as s3fs expects
            raise FileExistsError(errno.EEXIST, "refused by the server: it is there already") from error
        if code in _DAMAGED_ON_THE_WAY:  # these are worth another try, and their number would say they are not
            raise OSError(errno.EIO, f"{code}: {error.strerror or error}") from error
        raise


def _code(error: BaseException) -> str | None:
    """What the server called it."""
    response = getattr(error.__cause__, "response", None) or {}
    return cast(str | None, response.get("Error", {}).get("Code"))


class Sftp(Backend):
    """fsspec's SFTP: files appear whole, by a rename, and a connection that is lost is made anew."""

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
        # The protocol's own rename refuses where the name is taken; that of OpenSSH does it with a hard link.
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
        """One for each file, so that the next try writes over what a lost connection left."""
        name = xxhash.xxh3_64_hexdigest(self._token + at.encode())
        return f"{at.rpartition('/')[0]}/{TEMPORARY}{name}"

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
            # Half an answer may still be under way, and the next would be taken for it.
            self._fs.client.close()
            raise ConnectionResetError(errno.ECONNRESET, "the connection was lost") from error
        except OSError as error:
            if str(error) == "Failure":  # all that the protocol can say
                raise OSError("the server says only: failure (is there space left?)") from error
            raise

    def _set_up(self) -> None:
        self._fs.ftp.get_channel().settimeout(SFTP_SILENCE_SECONDS)
        self._fs.client.get_transport().set_keepalive(SFTP_SILENCE_SECONDS // 2)

    @contextmanager
    def _written(self, at: str, data: bytes) -> Iterator[tuple[AbstractFileSystem, str]]:
        upload = SftpUpload(self, at)
        try:
            upload.write(memoryview(data))
            upload.close()
            with self.using() as file_system:
                yield file_system, upload.temporary
        finally:
            upload.abandon()


class SftpUpload(Upload):
    """Beside the file, and then renamed."""

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
        """Everything is with the server."""
        super().commit()
        kept = self._backend.size(self.temporary)
        if kept != self._size_bytes:
            raise OSError(errno.EIO, f"the server kept {kept} of {self._size_bytes} bytes")

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


def backend_of(file_system: AbstractFileSystem) -> Backend:
    """The backend that knows this filesystem best."""
    protocols = {file_system.protocol} if isinstance(file_system.protocol, str) else set(file_system.protocol)
    if "s3" in protocols and hasattr(file_system, "call_s3"):
        return S3(file_system)
    if "sftp" in protocols and hasattr(file_system, "ftp"):
        return Sftp(file_system)
    return Backend(file_system)
