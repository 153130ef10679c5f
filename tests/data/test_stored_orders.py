"""Orders that no key decides are drawn at once, stored, and handed out after a resume, whatever the loop wrote."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from resumable.data.addresses import PassAddress
from resumable.data.sampling.order_kind import SequentialOrder
from resumable.data.sampling.packed_order import MAX_INDICES, PackedOrder, Packing
from resumable.errors import CorruptCheckpointError, LoopError
from tests.data.kinds import Bench, Indices, Pairs

SAMPLES = 26
WORKERS = {"num_workers": 1, "prefetch_factor": 3}


class Weighted(Sampler[int]):
    """Draws its order when iterating begins, by weights that the loop writes; it has no state_dict."""

    def __init__(self) -> None:
        self.weights = torch.ones(SAMPLES, dtype=torch.double)

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        yield from torch.multinomial(self.weights, SAMPLES, replacement=True).tolist()


class Sized(Weighted):
    """Reads an attribute of its own between two batches, which no loop changes."""

    batch_size = 4

    def __iter__(self) -> Iterator[Any]:
        drawn = [*super().__iter__()]
        for start in range(0, SAMPLES, self.batch_size):
            yield drawn[start : start + self.batch_size]

    def __len__(self) -> int:
        return -(-SAMPLES // 4)


class Adaptive(Weighted):
    """Draws each index by the weights of that moment."""

    def __iter__(self) -> Iterator[int]:
        for _ in range(SAMPLES):
            yield int(torch.multinomial(self.weights, 1))


def torchs() -> WeightedRandomSampler:
    return WeightedRandomSampler(torch.ones(SAMPLES, dtype=torch.double), SAMPLES)  # type: ignore[arg-type]


def loader_of(sampler: Any, **way: Any) -> DataLoader[Any]:
    if isinstance(sampler, Sized | list):
        return DataLoader(Indices(1000), batch_sampler=sampler, collate_fn=list, **way)
    return DataLoader(Indices(1000), 4, sampler=sampler, collate_fn=list, **way)


@pytest.mark.parametrize("way", [{}, WORKERS], ids=["no workers", "one worker"])
@pytest.mark.parametrize("make", [torchs, Weighted, Sized])
def test_weights_that_the_loop_writes_change_nothing_of_the_pass_in_progress(make: Any, way: Any) -> None:
    whole, first, later = make(), make(), make()
    expected = Bench().batches(loader_of(whole))[0]
    before, position = Bench().batches(loader_of(first, **way), stop=3)
    assert (len(expected), len(before)) == (7, 3)
    later.weights[:9] = 50.0
    after, moved = Bench().batches(loader_of(later, **way), stop=2, resume=position)
    assert before + after == expected[:5]
    later.weights[:9] = 0.001
    assert after + Bench().batches(loader_of(later), resume=moved)[0] == expected[3:]


def test_batches_that_a_program_shuffles_without_a_seed_go_on() -> None:
    batches = [[3, 1], [2], [9, 8, 7], [0], [5, 5]]
    before, position = Bench().batches(loader_of(batches), stop=2)
    assert before + Bench().batches(loader_of(batches[::-1]), resume=position)[0] == batches


@pytest.mark.parametrize("make", [torchs, Weighted, Sized, Adaptive])
def test_nothing_of_a_sampler_or_a_stream_is_changed_by_finding_out_how_it_draws(make: Any) -> None:
    sampler = make()
    held, streams = repr(vars(sampler)), (torch.get_rng_state(), np.random.get_state()[1].tolist())
    opened = Bench().data.open(loader_of(sampler), PassAddress("b", 0, 0), set_epoch=None)
    assert repr(vars(sampler)) == held
    assert (torch.get_rng_state() == streams[0]).all()
    assert np.random.get_state()[1].tolist() == streams[1]
    assert ("indices" in opened.position()) is (make is not Adaptive)


class OfNoSeed(Weighted):
    """Draws another order in each launch, and in each pass."""

    def __iter__(self) -> Iterator[int]:
        yield from np.random.default_rng().permutation(SAMPLES).tolist()


def test_an_order_that_no_seed_decides_is_stored_and_goes_on() -> None:
    bench = Bench()
    opened = bench.data.open(loader_of(OfNoSeed()), PassAddress("batches", 0, 0), set_epoch=0)
    before, position = [next(opened), next(opened)], copy.deepcopy(opened.position())
    expected = [*opened]
    assert Bench().batches(loader_of(OfNoSeed()), resume=position)[0] == expected
    assert len({index for batch in before + expected for index in batch}) == SAMPLES


def test_a_sampler_that_reads_its_weights_as_it_goes_follows_them_within_the_pass() -> None:
    def following(learn: bool) -> list[Any]:
        sampler = Adaptive()
        opened = Bench().data.open(loader_of(sampler), PassAddress("b", 0, 0), set_epoch=None)
        seen = []
        for batch in opened:
            seen.append(batch)
            if learn:
                sampler.weights[:] = 0
                sampler.weights[0] = 1
        return seen

    assert following(True)[2:] == [[0] * 4] * 4 + [[0] * 2]
    assert following(False)[2:] != following(True)[2:]


def test_without_an_end_or_a_known_kind_of_index_an_order_is_drawn_as_it_goes() -> None:
    for loader in (loader_of(Endless()), DataLoader(Anything(), 1, sampler=["a", "b", "c"], collate_fn=list)):
        position = Bench().batches(loader, stop=2)[1]
        assert "indices" not in position
        assert len(Bench().batches(loader, resume=position, stop=1)[0]) == 1
    assert "indices" in Bench().batches(DataLoader(Indices(20), batch_sampler=Pairs(5, tuple)), stop=2)[1]


class Anything(Indices):
    def __init__(self) -> None:
        super().__init__(5)

    def __getitem__(self, index: Any) -> Any:
        return index


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return itertools.cycle([1, 2, 3])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: DataLoader(Indices(1000), 5, sampler=torchs(), collate_fn=list), "batched is {'batch_size': 5"),
        (lambda: DataLoader(Indices(1000), 4, sampler=Weighted(), collate_fn=list), "drawn_by is Weighted"),
        (lambda: DataLoader(Indices(999), 4, sampler=torchs(), collate_fn=list), "batches.dataset 1000->999"),
        (lambda: DataLoader(Indices(1000), 4, shuffle=True, collate_fn=list), "drawn_by is RandomSampler"),
    ],
)
def test_another_way_of_drawing_is_refused_within_a_pass(change: Callable[[], Any], said: str) -> None:
    position = Bench().batches(loader_of(torchs()), stop=3)[1]
    with pytest.raises(LoopError, match=said):
        Bench().batches(change(), resume=position)


@pytest.mark.parametrize("wrong", [5, None, {}, 0])
def test_what_is_no_order_is_damage(wrong: Any) -> None:
    position = Bench().batches(loader_of(torchs()), stop=3)[1]
    with pytest.raises(CorruptCheckpointError, match="not the position of a pass by address"):
        Bench().batches(loader_of(torchs()), resume=position | {"indices": wrong})


KINDS: dict[str, list[Any]] = {
    "integers": [3, 0, 2**40, -1],
    "lists": [[3, 1], [2], [2**31]],
    "tuples": [(3, 1), (2,)],
    "numpy's": [np.int64(3), np.int64(5)],
    "lists of numpy's": [[np.int64(3)], [np.int64(5), np.int64(4)]],
    "tensors": [torch.tensor(3), torch.tensor(5)],
    "arrays": [np.array([3, 1]), np.array([2])],
    "rows": [torch.tensor([3, 1]), torch.tensor([2])],
    "nothing": [],
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_comes_back_as_it_was(kind: str) -> None:
    packing = Packing(MAX_INDICES)
    assert all(map(packing.add, KINDS[kind]))
    order = PackedOrder.of_tree(copy.deepcopy(packing.packed().tree()))
    assert len(order) == len(KINDS[kind])
    assert order.name == packing.packed().name
    for number, index in enumerate(KINDS[kind]):
        assert type(order[number]) is type(index)
        assert repr(order[number]) == repr(index)


def test_what_cannot_be_packed_is_not_taken() -> None:
    packing = Packing(3)
    assert packing.add([1, 2])
    for other in ([], [True, False], 5, (1,), [2.0], "a", [2**70], [1, 2], [torch.tensor(1.0)], np.array(["a"])):
        assert not packing.add(other)
    assert [*packing] == [[1, 2]]


VALUES = np.array([1, 2, 3], dtype=np.int32)


@pytest.mark.parametrize(
    "change",
    [
        {"item": "code"},
        {"batch": "set"},
        {"batch": None},
        {"values": [1, 2, 3]},
        {"values": VALUES.astype(np.float32)},
        {"values": VALUES.reshape(1, 3)},
        {"ends": None},
        {"ends": np.array([2, 1, 3])},
        {"ends": np.array([1, 2])},
        {"ends": np.array([1, 9])},
        {"ends": np.array([-1, 3])},
        {"ends": np.array([], dtype=np.int64)},
        {"more": 1},
    ],
)
def test_a_foreign_order_is_refused(change: dict[str, Any]) -> None:
    tree = {"item": "int", "batch": "list", "values": VALUES, "ends": np.array([1, 3])}
    assert [*map(PackedOrder.of_tree(tree).__getitem__, range(2))] == [[1], [2, 3]]
    with pytest.raises(ValueError, match=r"expected|unknown|integers"):
        PackedOrder.of_tree(tree | change)


# -- in order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [None, 1, 4, 26, 30])
@pytest.mark.parametrize("sampler", [None, range(3, 60, 7)])
def test_a_sequential_order_is_that_of_torch(sampler: Any, batch_size: int | None, drop_last: bool) -> None:
    if batch_size is None and drop_last:
        return
    loader = DataLoader(Indices(SAMPLES), batch_size, sampler=sampler, drop_last=drop_last, collate_fn=lambda x: x)
    expected = [*(loader.sampler if loader.batch_sampler is None else loader.batch_sampler)]
    order = SequentialOrder.of(loader.sampler if loader.batch_sampler is None else loader.batch_sampler)
    assert order is not None
    assert [*map(order.__getitem__, range(len(order)))] == expected
    assert Bench().batches(loader)[0] == [*loader]


def test_far_into_a_pass_in_order_nothing_is_drawn_again() -> None:
    samples = 10**12
    loader = DataLoader(Indices(samples), 4, collate_fn=list)
    position = Bench().batches(loader, stop=1)[1] | {"batches": 10**11}
    opened = Bench().data.open(loader, PassAddress("batches", 0, 0), position, set_epoch=0)
    assert next(opened) == [4 * 10**11 + each for each in range(4)]


def test_another_batch_size_or_order_is_refused_within_a_pass_in_order() -> None:
    position = Bench().batches(DataLoader(Indices(SAMPLES), 4), stop=2)[1]
    for other in (DataLoader(Indices(SAMPLES), 5), DataLoader(Indices(SAMPLES), 4, shuffle=True)):
        with pytest.raises(LoopError, match="the order of the first 2 batches differs"):
            Bench().batches(other, resume=position)
    with pytest.raises(LoopError, match="the sampler yields 7 batches, 9 were consumed"):
        Bench().batches(DataLoader(Indices(SAMPLES), 4), resume=position | {"batches": 9})


def test_torchs_random_orders_are_not_stored() -> None:
    random = RandomSampler(range(SAMPLES))
    for loader in (loader_of(random), DataLoader(Indices(1000), batch_sampler=BatchSampler(random, 3, False))):
        assert "indices" not in Bench().batches(loader, stop=1)[1]
    assert "indices" in Bench().batches(loader_of(SubsetRandomSampler(range(9))), stop=1)[1]


def test_far_into_a_range_nothing_is_handed_out_again() -> None:
    numbers = range(5, 10**14, 3)
    position = Bench().batches(numbers, stop=1)[1] | {"batches": 10**12}
    opened = Bench().data.open(numbers, PassAddress("batches", 0, 0), position, set_epoch=0)
    assert (next(opened), opened.length) == (numbers[10**12], len(numbers))
    with pytest.raises(LoopError, match=r"over range\(0, 9\), it was over range\(5, "):
        Bench().batches(range(9), resume=position | {"batches": 1})
    with pytest.raises(LoopError, match=r"expected at most|it was over"):
        Bench().batches(numbers, resume=position | {"batches": 10**15})
