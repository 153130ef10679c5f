"""What `batches()` costs beside the plain loader, batch by batch, on data that costs nothing; knows no checkpoint.

Two ways of taking batches: `rushing`, where nothing lies between two of them, so that the workers' extra work counts
too, and `training`, where the body takes a millisecond, so that batches wait in the workers' queue and only what the
loop itself feels is counted. Loaders are new in every pass, and the first batch, which starts workers, is left out.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from resumable import Trainer
from tests.bench.timing import Summary, rounds
from tests.data.kinds import Indices

BATCH_SIZE = 4
BATCHES = 2000
BODY_SECONDS = 0.001
EARLY, LATE, SPAN, BLOCK = 100, 100_000, 2000, 100
SMALL, LARGE = 10_000, 10_000_000
WORKERS = (0, 2)

Samples = dict[str, list[float]]


def measure(pairs: int) -> dict[str, Any]:
    """Microseconds per batch, plain and ours in turn `pairs` times: medians and quarters, for 0 and 2 workers.

    `*_wall` is what passes from one batch to the next, `*_main` the processor time of the main thread, `*_extra` what
    ours adds, pair by pair. `growth` compares ours early and late in a pass, and over a small and a large dataset.
    """
    found: dict[str, Any] = {}
    for workers in WORKERS:
        found[f"{workers} workers, rushing"] = _compare(pairs, workers, body_seconds=0, batches=BATCHES)
        found[f"{workers} workers, training"] = _compare(
            pairs, workers, body_seconds=BODY_SECONDS, batches=BATCHES // 4
        )
    return found | {"growth": {"position": _by_position(), "dataset": _by_dataset(pairs)}}


def _compare(pairs: int, workers: int, *, body_seconds: float, batches: int) -> dict[str, Any]:
    samples: Samples = {}
    takers: dict[str, Callable[[DataLoader[Any]], tuple[float, float]]] = {
        "plain": lambda loader: _per_batch(iter(loader), body_seconds),
        "ours": lambda loader: _in_a_run(loader, lambda given: _per_batch(given, body_seconds)),
    }
    for order in rounds(tuple(takers), pairs):
        for who in order:
            wall, main = takers[who](_loader(batches * BATCH_SIZE, workers, shuffle=True))
            samples.setdefault(f"{who}_wall", []).append(wall)
            samples.setdefault(f"{who}_main", []).append(main)
    for what in ("wall", "main"):
        both = zip(samples[f"ours_{what}"], samples[f"plain_{what}"], strict=True)
        samples[f"extra_{what}"] = [ours - plain for ours, plain in both]
    return _summaries(samples)


def _by_position() -> dict[str, Any]:
    """Two passes taken in turn, a few batches at a time: one at its beginning, one far into it."""
    samples: Samples = {}

    def take(early: Iterator[Any], late: Iterator[Any]) -> Samples:
        for batches, first in ((early, EARLY), (late, LATE)):
            deque(islice(batches, first), maxlen=0)
        for _ in range(SPAN // BLOCK):
            for batches, first in ((early, EARLY), (late, LATE)):
                main = _per_batch(islice(batches, BLOCK + 1), 0)[1]
                samples.setdefault(f"from_batch_{first}_main", []).append(main)
        return samples

    length = (LATE + 2 * SPAN) * BATCH_SIZE
    return _summaries(_in_a_run(_loader(length, 0), lambda early: _in_a_run(_loader(length, 0), partial(take, early))))


def _by_dataset(pairs: int) -> dict[str, Any]:
    samples: Samples = {}
    for order in rounds((SMALL, LARGE), pairs):
        for length in order:
            times = _in_a_run(_loader(length, 0), lambda batches: _per_batch(batches, 0, limit=SPAN))
            samples.setdefault(f"of_{length}_samples_main", []).append(times[1])
    return _summaries(samples)


def _loader(length: int, workers: int, **settings: Any) -> DataLoader[Any]:
    return DataLoader(Indices(length), batch_size=BATCH_SIZE, num_workers=workers, collate_fn=list, **settings)


def _per_batch(batches: Iterator[Any], body_seconds: float, *, limit: int = sys.maxsize) -> tuple[float, float]:
    """Microseconds per batch: wall without the body, and processor time of this thread."""
    next(batches)
    count, slept = 0, 0.0
    wall, main = time.perf_counter(), time.thread_time()
    for _ in batches:
        count += 1
        if body_seconds:
            before = time.perf_counter()
            time.sleep(body_seconds)
            slept += time.perf_counter() - before
        if count == limit:
            break
    wall, main = time.perf_counter() - wall - slept, time.thread_time() - main
    return wall / count * 1e6, main / count * 1e6


def _in_a_run(loader: DataLoader[Any], take: Callable[[Iterator[Any]], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        config = {"run": folder, "every": {"steps": None, "minutes": 10}, "progress": "never"}
        with Trainer(config, notes={}) as trainer:
            for _ in trainer.epochs(1):
                batches = iter(trainer.batches(loader))
                taken = take(batches)
                trainer.stop()
    return taken


def _summaries(samples: Samples) -> dict[str, Any]:
    return {f"{name}_microseconds": asdict(Summary.of(values)) for name, values in samples.items()}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 10), indent=1))
