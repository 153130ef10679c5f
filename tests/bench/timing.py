"""Clocks, rounds and statistics; knows nothing of what is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
clock = time.perf_counter


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    started = clock()
    call()
    return clock() - started


def rounds(entries: Sequence[T], count: int) -> Iterator[list[T]]:
    """All entries, `count` times, each time beginning with another: whoever comes after whom is evened out."""
    for number in range(count):
        turn = number % len(entries) if entries else 0
        yield [*entries[turn:], *entries[:turn]]


@dataclass(frozen=True)
class Summary:
    """The middle of some samples, and the quarters on both sides of it."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        """`ValueError` where there are none."""
        if not samples:
            raise ValueError("no samples")
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(statistics.median(samples), low, high, len(samples))


def ratio(subject: Sequence[float], reference: Sequence[float]) -> Summary:
    """The ratio of the medians; its spread is that of the ratios taken pair by pair."""
    pairs = [mine / theirs for mine, theirs in zip(subject, reference, strict=False) if theirs > 0]
    middle = Summary.of(reference).median
    if not pairs or middle <= 0:
        raise ValueError("nothing to compare with")
    spread = Summary.of(pairs)
    return Summary(Summary.of(subject).median / middle, spread.low, spread.high, len(pairs))
