"""Publishing and loading a state on real S3 servers of this machine; knows no trainer and no peer.

Servers here answer within a millisecond and share the processors with who asks, so that parallel requests cannot show
what they are for. Behind `Distant` they do: each request waits for a while, and bytes flow at the pace that one
connection to a real object store has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from resumable.store.attempts import Attempt
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.publish import Blob, delete, publish
from resumable.store.storage.fsspec_storage import FsspecStorage
from tests.bench.timing import ratio, rounds, seconds
from tests.faults.http_proxy import FaultProxy, Request
from tests.faults.servers import S3Server, botocore_session, moto_server, rclone_server
from tests.store.building import launch, manifest, states

LATENCY_SECONDS = 0.03
BYTES_PER_SECOND = 80e6  # of one connection, each way
STATE_BYTES = 120_000_000
LARGE_STATE_BYTES = 1_490_000_000
LARGE_FROM_PAIRS = 6  # minutes, and several times the bytes in memory: the server keeps parts there
SMALL_BLOBS, SMALL_BYTES = 32, 64 * 2**10
WIDTHS, FEW_WIDTHS = (1, 2, 4, 8), (1, 8)


class Distant(FaultProxy):
    """The server as if it were far away."""

    async def _pass_on(self, request: Request, body: bytes | None = None) -> bytes:
        await asyncio.sleep(LATENCY_SECONDS + len(request.body) / BYTES_PER_SECOND)
        answer = await super()._pass_on(request, body)
        await asyncio.sleep(len(answer) / BYTES_PER_SECOND)
        return answer


@dataclass(frozen=True)
class Place:
    """A server, and where it is asked."""

    name: str
    server: S3Server
    endpoint: str

    def storage(self, bucket: str, width: int) -> FsspecStorage:
        """A run in this bucket, with so many requests at once."""
        url = f"s3://{bucket}/run-{width}"
        file_system, root = url_to_fs(url, **self.options(max_concurrency=width), skip_instance_cache=True)
        return FsspecStorage(file_system, root, url)

    def options(self, **more: Any) -> dict[str, Any]:
        # Servers here answer a range with the checksum of the whole; resumable looks at its own digests anyway.
        config = {"response_checksum_validation": "when_required"}
        return {**self.server.options(self.endpoint, **config), "session": botocore_session(), **more}


def measure(pairs: int, folder: Path | None = None) -> dict[str, Any]:
    """Seconds by place, way and what was done: samples of interleaved rounds, and their ratios to plain s3fs.

    The state is two large blobs, a third and two thirds of it, as a model and its optimizer are, and a small one. All
    bytes are random and the same for every contestant.
    """
    logging.getLogger("resumable").setLevel(logging.ERROR)
    root = folder or Path(tempfile.gettempdir())
    result: dict[str, Any] = {"pairs": pairs, "state_bytes": STATE_BYTES}
    with tempfile.TemporaryDirectory(prefix="object-store-", dir=root) as name, _places(Path(name)) as places:
        for place in places:
            sizes = [STATE_BYTES // 3, STATE_BYTES - STATE_BYTES // 3, 20_000]
            widths = WIDTHS if place.name == "rclone, distant" else FEW_WIDTHS
            result[place.name] = _state(place, sizes, pairs, Path(name), widths) | _small(place, pairs)
            if place.name == "rclone" and pairs >= LARGE_FROM_PAIRS:
                large = [LARGE_STATE_BYTES // 3, LARGE_STATE_BYTES - LARGE_STATE_BYTES // 3, 20_000]
                result["rclone, 1.5 GB"] = _state(place, large, pairs // 3, Path(name), FEW_WIDTHS)
    return result


@contextlib.contextmanager
def _places(folder: Path) -> Iterator[list[Place]]:
    (folder / "served").mkdir()
    with contextlib.ExitStack() as stack:
        places = []
        for name, opened in (("rclone", rclone_server(folder / "served")), ("moto", moto_server())):
            server = stack.enter_context(opened)
            proxy = stack.enter_context(Distant(server.port))
            places += [Place(name, server, server.endpoint), Place(f"{name}, distant", server, proxy.endpoint)]
        yield places


def _state(place: Place, sizes: list[int], pairs: int, folder: Path, widths: tuple[int, ...]) -> dict[str, Any]:
    contents = {f"b{number}.safetensors": os.urandom(size) for number, size in enumerate(sizes)}
    ways: dict[str, Callable[[int], dict[str, float]]] = {}
    bucket = place.server.new_bucket()
    for width in widths:
        ways[f"{width} at once"] = _Ours(place, bucket, width, contents)
    ways["s3fs"] = _Plain(place, bucket, contents, folder)
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    for number, turn in enumerate(rounds(list(ways.items()), pairs)):
        for name, way in turn:
            for what, value in way(number + 1).items():
                samples[name].setdefault(what, []).append(value)
    return _with_ratios(samples, "s3fs")


def _small(place: Place, pairs: int) -> dict[str, Any]:
    """Many small blobs."""
    contents = {f"b{number}.safetensors": os.urandom(SMALL_BYTES) for number in range(SMALL_BLOBS)}
    bucket = place.server.new_bucket()
    ways = {f"{SMALL_BLOBS} small, {width} at once": _Ours(place, bucket, width, contents) for width in WIDTHS}
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    for number, turn in enumerate(rounds(list(ways.items()), pairs)):
        for name, way in turn:
            samples[name].setdefault("publish_seconds", []).append(way(number + 1)["publish_seconds"])
    return _with_ratios(samples, f"{SMALL_BLOBS} small, 1 at once")


def _with_ratios(samples: dict[str, dict[str, list[float]]], reference: str) -> dict[str, Any]:
    """Each sample, and as `..._ratio` the medians against `reference`."""
    result: dict[str, Any] = {}
    for name, measured in samples.items():
        compared = {
            what.replace("_seconds", "_ratio"): vars(ratio(values, samples[reference][what]))
            for what, values in measured.items()
            if name != reference and what in samples[reference]
        }
        result[name] = {**measured, **compared}
    return result


class _Ours:
    """`publish`, and reading back what it wrote, verified."""

    def __init__(self, place: Place, bucket: str, width: int, contents: dict[str, bytes]) -> None:
        self._storage, self._contents = place.storage(bucket, width), contents
        self._attempt: Attempt = launch(self._storage)

    def __call__(self, step: int) -> dict[str, float]:
        name = CheckpointName(step, 0, self._attempt.number)
        blobs = [Blob(file_name, [memoryview(data)], len(data)) for file_name, data in self._contents.items()]
        manifest_of = partial(manifest, name, attempt=self._attempt)
        publishing = seconds(lambda: publish(self._storage, self._attempt, name, blobs, states, manifest_of))
        catalog = Catalog(self._storage)
        found = catalog.manifest(name)
        for blob in self._contents:  # the first look at a new file makes a server compute its digest
            self._storage.read_into(found.blobs[blob].path, memoryview(bytearray(1)))
        loading = sum(seconds(partial(catalog.read_blob, found, blob)) for blob in self._contents)
        delete(self._storage, self._attempt, [name])
        return {"publish_seconds": publishing, "load_seconds": loading}


class _Plain:
    """s3fs as it is: the same bytes, unverified, from and to memory or a file."""

    def __init__(self, place: Place, bucket: str, contents: dict[str, bytes], folder: Path) -> None:
        self._at, self._contents, self._folder = f"{bucket}/plain", contents, folder
        self._fs, _ = url_to_fs(f"s3://{self._at}", **place.options(), skip_instance_cache=True)
        for name, data in contents.items():
            (folder / name).write_bytes(data)

    def __call__(self, step: int) -> dict[str, float]:
        at = {name: f"{self._at}/{step}/{name}" for name in self._contents}
        putting = seconds(lambda: [self._fs.put_file(str(self._folder / name), at[name]) for name in at])
        for path in at.values():
            self._fs.cat_file(path, start=0, end=1)
        getting = sum(seconds(partial(self._fs.cat_file, path)) for path in at.values())
        self._fs.rm(list(at.values()))
        return {"publish_seconds": putting, "load_seconds": getting}
