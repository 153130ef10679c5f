"""Loaders that Accelerate and Fabric prepared are read by address, and followed as their own iterators do it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from accelerate.state import GradientState
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, Sampler

from resumable.data.addresses import PassAddress
from resumable.errors import LoopError
from tests.data.kinds import Augmented, Bench, Indices, Ledger, Numbers, equal

META = torch.device("meta")


def accelerated(loader: DataLoader[Any], **options: Any) -> Any:
    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options)).prepare(loader)


def fabricated(loader: DataLoader[Any]) -> Any:
    fabric = pytest.importorskip("lightning_fabric", reason="needs pytorch-lightning").Fabric(accelerator="cpu")
    return fabric.setup_dataloaders(loader)


class Halting(Sampler[int]):
    """Ends before the length that it states."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(7))

    def __len__(self) -> int:
        return 20


SHAPES: dict[str, Any] = {
    "a short last batch": lambda: DataLoader(Indices(10), 4),
    "drop_last": lambda: DataLoader(Indices(10), 4, drop_last=True),
    "equal batches": lambda: DataLoader(Indices(8), 4),
    "one batch": lambda: DataLoader(Indices(3), 4),
    "no batch": lambda: DataLoader(Indices(0), 4),
    "two workers": lambda: DataLoader(Indices(10), 4, num_workers=2),
    "after the first batches": lambda: skip_first_batches(DataLoader(Indices(10), 4), 1),
    "a sampler that ends early": lambda: DataLoader(Indices(20), 2, sampler=Halting()),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_accelerate_sees_the_pass_that_its_own_iterator_would_show_it(shape: str) -> None:
    state = GradientState()

    def seen(batches: Any) -> list[Any]:
        facts = [(x.tolist(), state.end_of_dataloader, state.remainder, state.in_dataloader) for x in batches]
        return [*facts, state.in_dataloader, state.end_of_dataloader]

    own = seen(accelerated(SHAPES[shape]()))
    ours = seen(Bench().data.open(accelerated(SHAPES[shape]()), PassAddress("batches", 0, 0), set_epoch=0))
    assert ours == own


def test_a_pass_that_is_left_is_over_for_accelerate() -> None:
    state, loader = GradientState(), accelerated(DataLoader(Indices(8), 2))
    opened = Bench().data.open(loader, PassAddress("batches", 0, 0), set_epoch=0)
    next(opened)
    assert state.active_dataloader is loader
    opened.close()
    assert not state.in_dataloader


def test_a_pass_for_validation_leaves_the_pass_around_it_where_it_stands() -> None:
    state, bench = GradientState(), Bench()
    loader, other = accelerated(DataLoader(Indices(4), 2)), accelerated(DataLoader(Indices(2), 2))
    opened = bench.data.open(loader, PassAddress("batches", 0, 0), set_epoch=0)
    for ends in (False, True):
        next(opened)
        for _ in bench.data.open(other, PassAddress("evaluate", 0, 0), set_epoch=0):
            assert state.end_of_dataloader
        assert (state.active_dataloader, state.end_of_dataloader) == (loader, ends)


def test_a_cycle_is_no_pass_of_accelerates() -> None:
    bench = Bench()
    opened = bench.data.open(accelerated(DataLoader(Indices(4), 2)), PassAddress("cycle:a", 0, 0), set_epoch=0)
    assert [(batch.tolist(), GradientState().in_dataloader) for batch in opened] == [([0, 1], False), ([2, 3], False)]


def stateful(loader: DataLoader[Any]) -> Any:
    return accelerated(loader, use_stateful_dataloader=True)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize("prepare", [accelerated, fabricated, stateful])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_prepared_loader_resumes_by_address_with_the_batches_of_the_plain_one(prepare: Any, workers: int) -> None:
    def plain() -> DataLoader[Any]:
        return DataLoader(Augmented(), 4, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    live, bench = prepare(plain()), Bench()
    whole = [bench.batches(live, epoch=epoch)[0] for epoch in range(2)]
    before, position = Bench().batches(prepare(plain()), stop=4, epoch=1)
    resumed = Bench()
    after, _ = resumed.batches(prepare(plain()), resume=position, epoch=1)
    assert (position["kind"], position["batches"], resumed.said) == ("address", 4, [])
    assert equal(whole[1], before + after)
    assert equal(whole[1], Bench().batches(plain(), epoch=1)[0])
    assert not equal(*whole)


def test_batches_are_moved_to_the_device_of_the_wrapper() -> None:
    wrappers = pytest.importorskip("lightning_fabric.wrappers", reason="needs pytorch-lightning")
    for loader in (
        prepare_data_loader(DataLoader(Indices(4), 2), META, put_on_device=True),
        wrappers._FabricDataLoader(DataLoader(Indices(4), 2), META),
    ):
        assert {batch.device for batch in Bench().batches(loader)[0]} == {META}


def test_a_seed_that_accelerates_sampler_drew_when_it_was_made_decides_nothing() -> None:
    def loader(seed: int) -> Any:
        torch.manual_seed(seed)
        return accelerated(DataLoader(Indices(12), 2, shuffle=True), use_seedable_sampler=True)

    whole, _ = Bench().batches(loader(1), epoch=1)
    before, position = Bench().batches(loader(2), stop=3, epoch=1)
    after, _ = Bench().batches(loader(3), resume=position, epoch=1)
    assert equal(whole, before + after)


class Read(RandomSampler):
    """States how far it was drawn."""

    drawn = 0

    def __iter__(self) -> Iterator[int]:
        for index in super().__iter__():
            self.drawn += 1
            yield index

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


@pytest.mark.parametrize("stop", [1, 5, 6])
def test_the_index_that_is_drawn_ahead_is_drawn_once_after_a_resume_too(stop: int) -> None:
    def loader() -> Any:
        return accelerated(DataLoader(data := Indices(6), 1, sampler=Read(data)))

    whole, end = Bench().batches(loader())
    before, position = Bench().batches(loader(), stop=stop)
    assert position["drawn"]["batches"] == min(stop + 1, 6)
    last = loader()
    after, reached = Bench().batches(last, resume=position)
    assert equal(whole, before + after)
    assert (reached, last.batch_sampler.sampler.drawn) == (end, 6)


def test_fabrics_loaders_get_the_epoch_of_the_run_and_streams_go_on_by_their_state() -> None:
    def shards() -> Any:
        return fabricated(DataLoader(data := Indices(12), 2, sampler=DistributedSampler(data, 1, 0)))

    bench, live = Bench(), shards()
    whole = [bench.batches(live, epoch=epoch)[0] for epoch in range(3)][2]
    before, position = Bench().batches(shards(), stop=2, epoch=2)
    assert equal(whole, before + Bench().batches(shards(), resume=position, epoch=2)[0])

    stream, _ = Bench().batches(fabricated(DataLoader(Ledger(), 4)))
    before, position = Bench().batches(fabricated(DataLoader(Ledger(), 4)), stop=2)
    assert position["kind"] == "state"
    assert equal(stream, before + Bench().batches(fabricated(DataLoader(Ledger(), 4)), resume=position)[0])


REPLAYED: dict[str, Any] = {
    "a stream": lambda: accelerated(DataLoader(Numbers(), 4), dispatch_batches=False),
    "dispatched": lambda: accelerated(DataLoader(Indices(24), 2), dispatch_batches=True),
}


@pytest.mark.parametrize("kind", REPLAYED)
def test_a_wrapper_that_does_more_than_move_batches_is_replayed(kind: str) -> None:
    whole, _ = Bench().batches(REPLAYED[kind]())
    before, position = Bench().batches(REPLAYED[kind](), stop=3)
    resumed = Bench()
    assert equal(whole, before + resumed.batches(REPLAYED[kind](), resume=position)[0])
    [line] = resumed.said
    assert "fast instead: a map-style dataset, without dispatch_batches" in line


def test_a_run_of_an_earlier_version_goes_on_by_replay() -> None:
    loader = accelerated(DataLoader(Indices(24), 2, shuffle=True))
    _, position = Bench(unwraps=False).batches(loader, stop=3)
    assert position["kind"] == "replay"
    resumed = Bench(unwraps=False)
    resumed.batches(loader, resume=position)
    assert "began with an earlier version" in resumed.said[0]
    with pytest.raises(LoopError, match="holds a position by replay"):
        Bench().batches(loader, resume=position)
