"""Compares what launches of a killed run left with what an undisturbed run left. Launches nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load_file

from tests.peers.launches import Ended

STREAMS = ("torch", "numpy", "python")


@dataclass(frozen=True)
class Outcome:
    """What a run that was killed has in common with an undisturbed one."""

    weights: bool
    optimizer: bool
    streams: bool
    log: bool
    order: bool  # the samples of each batch
    augmentation: bool  # and what was drawn for them
    apart: float  # the largest difference of a weight
    twice: int  # samples that were trained again in their epoch
    never: int  # samples that were left out of an epoch
    begins: list[tuple[int, int]]  # the epoch and the batch, counted over the training, at which each launch began
    digests: dict[str, tuple[str, str]]  # undisturbed, killed

    @property
    def exact(self) -> bool:
        """Whether nothing differs."""
        return all((self.weights, self.optimizer, self.streams, self.log, self.order, self.augmentation))


def compare(whole: Sequence[Ended], killed: Sequence[Ended]) -> Outcome:
    """Return what is equal."""
    expected, found = whole[-1].digests, killed[-1].digests
    before, after = trained(whole), trained(killed)
    return Outcome(
        weights=expected["weights"] == found["weights"],
        optimizer=expected["optimizer"] == found["optimizer"],
        streams=all(expected[name] == found[name] for name in STREAMS),
        log=curve(whole) == curve(killed),
        order=[batch["ids"] for batch in before] == [batch["ids"] for batch in after],
        augmentation=[batch["content"] for batch in before] == [batch["content"] for batch in after],
        apart=_apart(whole[-1], killed[-1]),
        twice=_extra(after, before),
        never=_extra(before, after),
        begins=[(batch["epoch"], batch["number"]) for launch in killed for batch in launch.events("batch")[:1]],
        digests={name: (expected[name], found[name]) for name in expected},
    )


def trained(launches: Sequence[Ended]) -> list[dict[str, Any]]:
    """Return the batches that the final weights were trained on: those after a checkpoint are lost by a kill."""
    history: list[dict[str, Any]] = []
    for launch in launches:
        batches = launch.events("batch")
        if batches:
            history = history[: _position(history, batches[0]["number"])] + batches
    return history


def _position(history: Sequence[dict[str, Any]], number: int) -> int:
    """Return where the last batch of this number is, which a later launch trained again."""
    positions = [position for position, batch in enumerate(history) if batch["number"] == number]
    return positions[-1] if positions else len(history)


def curve(launches: Sequence[Ended]) -> dict[tuple[int, str], str]:
    """Return each logged value by its step; what was logged again replaces what was logged first."""
    return {
        (event["step"], name): value
        for launch in launches
        for event in launch.events("log")
        for name, value in event["values"].items()
    }


def _extra(batches: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> int:
    """Return how many samples were trained more often than in the others, epoch by epoch."""
    counts, other_counts = _counts(batches), _counts(others)
    return sum((counts - other_counts).values())


def _counts(batches: Sequence[dict[str, Any]]) -> Counter[tuple[int, int]]:
    return Counter((batch["epoch"], sample) for batch in batches for sample in batch["ids"])


def _apart(one: Ended, other: Ended) -> float:
    before, after = load_file(one.weights), load_file(other.weights)
    return max(float((before[name] - after[name]).abs().max()) for name in before)
