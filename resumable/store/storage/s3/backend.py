"""The backend for s3fs: parallel requests, conditional writes, abandoned uploads. Independent of runs.

Single requests of a large file are retried here, by botocore; all other retries are the caller's.

A large file is uploaded and read by several requests at once, as coroutines of the one loop of s3fs: an object store
gives one connection a fraction of the machine's bandwidth, after tens of milliseconds of latency.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

from resumable.store.storage.backends import Backend, Unconditional, Upload
from resumable.store.storage.s3.errors import (
    BEYOND_THE_END,
    NO_REQUEST_FOR_SEVERAL,
    UNKNOWN_CONDITION,
    code_of,
    raise_if_kept,
    translated,
)

# For botocore, unless the user sets them: a lost part must not cost a whole large file, and no silence may last.
CONFIG = {
    "retries": {"total_max_attempts": 3, "mode": "standard"},
    "connect_timeout": 5,
    "read_timeout": 20,
}
REQUEST_SECONDS = 600  # with its retries; the timeouts above do not notice a server that stops reading

# Behind a proxy that gives each connection 30 ms and 80 MB/s, 1, 2, 4, 8 requests at once publish 120 MB in 4.4, 3.3,
# 2.8, 2.9 s and load them in 2.8, 2.1, 1.7, 1.5 s; they publish 32 blobs of 64 KiB in 1.6, 1.1, 0.8, 0.6 s. Parts of 8,
# 16 and 32 MiB showed no clear difference. botocore opens at most 10 connections. tests/bench/object_store.py measures.
PARALLEL = 8
PART_BYTES = 16 * 2**20
COPIED_AT_ONCE_BYTES = 2**20  # of a part, so that no thread of the training waits for the interpreter meanwhile
MAX_EQUAL_PARTS, MAX_DOUBLING_PARTS = 4000, 1000

T = TypeVar("T")

Requests: TypeAlias = Coroutine[Any, Any, T]
"""A coroutine on the loop of the filesystem."""


class S3(Backend):
    """s3fs: every request has a time limit, and no upload is left behind."""

    has_folders = False
    removed_at_once = 1000  # as the protocol bounds it

    def __init__(self, file_system: AbstractFileSystem) -> None:
        super().__init__(file_system)
        file_system.config_kwargs = _config() | file_system.config_kwargs
        file_system.retries = 1  # a second round around botocore's
        file_system.call_s3 = partial(file_system.call_s3, timeout=REQUEST_SECONDS)
        options = file_system.storage_options  # of the user; s3fs's own defaults are for other uses
        self.parallel = int(options.get("max_concurrency") or PARALLEL)
        self.part_bytes = int(options.get("default_block_size") or PART_BYTES)
        self.room = asyncio.Semaphore(self.parallel)
        """Limits the requests in flight, of all large files together."""
        self._abandoned: set[str] = set()
        self._in_progress: set[str] = set()
        self._sweeping = threading.Lock()
        self._removes_several = True

    def get(self, at: str, start: int, stop: int) -> bytes:
        # The client compares the answer with the length that the server announced; a range saves it another request.
        try:
            with translated():
                return bytes(self._fs.cat_file(at, start=start, end=stop, timeout=REQUEST_SECONDS))
        except OSError as error:
            if code_of(error) in BEYOND_THE_END:
                return b""
            raise

    def fill(self, at: str, pieces: Sequence[tuple[int, memoryview]]) -> int:
        """Do as `Backend.fill`, by several requests at once, straight into the memory."""
        bucket, key, _ = self._fs.split_path(at)
        with translated():
            counts = self.run(_all([self._fill(bucket, key, start, target) for start, target in pieces]))
        got = 0
        for count, (_, target) in zip(counts, pieces, strict=True):
            got += count
            if count < len(target):
                break
        return got

    async def _fill(self, bucket: str, key: str, start: int, target: memoryview) -> int:
        async with self.room, asyncio.timeout(REQUEST_SECONDS):
            byte_range = f"bytes={start}-{start + len(target) - 1}"
            try:
                answer = await self._fs._call_s3("get_object", Bucket=bucket, Key=key, Range=byte_range)
            except OSError as error:
                if code_of(error) in BEYOND_THE_END:
                    return 0
                raise
            # The client compares the answer with the length that the server announced.
            return await _read_into(answer["Body"], target)

    def children(self, folder: str) -> list[dict[str, Any]]:
        # Not `ls`: for an empty folder that also requests whether it is a file.
        return self._list(folder, Delimiter="/")

    def below(self, folder: str) -> list[dict[str, Any]]:
        return self._list(folder)

    def _list(self, folder: str, **query: str) -> list[dict[str, Any]]:
        bucket, key, _ = self._fs.split_path(folder)
        query |= {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
        found: list[dict[str, Any]] = []
        while True:
            with translated():
                page = self._fs.call_s3("list_objects_v2", **query)
            found += [_child(bucket, below["Prefix"], "directory") for below in page.get("CommonPrefixes", [])]
            found += [_child(bucket, file["Key"], "file") | {"size": file["Size"]} for file in page.get("Contents", [])]
            if not page.get("IsTruncated"):
                return found
            query["ContinuationToken"] = page["NextContinuationToken"]

    def remove_all(self, ats: Sequence[str]) -> None:
        if self._removes_several:
            try:
                return self._remove_several(ats)
            except OSError as error:
                if code_of(error) not in NO_REQUEST_FOR_SEVERAL:
                    raise
                self._removes_several = False
        with translated():
            self.run(_all([self._remove(at) for at in ats]))

    async def _remove(self, at: str) -> None:
        bucket, key, _ = self._fs.split_path(at)
        async with self.room, asyncio.timeout(REQUEST_SECONDS):
            await self._fs._call_s3("delete_object", Bucket=bucket, Key=key)

    def _remove_several(self, ats: Sequence[str]) -> None:
        paths = [self._fs.split_path(at) for at in ats]
        keys = [{"Key": key} for _, key, _ in paths]
        answer = self.call("delete_objects", Bucket=paths[0][0], Delete={"Objects": keys, "Quiet": True})
        for failed in answer.get("Errors", []):
            raise_if_kept(failed)

    def put(self, at: str, data: bytes) -> None:
        if self._sweeping.acquire(blocking=False):  # otherwise another thread sweeps
            try:
                self._sweep()
            finally:
                self._sweeping.release()
        with translated():
            self._fs.pipe_file(at, data, timeout=REQUEST_SECONDS)

    def put_new(self, at: str, data: bytes) -> None:
        try:
            with translated():
                self._fs.pipe_file(at, data, mode="create", timeout=REQUEST_SECONDS)
        except OSError as error:
            if code_of(error) in UNKNOWN_CONDITION:
                raise Unconditional(str(error)) from error
            raise

    def begin(self, at: str) -> Upload:
        with self._sweeping:  # a sweep of this file that began before must not find the new upload
            self._sweep()
            self._in_progress.add(at)
        upload = S3Upload(self, at)
        try:
            upload.begin()
        except BaseException:
            upload.abandon()
            raise
        return upload

    def call(self, method: str, **arguments: Any) -> Any:
        """Make one request, and return its answer."""
        with translated():
            return self._fs.call_s3(method, **arguments)

    def run(self, coroutine: Requests[T]) -> T:
        """Run a coroutine on the loop of the filesystem; an interrupt of the caller cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._fs.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def using(self) -> AbstractContextManager[Any]:
        return self._translating()

    @contextmanager
    def _translating(self) -> Iterator[AbstractFileSystem]:
        with translated():
            yield self._fs

    def ended(self, at: str, *, left: bool) -> None:
        """Record that no upload of this file is in progress any more.

        If one is `left`, the server may still hold it, where it is invisible and costs money.
        """
        if left:
            self._abandoned.add(at)  # for the next write: this one has waited long enough for a failing server
        self._in_progress.discard(at)

    def _sweep(self) -> None:
        """Abort the uploads that failed, also if even their first request had no answer. Never raises.

        Other threads may be uploading meanwhile: files with an upload in progress are left for later.
        """
        for at in self._abandoned - self._in_progress:
            bucket, key, _ = self._fs.split_path(at)
            try:
                listed = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
                for upload in listed.get("Uploads", []):
                    if upload["Key"] == key:
                        ending = {"Bucket": bucket, "Key": key, "UploadId": upload["UploadId"]}
                        self._fs.call_s3("abort_multipart_upload", **ending)
            except (FileNotFoundError, PermissionError):
                pass  # some servers report that there is none, and some users lack the permission
            except Exception:
                return  # the next write tries again
            self._abandoned.discard(at)


