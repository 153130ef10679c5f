"""How 1.5 GB in two blobs reach a local disk: against plain writes of the same bytes, and beside a training.

Everything is measured in turns: the product's whole `publish` (digests, blobs, fsyncs, names, manifest), a sequential
direct write with fsync, a sequential one through the page cache with fsync; the same while a thread holds the
interpreter's lock half of the time; and how long a loop of pure Python is kept waiting while a save is written.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import xxhash

from resumable.store import digesting
from resumable.store.layout import CheckpointName
from resumable.store.publish import Blob, delete, publish
from resumable.store.storage.local import LocalStorage
from tests.bench.timing import clock, seconds
from tests.store.building import launch, manifest, states

SIZES_BYTES = {"model.safetensors": 500 * 10**6, "optimizer.safetensors": 1000 * 10**6}
PIECE_BYTES = 32 * 2**20
BUSY_SECONDS = 0.01


def measure(pairs: int, folder: Path | None = None) -> dict[str, Any]:
    """Seconds of each way to write, in the order of the rounds; `pairs` rounds, on the disk of `folder`."""
    with tempfile.TemporaryDirectory(prefix="writing-", dir=folder) as place:
        return _Writing(Path(place)).measure(pairs)


class _Writing:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buffers = {name: _filled(size) for name, size in SIZES_BYTES.items()}
        self._storage = LocalStorage(folder / "run")
        self._attempt = launch(self._storage)
        self._step = 0

    def measure(self, pairs: int) -> dict[str, Any]:
        ways: dict[str, Callable[[], float]] = {
            "publish": self._publish,
            "direct write and fsync": lambda: self._plainly(os.O_DIRECT),
            "cached write and fsync": lambda: self._plainly(0),
        }
        found: dict[str, dict[str, list[float]]] = {}

        def add(who: str, what: str, value: float) -> None:
            found.setdefault(who, {}).setdefault(what, []).append(value)

        for way in ways.values():
            way()  # once, uncounted: names and folders that are made for the first time
        for number in range(pairs):
            names = list(ways)
            for name in [*names[number % 3 :], *names[: number % 3]]:
                add(name, "seconds", ways[name]())
            with _digest_clock() as spent:
                self._publish()
            add("publish", "digest_cpu_seconds", spent())
            with _half_busy():
                for name in ("publish", "direct write and fsync"):
                    add(f"{name}, beside a thread that is busy half of the time", "seconds", ways[name]())
            for who, work in (
                ("while a save is written", self._publish),
                ("while a plain loop writes as much directly", ways["direct write and fsync"]),
                ("in peace", lambda: time.sleep(1.0)),
            ):
                longest, late = _kept_waiting(work)
                add(f"a loop of pure Python {who}", "longest_delay_seconds", longest)
                add(f"a loop of pure Python {who}", "delays_over_10ms_count", late)
        return {"state_bytes": sum(SIZES_BYTES.values()), **found}

    def _publish(self) -> float:
        """One save of both blobs; it is deleted again, which does not count."""
        self._step += 1
        name = CheckpointName(self._step, 0, self._attempt.number)
        blobs = [Blob(file_name, [buffer], len(buffer)) for file_name, buffer in self._buffers.items()]
        taken = seconds(
            lambda: publish(
                self._storage, self._attempt, name, blobs, states, lambda got: manifest(name, got, self._attempt)
            )
        )
        delete(self._storage, self._attempt, [name])
        return taken

    def _plainly(self, flag: int) -> float:
        """Each buffer into a new file, one after the other, in large pieces; each with its fsync."""
        started = clock()
        paths = [self._folder / name for name in self._buffers]
        for path, buffer in zip(paths, self._buffers.values(), strict=True):
            _write(path, buffer, flag)
        taken = clock() - started
        for path in paths:
            path.unlink()
        return taken


def _filled(size: int) -> memoryview:
    """Memory that begins with a page and is all there."""
    buffer = memoryview(mmap.mmap(-1, size))
    numpy.frombuffer(buffer, dtype=numpy.uint8)[:] = numpy.random.default_rng(7).integers(
        0, 256, size, dtype=numpy.uint8
    )
    return buffer


def _write(path: Path, buffer: memoryview, flag: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flag, 0o600)
    try:
        even = len(buffer) // mmap.PAGESIZE * mmap.PAGESIZE
        for start in range(0, even, PIECE_BYTES):
            os.write(file, buffer[start : min(start + PIECE_BYTES, even)])
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _digest_clock() -> Iterator[Callable[[], float]]:
    """How much CPU time digests take meanwhile, in whatever thread."""
    spent: list[float] = []

    class Timed:
        def __init__(self) -> None:
            self._seen = xxhash.xxh3_128()

        def reset(self) -> None:
            self._seen.reset()

        def update(self, piece: memoryview) -> None:
            started = time.thread_time()
            self._seen.update(piece)
            spent.append(time.thread_time() - started)

        def hexdigest(self) -> str:
            return self._seen.hexdigest()

    digesting.xxhash = SimpleNamespace(xxh3_128=Timed, xxh3_128_hexdigest=xxhash.xxh3_128_hexdigest)  # type: ignore[attr-defined]
    try:
        yield lambda: sum(spent)
    finally:
        digesting.xxhash = xxhash  # type: ignore[attr-defined]


@contextmanager
def _half_busy() -> Iterator[None]:
    """A thread that holds the interpreter's lock for a while, lets it go for a while, and so on."""
    ending = threading.Event()

    def work() -> None:
        while not ending.wait(BUSY_SECONDS):
            until = clock() + BUSY_SECONDS
            while clock() < until:
                pass

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _kept_waiting(work: Callable[[], object]) -> tuple[float, int]:
    """The longest time between two turns of a loop of this thread while another does `work`; how many long ones."""
    thread = threading.Thread(target=work)
    longest, late, before = 0.0, 0, clock()
    thread.start()
    while thread.is_alive():
        now = clock()
        longest, late, before = max(longest, now - before), late + (now - before > 0.01), now
    thread.join()
    return longest, late
