"""Map-style datasets: a prefix and the resumed rest equal the whole, in any way of loading."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from resumable.data.addresses import PassAddress
from resumable.data.passes.map_style import draws_nothing
from resumable.data.rng.streams import saved_streams
from resumable.errors import LoopError
from tests.data.kinds import (
    Augmented,
    Batched,
    Bench,
    ByList,
    CountingSampler,
    Epoched,
    LazilySeeded,
    LazySampler,
    OwnGenerator,
    Pairs,
    Spawnable,
    draws,
    equal,
    mixup,
    start_worker,
)

WAYS: dict[str, dict[str, Any]] = {
    "no workers": {},
    "one worker": {"num_workers": 1},
    "two workers": {"num_workers": 2},
    "persistent": {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 4},
}


def draws_without_moving() -> list[float]:
    with saved_streams():
        return draws()


def weighted(n: int) -> WeightedRandomSampler:
    return WeightedRandomSampler([1.0 + i for i in range(n)], n, generator=torch.Generator().manual_seed(1))


KINDS: dict[str, Any] = {
    "shuffle": lambda **way: DataLoader(Augmented(), 4, shuffle=True, **way),
    "in order": lambda **way: DataLoader(Augmented(), 4, **way),
    "drop_last": lambda **way: DataLoader(Augmented(), 4, shuffle=True, drop_last=True, **way),
    "own generator": lambda **way: DataLoader(Augmented(), 4, shuffle=True, generator=torch.Generator(), **way),
    "mixup": lambda **way: DataLoader(Augmented(), 4, shuffle=True, collate_fn=mixup, **way),
    "worker_init_fn": lambda **way: DataLoader(Augmented(), 4, shuffle=True, worker_init_fn=start_worker, **way),
    "__getitems__": lambda **way: DataLoader(Batched(), 4, shuffle=True, **way),
    "lazy private generator": lambda **way: DataLoader(LazilySeeded(), 4, shuffle=True, **way),
    "weighted": lambda **way: DataLoader(Augmented(), 4, sampler=weighted(41), **way),
    "subset sampler": lambda **way: DataLoader(Augmented(), 4, sampler=SubsetRandomSampler(range(30)), **way),
    "distributed": lambda **way: DataLoader(Augmented(), 4, sampler=DistributedSampler(Augmented(), 2, 1), **way),
    "replacement": lambda **way: DataLoader(
        Augmented(), 4, sampler=RandomSampler(range(41), True, 90, generator=torch.Generator()), **way
    ),
    "own sampler": lambda **way: DataLoader(Augmented(), 4, sampler=LazySampler(39), **way),
    "stateful sampler": lambda **way: DataLoader(Augmented(), 4, sampler=CountingSampler(41), **way),
    "sampler with a late generator": lambda **way: DataLoader(Augmented(), 4, sampler=OwnGenerator(41), **way),
    "own batch sampler": lambda **way: DataLoader(Augmented(), batch_sampler=Pairs(11), **way),
    "batches as tuples": lambda **way: DataLoader(Augmented(), batch_sampler=Pairs(11, tuple), **way),
    "batches as tensors": lambda **way: DataLoader(Augmented(), batch_sampler=Pairs(11, torch.tensor), **way),
    "batches as arrays": lambda **way: DataLoader(Augmented(), batch_sampler=Pairs(11, np.array), **way),
    "list of batches": lambda **way: DataLoader(Augmented(), batch_sampler=[[0, 1], [2], [3, 4], [5], [6, 0]], **way),
    "batch_size None": lambda **way: DataLoader(Augmented(13), None, sampler=RandomSampler(range(13)), **way),
    "lists of indices as one index": lambda **way: DataLoader(
        ByList(20), None, sampler=BatchSampler(RandomSampler(range(20)), 3, False), **way
    ),
    "nested": lambda **way: DataLoader(
        Subset(ConcatDataset([Augmented(10), Subset(Augmented(9), range(9))]), range(2, 18)), 3, shuffle=True, **way
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_and_the_resumed_rest_are_the_whole(kind: str) -> None:
    whole, _ = Bench().batches(KINDS[kind]())
    before, position = Bench().batches(KINDS[kind](), stop=3)
    after, _ = Bench().batches(KINDS[kind](), resume=position)
    assert len(whole) > 4
    assert equal(whole, before + after)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "no workers"])
@pytest.mark.parametrize(
    "kind", ["shuffle", "mixup", "worker_init_fn", "lazy private generator", "own sampler", "batches as tensors"]
)
def test_workers_change_no_bit_and_may_change_on_resume(kind: str, way: str) -> None:
    whole, _ = Bench().batches(KINDS[kind]())
    bench = Bench()
    before, position = bench.batches(KINDS[kind](**WAYS[way]), stop=3)
    bench.data.close()
    resumed = Bench()
    after, _ = resumed.batches(KINDS[kind](**WAYS["two workers" if way == "one worker" else way]), resume=position)
    resumed.data.close()
    assert equal(whole, before + after)
    assert equal(after, Bench().batches(KINDS[kind](), resume=position)[0])


def test_spawned_workers_give_the_same_bits() -> None:
    def loader(**way: Any) -> Any:
        return DataLoader(Spawnable(), 4, shuffle=True, collate_fn=mixup, worker_init_fn=start_worker, **way)

    position = Bench().batches(loader(), stop=8)[1]
    after, _ = Bench(signals=(15,)).batches(loader(num_workers=1, multiprocessing_context="spawn"), resume=position)
    assert equal(after, Bench().batches(loader(), resume=position)[0])


def test_pinned_memory_changes_no_bit() -> None:
    whole, _ = Bench().batches(KINDS["shuffle"]())
    assert equal(whole, Bench().batches(KINDS["shuffle"](pin_memory=True))[0])


class SomeTensors(TensorDataset):
    """Known to draw nothing no more: a subclass may do anything."""


@pytest.mark.parametrize("way", ["no workers", "two workers"])
def test_tensors_need_no_streams_and_come_out_as_of_a_subclass(way: str) -> None:
    tensors, streams = (torch.arange(41.0), torch.arange(82).view(41, 2)), draws_without_moving()
    passes = []
    for dataset in (TensorDataset(*tensors), Subset(TensorDataset(*tensors), range(41)), SomeTensors(*tensors)):
        bench = Bench()
        batches, _ = bench.batches(DataLoader(dataset, 4, shuffle=True, **WAYS[way]))
        passes.append([part for batch in batches for part in batch])
        bench.data.close()
    assert equal(passes[0], passes[1])
    assert equal(passes[0], passes[2])
    assert draws_without_moving() == streams


def test_only_what_is_known_to_draw_nothing_goes_without_streams() -> None:
    class Odd(torch.Tensor): ...

    plain = TensorDataset(torch.arange(4))
    assert draws_nothing(plain)
    assert draws_nothing(Subset(Subset(plain, [0, 1]), [0]))
    drawing = (SomeTensors(torch.arange(4)), Subset(Augmented(), [0]), ConcatDataset([plain]), Augmented())
    assert not any(map(draws_nothing, drawing))
    assert not draws_nothing(TensorDataset(torch.arange(4).as_subclass(Odd)))


def test_a_collate_function_that_draws_gets_its_streams_also_over_tensors() -> None:
    def noisy(samples: list[Any]) -> Any:
        return torch.stack([sample[0] for sample in samples]) + torch.rand(())

    def loader() -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.arange(41.0)), 4, collate_fn=noisy)

    torch.manual_seed(1)
    whole, _ = Bench().batches(loader())
    torch.manual_seed(2)
    assert equal(whole, Bench().batches(loader())[0])


def test_epochs_passes_loops_and_seeds_differ() -> None:
    loader = KINDS["shuffle"]()
    bench = Bench()
    passes = [bench.batches(loader)[0], bench.batches(loader, epoch=1)[0], bench.batches(loader, loop="other")[0]]
    opened = bench.data.open(loader, PassAddress("batches", 1, 0), set_epoch=0)
    passes += [list(opened), Bench(8).batches(loader)[0]]
    assert not any(equal(a, b) for n, a in enumerate(passes) for b in passes[:n])


@pytest.mark.parametrize("way", WAYS)
def test_later_epochs_are_the_same_in_a_program_that_starts_there(way: str) -> None:
    loader = KINDS["shuffle"](**WAYS[way])
    bench = Bench()
    bench.batches(loader, stop=2)  # left early: what its workers still make must not turn up in the next pass
    in_turn = bench.batches(loader, epoch=1)[0]
    bench.data.close()
    assert equal(in_turn, Bench().batches(KINDS["shuffle"](), epoch=1)[0])


@pytest.mark.parametrize("kind", ["shuffle", "own sampler", "mixup", "own generator"])
@pytest.mark.parametrize("way", ["no workers", "two workers"])
def test_loading_draws_nothing_from_the_streams_of_the_loop(kind: str, way: str) -> None:
    loader = KINDS[kind](**WAYS[way])
    np.random.randn()
    state = torch.get_rng_state(), str(np.random.get_state()), random.getstate(), str(loader.dataset.private)
    private = str(loader.dataset.private.bit_generator.state)
    own = None if loader.generator is None else loader.generator.get_state()
    Bench().batches(loader)
    assert torch.equal(state[0], torch.get_rng_state())
    assert (str(np.random.get_state()), random.getstate()) == state[1:3]
    assert str(loader.dataset.private.bit_generator.state) == private
    assert own is None or torch.equal(own, loader.generator.get_state())


def test_what_the_loop_draws_changes_no_batch() -> None:
    whole, _ = Bench().batches(KINDS["own sampler"]())
    opened = Bench().data.open(KINDS["own sampler"](), PassAddress("batches", 0, 0), set_epoch=0)
    noisy = []
    for batch in opened:
        noisy.append(batch)
        draws()
        np.random.seed(1)
    assert equal(whole, noisy)


def test_resuming_in_the_middle_of_a_million_samples_reads_none_of_them() -> None:
    dataset = Augmented(1_000_000)
    opened = Bench().data.open(DataLoader(dataset, 32, shuffle=True), PassAddress("b", 0, 0), set_epoch=0)
    for _ in range(15_000):
        next(opened.order)  # type: ignore[attr-defined]
        opened.order.consumed()  # type: ignore[attr-defined]
    position = opened.position()
    resumed = Bench().data.open(DataLoader(dataset, 32, shuffle=True), PassAddress("b", 0, 0), position, set_epoch=0)
    assert dataset.reads == 0
    next(resumed)
    assert dataset.reads == 32
    assert resumed.position()["batches"] == 15_001


@pytest.mark.parametrize("way", ["no workers", "two workers"])
def test_position_counts_what_was_consumed_not_what_was_prefetched(way: str) -> None:
    bench = Bench()
    opened = bench.data.open(KINDS["shuffle"](**WAYS[way]), PassAddress("batches", 0, 0), set_epoch=0)
    positions = [opened.position()]
    for _ in range(4):
        next(opened)
        positions.append(opened.position())
    opened.close()
    assert [position["batches"] for position in positions] == [0, 1, 2, 3, 4]
    assert positions[4] == Bench().batches(KINDS["shuffle"](), stop=4)[1]
    whole = Bench().batches(KINDS["shuffle"]())[0]
    for count, position in enumerate(positions):
        assert equal(whole[count:], Bench().batches(KINDS["shuffle"](), resume=position)[0])


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_order_tells_the_keys_of_the_batches_that_follow_and_none_beyond_the_last(drop_last: bool) -> None:
    loader = DataLoader(Augmented(10), batch_size=3, drop_last=drop_last)
    opened = Bench().data.open(loader, PassAddress("b", 0, 0), set_epoch=0)
    order = opened.order  # type: ignore[attr-defined]
    told = order.following(100)
    assert order.following(2) == told[:2]
    assert [key for key, *_ in order] == told
    assert order.following(5) == []


def test_a_finished_pass_yields_nothing_and_reads_nothing() -> None:
    position = Bench().batches(KINDS["shuffle"]())[1]
    loader = KINDS["shuffle"]()
    rest, again = Bench().batches(loader, resume=position)
    assert (position["finished"], rest, loader.dataset.reads) == (True, [], 0)
    assert again == position


def test_a_changed_length_of_the_dataset_is_an_error() -> None:
    position = Bench().batches(DataLoader(Augmented(40), 4), stop=2)[1]
    with pytest.raises(LoopError, match=r"batches\.dataset 40->41"):
        Bench().batches(DataLoader(Augmented(41), 4), resume=position)


def test_another_order_is_an_error_that_says_so() -> None:
    position = Bench().batches(DataLoader(Augmented(40), 4, shuffle=True), stop=2)[1]
    with pytest.raises(LoopError, match="order of the first 2 batches differs"):
        Bench().batches(DataLoader(Augmented(40), 4), resume=position)
    with pytest.raises(LoopError, match="order of the first 2 batches differs"):
        Bench(8).batches(DataLoader(Augmented(40), 4, shuffle=True), resume=position)
    with pytest.raises(LoopError, match="yields 1 batches, 2 were consumed"):
        Bench().batches(DataLoader(Augmented(40), 40, shuffle=True), resume=position)


def test_in_order_false_is_refused_with_workers_only() -> None:
    with pytest.raises(LoopError, match="in_order=False"):
        Bench().batches(KINDS["shuffle"](num_workers=1, in_order=False))
    assert Bench().batches(KINDS["shuffle"](in_order=False))[0]


def test_state_of_a_sampler_that_lives_across_passes_can_be_carried() -> None:
    bench, loader = Bench(), KINDS["stateful sampler"]()
    passes = [bench.batches(loader, epoch=epoch)[0] for epoch in range(2)]
    carried = bench.data.state()
    expected = bench.batches(loader, epoch=2)[0]
    later = Bench()
    later.data.load(carried)
    assert equal(later.batches(KINDS["stateful sampler"](), epoch=2)[0], expected)
    assert not equal(passes[0], passes[1])
    position = Bench().batches(loader, epoch=3, stop=4)[1]
    rest = Bench().batches(KINDS["stateful sampler"](), epoch=3, resume=position)[0]
    loader.sampler.passes -= 1
    assert equal(Bench().batches(loader, epoch=3)[0][4:], rest)


@pytest.mark.parametrize("way", WAYS)
def test_set_epoch_reaches_the_dataset_also_in_persistent_workers(way: str) -> None:
    loader = DataLoader(Epoched(), 4, **WAYS[way])
    bench = Bench()
    for epoch in range(3):
        batches, _ = bench.batches(loader, epoch=epoch)
        assert {row[1].item() for batch in batches for row in batch} == {float(epoch)}
    bench.data.close()


def test_evaluating_over_the_loader_of_the_training_pass_disturbs_neither() -> None:
    loader = KINDS["shuffle"](**WAYS["persistent"])
    bench = Bench()
    opened = bench.data.open(loader, PassAddress("batches", 0, 0), set_epoch=0)
    mixed = [next(opened) for _ in range(3)]
    inside = bench.batches(loader, loop="evaluate")[0]
    mixed += list(opened)
    bench.data.close()
    assert equal(mixed, Bench().batches(KINDS["shuffle"]())[0])
    assert equal(inside, Bench().batches(KINDS["shuffle"](), loop="evaluate")[0])


def test_a_pass_that_lost_its_persistent_workers_to_a_later_one_says_so() -> None:
    loader = KINDS["shuffle"](num_workers=1, persistent_workers=True)
    bench = Bench()
    first = bench.data.open(loader, PassAddress("batches", 0, 0), set_epoch=0)
    next(first)
    second = bench.data.open(loader, PassAddress("batches", 1, 0), set_epoch=0)
    next(second)
    with pytest.raises(LoopError, match="left when a later pass"):
        next(first)
    assert first.position()["batches"] == 1
    bench.data.close()
    with pytest.raises(LoopError):
        next(second)


def test_a_loader_written_into_the_call_keeps_its_workers_for_the_pass() -> None:
    bench = Bench()
    opened = bench.data.open(KINDS["shuffle"](**WAYS["persistent"]), PassAddress("batches", 0, 0), set_epoch=0)
    assert equal(list(opened), Bench().batches(KINDS["shuffle"]())[0])


def test_a_sampler_whose_generator_came_late_is_the_same_in_a_program_that_starts_later() -> None:
    bench, loader = Bench(), KINDS["sampler with a late generator"]()
    bench.batches(loader)
    in_turn = bench.batches(loader, epoch=1)[0]
    assert equal(in_turn, Bench().batches(KINDS["sampler with a late generator"](), epoch=1)[0])


class Failing(Augmented):
    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 9:
            raise KeyError(f"sample {index} is broken")
        return super().__getitem__(index)


@pytest.mark.parametrize("way", WAYS)
def test_a_failing_sample_raises_its_own_error_and_leaves_the_streams(way: str) -> None:
    state = torch.get_rng_state()
    bench = Bench()
    opened = bench.data.open(DataLoader(Failing(), 4, **WAYS[way]), PassAddress("batches", 0, 0), set_epoch=0)
    next(opened), next(opened)
    with pytest.raises(KeyError, match="sample 9 is broken"):
        next(opened)
    assert opened.position()["batches"] == 2
    assert torch.equal(state, torch.get_rng_state())
    bench.data.close()


@pytest.mark.parametrize("way", WAYS)
def test_two_passes_over_one_dataset_at_a_time_are_each_shown_their_own_epoch(way: str) -> None:
    dataset, bench = Epoched(), Bench()
    one, other = (DataLoader(dataset, 4, **WAYS[way]) for _ in range(2))
    first = bench.data.open(one, PassAddress("batches", 0, 3), set_epoch=3)
    told = [next(first)]
    second = bench.data.open(other, PassAddress("cycle:more", 5, 0), set_epoch=5)
    for mine, its in zip(first, second, strict=False):
        told.append(mine)
        assert {row[1].item() for row in its} == {5.0}
    assert {row[1].item() for batch in told for row in batch} == {3.0}
    bench.data.close()
