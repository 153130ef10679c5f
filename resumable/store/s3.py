"""What is particular to s3fs; knows no runs.

One request among many of a large file is repeated here, by botocore; all other patience is the caller's.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, cast

from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

from resumable.store.backends import Backend, Unconditional, Upload

# For botocore, below what the user says: a lost part must not cost the whole of a large file, and no silence may last.
CONFIG = {
    "retries": {"total_max_attempts": 3, "mode": "standard"},
    "connect_timeout": 5,
    "read_timeout": 20,
}
REQUEST_SECONDS = 600  # with its repetitions; the timeouts above do not see a server that reads no more

_REFUSED = ("PreconditionFailed", "412")
_UNKNOWN_CONDITION = ("NotImplemented", "501", "InvalidArgument", "MethodNotAllowed", "405")
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")  # of botocore, which need not be there
_DAMAGED_ON_THE_WAY = ("IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "NoSuchUpload", "RequestTimeout")


class S3(Backend):
    """s3fs: no request without an end, none that is not needed, and no upload left behind."""

    has_folders = False

    def __init__(self, file_system: AbstractFileSystem) -> None:
        super().__init__(file_system)
        file_system.config_kwargs = _config() | file_system.config_kwargs
        file_system.retries = 1  # a second round around botocore's
        file_system.call_s3 = partial(file_system.call_s3, timeout=REQUEST_SECONDS)
        self._abandoned: set[str] = set()

    def get(self, at: str, start: int, stop: int) -> bytes:
        # The client compares what comes with the length that the server announced; a range spares it another question.
        try:
            with _translated():
                return bytes(self._fs.cat_file(at, start=start, end=stop, timeout=REQUEST_SECONDS))
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
            self._fs.pipe_file(at, data, timeout=REQUEST_SECONDS)

    def put_new(self, at: str, data: bytes) -> None:
        try:
            with _translated():
                self._fs.pipe_file(at, data, mode="create", timeout=REQUEST_SECONDS)
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
        self._abandoned.add(at)  # for the next write: this one has waited long enough for a server that is ill

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


def _config() -> dict[str, Any]:
    from botocore.config import Config  # type: ignore[import-untyped]

    # Some servers answer a range with the checksum of the whole; what is read is checked by digests of ours anyway.
    known = "response_checksum_validation" in Config.OPTION_DEFAULTS
    return CONFIG | ({"response_checksum_validation": "when_required"} if known else {})


class S3Upload(Upload):
    """In parts, of which nothing is visible before the last request."""

    _backend: S3

    def abandon(self) -> None:
        begun = self._file.mpu is not None
        try:
            self._file.discard()
        except FileNotFoundError:
            pass
        except Exception:
            begun = False
        self._file.closed = True
        if not begun:
            self._backend.abandoned(self._at)


@contextmanager
def _translated() -> Iterator[None]:
    """Failures of s3fs in the words of the rest."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ in _NO_CREDENTIALS:  # waiting brings none
            raise PermissionError(errno.EACCES, str(error)) from error
        if not isinstance(error, OSError):
            raise
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
