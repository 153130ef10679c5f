"""The work of a batch grows neither with its place in the pass nor with the dataset: instructions are counted."""

from __future__ import annotations

import gc
import pickle
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import xxhash
from torch.utils.data import DataLoader, RandomSampler

from resumable import Trainer
from resumable.data.addresses import PassAddress
from resumable.data.sampling import set_epoch
from resumable.data.sampling.index_encoding import encode_index
from tests.data.kinds import Bench, Epoched, Indices

SMALL, LARGE = 10_000, 10_000_000
EARLY, LATE = 100, 100_000


def loader_of(length: int, order: str) -> DataLoader[Any]:
    dataset = Indices(length)
    # A permutation of all of a large dataset is made once a pass by torch itself; this order is drawn as it goes.
    sampler = RandomSampler(dataset, replacement=True) if order == "drawn lazily" else None
    return DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=list)


def work_of(batches: Iterator[Any], count: int) -> Counter[str]:
    """The instructions executed in each Python function, and the calls of each C function, in `count` batches."""
    counted: Counter[str] = Counter()

    def note_instruction(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted[frame.f_code.co_qualname] += event == "opcode"
        return note_instruction

    def note_call(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            counted[f"{getattr(argument, '__qualname__', argument)} in C"] += 1

    tracing = sys.gettrace()
    gc.disable()  # what a collection finalizes is not the batch's work
    sys.settrace(note_instruction)
    sys.setprofile(note_call)
    try:
        for _ in range(count):
            next(batches)
    finally:
        sys.setprofile(None)
        sys.settrace(tracing)
        gc.enable()
    return counted


def objects_kept_by(batches: Iterator[Any], count: int) -> int:
    """How many objects were made while `count` batches were thrown away, and are there still."""
    next(batches)
    gc.collect()
    gc.freeze()  # what other tests left is counted neither if it stays nor if it goes
    try:
        for _ in range(count):
            next(batches)
        gc.collect()
        return len(gc.get_objects())
    finally:
        gc.unfreeze()


def position_after(count: int, length: int) -> dict[str, Any]:
    """What the position says after `count` batches in order, made without a loader."""
    digest = xxhash.xxh3_128()
    for number in range(count):
        digest.update(encode_index([4 * number + i for i in range(4)]))
    place = {"kind": "address", "batches": count, "order": digest.hexdigest(), "dataset_length": length}
    return place | {"sampler": {}, "finished": False}


@pytest.mark.parametrize("order", ["in order", "drawn lazily"])
def test_a_turn_of_the_loop_does_the_same_work_early_and_late_in_a_small_and_in_a_large_dataset(
    order: str, tmp_path: Path
) -> None:
    counted = {}
    for length in (SMALL, LARGE):
        config = {"run": str(tmp_path / str(length)), "data_seed": 7, "every": {"steps": None, "minutes": None}}
        with Trainer(config, notes={}) as trainer:
            for _ in trainer.epochs(1):
                batches = iter(trainer.enumerate(loader_of(length, order)))  # one iterator, for `for` and for `next`
                for number, _ in batches:
                    if number in (EARLY - 1, 20 * EARLY - 1):
                        trainer._launch.checkpointer.drain()  # a boundary beside a writer does other work
                        counted[length, number] = work_of(batches, 64)  # lazily drawn indices come in groups of 32
                    elif number > 20 * EARLY:
                        break
    reference = counted[SMALL, EARLY - 1]
    assert reference["Seeds.set"] > 64
    assert all(work == reference for work in counted.values())


def test_a_hundred_thousand_batches_into_a_pass_fetching_is_what_it_was_at_its_hundredth() -> None:
    counted = {}
    for done in (EARLY, LATE):
        opened = Bench().data.open(
            loader_of(LARGE, "in order"), PassAddress("b", 0, 0), position_after(done, LARGE), set_epoch=0
        )
        assert next(opened) == [4 * done + i for i in range(4)]
        counted[done] = work_of(opened, 50)
        assert opened.position()["batches"] == done + 51
    assert counted[EARLY] == counted[LATE]


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_kept_of_the_batches_that_were_consumed(workers: int) -> None:
    loader = DataLoader(Indices(LARGE), batch_size=4, num_workers=workers, collate_fn=list, shuffle=True)
    opened = Bench().data.open(loader, PassAddress("b", 0, 0), set_epoch=0)
    try:
        assert objects_kept_by(opened, 1000) < 100  # what is prefetched varies with how fast the workers are
        assert len(opened.order._ahead) <= workers * 2  # type: ignore[attr-defined]
        assert len(pickle.dumps(opened.position())) < 1000
    finally:
        opened.close()


def test_what_a_dataset_was_told_is_forgotten_with_it() -> None:
    gc.collect()
    before = len(set_epoch._last_epochs)
    datasets = [Epoched() for _ in range(5)]
    for epoch in (1, 2):
        for dataset in datasets:
            set_epoch.update_epoch(dataset, epoch)
    assert [dataset.epoch for dataset in datasets] == [2] * 5
    assert len(set_epoch._last_epochs) == before + 5
    datasets.clear()
    del dataset
    gc.collect()
    assert len(set_epoch._last_epochs) == before
