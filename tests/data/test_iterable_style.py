"""Iterable datasets, loaders with an __iter__ of their own, and plain iterables."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from resumable.data.addresses import PassAddress
from resumable.errors import LoopError
from tests.data.kinds import Augmented, Bench, Endless, Ledger, Numbers, OwnIter, equal

# torchdata tells torch that it is used, by a call that torch now warns of.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

KINDS: dict[str, Any] = {
    "stream": lambda: DataLoader(Numbers(), 4),
    "stream, drop_last": lambda: DataLoader(Numbers(), 4, drop_last=True),
    "stream without batches": lambda: DataLoader(Numbers(9), None),
    "stream, two workers": lambda: DataLoader(Numbers(), 4, num_workers=2),
    "stream, persistent": lambda: DataLoader(Numbers(), 4, num_workers=2, persistent_workers=True),
    "stream with state": lambda: DataLoader(Ledger(), 4),
    "StatefulDataLoader, stream with state": lambda: StatefulDataLoader(Ledger(), 4),
    "StatefulDataLoader": lambda: StatefulDataLoader(Augmented(), 4, shuffle=True),
    "StatefulDataLoader, workers": lambda: StatefulDataLoader(Augmented(), 4, shuffle=True, num_workers=2),
    "own __iter__": lambda: OwnIter(Augmented(), 4, shuffle=True),
    "own __iter__, workers": lambda: OwnIter(Augmented(), 4, shuffle=True, num_workers=2),
    "own __iter__, persistent": lambda: OwnIter(Augmented(), 4, shuffle=True, num_workers=1, persistent_workers=True),
    "plain iterable": Endless,
    "list": lambda: [torch.tensor(n) for n in range(7)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_and_the_resumed_rest_are_the_whole(kind: str) -> None:
    loader, bench = KINDS[kind](), Bench()
    whole = [bench.batches(loader, epoch=epoch)[0] for epoch in range(2)]
    bench.data.close()
    for epoch in range(2):  # the second epoch in a program that never saw the first
        first, second = Bench(), Bench()
        before, position = first.batches(KINDS[kind](), stop=3, epoch=epoch)
        after, _ = second.batches(KINDS[kind](), resume=position, epoch=epoch)
        first.data.close(), second.data.close()
        assert equal(whole[epoch], before + after)
    assert kind == "list" or not equal(*whole)


def test_a_stateful_loader_over_a_map_style_dataset_goes_by_address_and_equals_a_plain_one() -> None:
    batches, position = Bench().batches(StatefulDataLoader(Augmented(), 4))
    assert position["kind"] == "address"
    assert equal(batches, Bench().batches(DataLoader(Augmented(), 4))[0])


def test_torchdatas_distributed_sampler_resumes_in_a_later_epoch() -> None:
    def loader() -> Any:
        return StatefulDataLoader(Augmented(), 4, sampler=StatefulDistributedSampler(Augmented(), 2, 0))

    live, bench = loader(), Bench()
    bench.batches(live)
    whole = bench.batches(live, epoch=1)[0]
    before, position = bench.batches(live, epoch=1, stop=2)
    assert equal(whole, before + Bench().batches(loader(), resume=position, epoch=1)[0])


def test_a_stream_with_state_reads_only_what_proves_it_again() -> None:
    position = Bench().batches(KINDS["stream with state"](), stop=5)[1]
    loader, bench = KINDS["stream with state"](), Bench()
    bench.batches(loader, resume=position)
    assert (loader.dataset.reads, bench.said, bench.advanced) == (21, [], 0)
    assert (position["dataset"], position["proof"]["dataset"]) == ({"at": 20}, {"at": 16})


def test_a_replay_shows_progress_and_says_once_what_would_make_it_fast() -> None:
    for kind, advice in {
        "stream": "state_dict and load_state_dict on the dataset",
        "own __iter__": "without the __iter__ of OwnIter",
        "plain iterable": "a DataLoader over a map-style dataset",
    }.items():
        fresh = Bench()
        position = fresh.batches(KINDS[kind](), stop=3)[1]
        bench = Bench()
        bench.batches(KINDS[kind](), resume=position)
        assert (len(fresh.said), len(bench.said), bench.advanced) == (0, 1, 3)
        assert advice in bench.said[0]


HELD: dict[str, Any] = {
    "range": range(7),
    "list": [torch.tensor(n) for n in range(7)],
    "tuple": tuple(range(7)),
    "dict": dict.fromkeys("abcdefg"),
    "deque": deque(range(7)),
    "array": np.arange(14).reshape(7, 2),
    "tensor": torch.arange(14).reshape(7, 2),
}


@pytest.mark.parametrize("kind", HELD)
def test_what_is_held_already_goes_on_without_a_word(kind: str) -> None:
    before, position = Bench().batches(HELD[kind], stop=3)
    bench = Bench()
    opened = bench.data.open(HELD[kind], PassAddress("batches", 0, 0), position, set_epoch=0)
    assert (bench.said, bench.advanced, opened.replayed) == ([], 0, False)
    assert [str(batch) for batch in [*before, *opened]] == [str(batch) for batch in HELD[kind]]
    assert opened.position().items() >= {"kind": "replay", "batches": 7, "workers": 0, "finished": True}.items()
    if kind != "range":
        assert [count for count, _ in opened.position()["digests"]["marks"]] == [*range(1, 8)]


def test_a_list_with_code_of_its_own_is_replayed_with_a_word() -> None:
    class Fresh(list[int]):
        def __iter__(self) -> Iterator[Any]:
            return (torch.rand(()) for _ in super().__iter__())

    before, position = Bench().batches(Fresh(range(5)), stop=3)
    bench = Bench()
    after = bench.batches(Fresh(range(5)), resume=position)[0]
    assert (len(bench.said), bench.advanced) == (1, 3)
    assert equal(before + after, Bench().batches(Fresh(range(5)))[0])


def test_a_list_that_became_shorter_is_an_error_on_resume() -> None:
    position = Bench().batches([1, 2, 3], stop=3)[1]
    with pytest.raises(LoopError, match="list yielded 2 batches on resume, 3 were consumed"):
        Bench().batches([1, 2], resume=position | {"finished": False})


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_a_stream_in_another_number_of_workers_is_refused(before: int, after: int) -> None:
    position = Bench().batches(DataLoader(Numbers(), 4, num_workers=before), stop=2)[1]
    with pytest.raises(LoopError, match=f"num_workers is {after}, it was {before}"):
        Bench().batches(DataLoader(Numbers(), 4, num_workers=after), resume=position)


def test_a_generator_object_that_ran_dry_is_an_error_on_resume() -> None:
    def generate() -> Iterator[torch.Tensor]:
        yield from map(torch.tensor, range(5))

    position = Bench().batches(generate(), stop=3)[1]
    assert len(Bench().batches(generate(), resume=position)[0]) == 2
    used = generate()
    assert [next(used) for _ in range(4)]
    with pytest.raises(LoopError, match=r"beginning with batch 1 of the 3 that(.|\n)*iterated only once"):
        Bench().batches(used, resume=position)


def test_another_kind_of_loader_on_resume_is_refused() -> None:
    position = Bench().batches(DataLoader(Augmented(), 4), stop=2)[1]
    for other in (DataLoader(Numbers(), 4), [1, 2, 3]):
        with pytest.raises(LoopError, match="position by address"):
            Bench().batches(other, resume=position)
    position = Bench().batches(DataLoader(Ledger(), 4), stop=2)[1]
    with pytest.raises(LoopError, match="position by state"):
        Bench().batches(DataLoader(Numbers(), 4), resume=position)


def test_what_cannot_be_iterated_is_refused() -> None:
    with pytest.raises(LoopError, match="int cannot be iterated"):
        Bench().data.open(5, PassAddress("batches", 0, 0), set_epoch=0)


@pytest.mark.parametrize("kind", ["stream", "stream with state", "own __iter__", "plain iterable"])
def test_nothing_is_drawn_from_the_streams_of_the_loop(kind: str) -> None:
    state = torch.get_rng_state()
    Bench().batches(KINDS[kind]())
    assert torch.equal(state, torch.get_rng_state())