def _child(bucket: str, key: str, kind: str) -> dict[str, Any]:
    return {"name": f"{bucket}/{key}", "type": kind}


def _config() -> dict[str, Any]:
    from botocore.config import Config  # type: ignore[import-untyped]

    # Some servers answer a range with the checksum of the whole; our own digests check what is read anyway.
    has_option = "response_checksum_validation" in Config.OPTION_DEFAULTS
    return CONFIG | ({"response_checksum_validation": "when_required"} if has_option else {})


class S3Upload:
    """`Upload` in parts, several at once; the file becomes visible with the last request.

    Bytes are copied into one part after the other, each of which is sent as soon as it is full. While `PARALLEL` parts
    are in flight, of this and of all other files, writing blocks. So memory is used for that many parts, and for the
    one that each upload is filling. The next `write` or `commit` raises the error of a part that failed.
    """

    def __init__(self, backend: S3, at: str) -> None:
        self._backend = backend
        self._at = at
        bucket, key, _ = backend._fs.split_path(at)
        self._upload: dict[str, str] = {"Bucket": bucket, "Key": key}
        self._part = io.BytesIO()
        self._parts: list[asyncio.Task[dict[str, Any]]] = []
        self._over = False

    def begin(self) -> None:
        """Request the upload. `FileNotFoundError` if there is no bucket."""
        self._upload["UploadId"] = self._backend.call("create_multipart_upload", **self._upload)["UploadId"]

    def write(self, piece: memoryview) -> None:
        while piece:
            room_bytes = self._part_bytes() - self._part.tell()
            copied_bytes = self._part.write(piece[: min(room_bytes, COPIED_AT_ONCE_BYTES)])
            piece = piece[copied_bytes:]
            if copied_bytes == room_bytes:
                self._send()

    def commit(self) -> None:
        if self._part.tell() or not self._parts:
            self._send()
        with translated():
            parts = self._backend.run(_all(self._parts))
        self._backend.call("complete_multipart_upload", **self._upload, MultipartUpload={"Parts": parts})
        self._backend.ended(self._at, left=False)

    def abandon(self) -> None:
        left = True
        with suppress(Exception):
            self._backend.run(self._stop())
            with suppress(FileNotFoundError):
                self._backend.call("abort_multipart_upload", **self._upload)
            left = False
        self._backend.ended(self._at, left=left)

    def _part_bytes(self) -> int:
        """Return the size of the next part.

        An upload has at most 10,000 parts. All are equal, which some servers require, unless a file is so large (64 GB)
        that they must grow.
        """
        doublings = max(0, len(self._parts) - MAX_EQUAL_PARTS) // MAX_DOUBLING_PARTS
        return int(self._backend.part_bytes << doublings)

    def _send(self) -> None:
        part, self._part = self._part, io.BytesIO()
        with translated():
            self._backend.run(self._sent(part.getvalue()))

    async def _sent(self, data: bytes) -> None:
        """Wait until fewer than `PARALLEL` parts are in flight, and start sending this one."""
        room = self._backend.room
        await room.acquire()
        if self._over:
            room.release()
            return
        task = asyncio.create_task(self._send_part(len(self._parts) + 1, data))
        task.add_done_callback(lambda _: room.release())
        self._parts.append(task)
        for part in self._parts:
            if part.done():
                part.result()

    async def _send_part(self, number: int, data: bytes) -> dict[str, Any]:
        arguments = {"PartNumber": number, **self._upload, "Body": data}
        async with asyncio.timeout(REQUEST_SECONDS):
            answer = await self._backend._fs._call_s3("upload_part", **arguments)
        checksum = {key: answer[key] for key in ("ChecksumSHA256",) if key in answer}  # if the user requests it
        return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

    async def _stop(self) -> None:
        self._over = True
        await _stopped(self._parts)


async def _all(coroutines: Sequence[Requests[T] | asyncio.Task[T]]) -> list[T]:
    """Run all at once and return their results; the first failure is raised when the others are cancelled and ended."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        await _stopped(tasks)
        raise


async def _stopped(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _read_into(body: Any, target: memoryview) -> int:
    got = 0
    try:
        while got < len(target):
            piece = await body.read(len(target) - got)
            if not piece:
                break
            target[got : got + len(piece)] = piece
            got += len(piece)
        return got
    finally:
        body.close()
