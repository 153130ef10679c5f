"""Streams of Hugging Face's `datasets`: by their state, or by replay where a shuffle buffer is on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.utils.data import ChainDataset, DataLoader, IterableDataset

from resumable.data.addresses import PassAddress
from resumable.errors import LoopError
from tests.data.kinds import Bench

datasets = pytest.importorskip("datasets", reason="needs datasets")
from datasets.distributed import split_dataset_by_node  # noqa: E402
from datasets.table import InMemoryTable  # noqa: E402


@functools.cache
def table(start: int, count: int) -> Any:
    values = InMemoryTable.from_pydict({"a": list(range(start, start + count))})
    return datasets.Dataset(values, fingerprint=f"{start} {count}")  # without one it pickles what is newer than dill


def stream(start: int = 0, count: int = 40) -> Any:
    return table(start, count).to_iterable_dataset(num_shards=4)


def generated() -> Any:
    return datasets.IterableDataset.from_generator(generate, gen_kwargs={"shards": [0, 1, 2, 3]})


def generate(shards: list[int]) -> Iterator[dict[str, int]]:
    for shard in shards:
        yield from ({"a": 10 * shard + number} for number in range(10))


def buffered() -> Any:
    return stream().shuffle(seed=1, buffer_size=10)


def as_it_is(row: Any) -> Any:
    return {"a": row["a"]}


class Wrapped(IterableDataset[Any]):
    """A dataset of the user's around another, which tells that one's state as its own."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(self.dataset)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.dataset.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.dataset.load_state_dict(state)


class Held(Wrapped):
    """The same with the other one behind a function and a list."""

    def __init__(self, dataset: Any) -> None:
        self._sources = [lambda: dataset]

    @property
    def dataset(self) -> Any:  # type: ignore[override]
        return self._sources[0]()


BUFFERED: dict[str, Callable[[], Any]] = {
    "shuffled": buffered,
    "by two": lambda: stream().shuffle(seed=1, buffer_size=2),
    "generated": lambda: generated().shuffle(seed=1, buffer_size=10),
    "mapped": lambda: buffered().map(as_it_is),
    "mapped in batches": lambda: buffered().map(as_it_is, batched=True, batch_size=7),
    "filtered": lambda: buffered().filter(lambda row: row["a"] % 5 != 0),
    "taken": lambda: buffered().take(30),
    "skipped": lambda: buffered().skip(3),
    "repeated": lambda: buffered().repeat(2),
    "selected": lambda: buffered().select_columns(["a"]),
    "formatted": lambda: buffered().with_format("torch"),
    "cast": lambda: buffered().cast_column("a", datasets.Value("int32")),
    "for one node": lambda: split_dataset_by_node(buffered(), rank=0, world_size=2),
    "for one node of three": lambda: split_dataset_by_node(buffered(), rank=0, world_size=3),
    "interleaved": lambda: datasets.interleave_datasets([stream(100), buffered()]),
    "interleaved at random": lambda: datasets.interleave_datasets(
        [stream(100), buffered()], probabilities=[0.4, 0.6], seed=3, stopping_strategy="all_exhausted"
    ),
    "concatenated": lambda: datasets.concatenate_datasets([stream(100, 20), buffered()]),
    "side by side": lambda: datasets.concatenate_datasets([buffered(), stream(100).rename_column("a", "b")], axis=1),
    "wrapped": lambda: Wrapped(buffered()),
    "wrapped twice": lambda: Wrapped(Wrapped(buffered().map(as_it_is))),
    "held by a function": lambda: Held(buffered()),
}
EXACT: dict[str, Callable[[], Any]] = {
    "plain": stream,
    "generated": generated,
    "shards only": lambda: stream().shuffle(seed=1, buffer_size=1),
    "generated, shards only": lambda: generated().shuffle(seed=1, buffer_size=1),
    "mapped in batches": lambda: stream().map(as_it_is, batched=True, batch_size=7),
    "interleaved at random": lambda: datasets.interleave_datasets(
        [stream(100), stream()], probabilities=[0.4, 0.6], seed=3
    ),
    "concatenated": lambda: datasets.concatenate_datasets([stream(100, 20), stream()]),
    "formatted": lambda: stream().with_format("torch"),
    "wrapped": lambda: Wrapped(stream()),
}


def numbers(rows: list[Any]) -> list[int]:
    return [int(row["a"]) for row in rows]


def loader(dataset: Any, **way: Any) -> DataLoader[Any]:
    return DataLoader(dataset, 4, collate_fn=numbers, **way)


# Of each epoch, after which batches a launch stops: within it, and near its end.
STOPS = ((0, (1, 4)), (1, (3,)))


@pytest.mark.parametrize("kind", BUFFERED)
def test_a_shuffle_buffer_anywhere_on_the_way_is_replayed_and_says_why(kind: str) -> None:
    for epoch, stops in STOPS:
        whole, _ = Bench().batches(loader(BUFFERED[kind]()), epoch=epoch)
        saved, positions = Bench().watched(loader(BUFFERED[kind]()), stops=stops, epoch=epoch)
        assert saved == whole
        assert list(positions) == list(stops)
        for stop, position in positions.items():
            later = Bench()
            after, _ = later.batches(loader(BUFFERED[kind]()), resume=position, epoch=epoch)
            assert after == whole[stop:]
            assert position["kind"] == "replay"
            assert later.advanced == stop
            [said] = later.said
            assert "its state_dict leaves out the shuffle buffer" in said
            assert "fast instead: shuffle shards only" in said


@pytest.mark.parametrize("kind", EXACT)
def test_what_is_exact_by_its_state_goes_by_it(kind: str) -> None:
    for epoch, stops in STOPS:
        whole, _ = Bench().batches(loader(EXACT[kind]()), epoch=epoch)
        saved, positions = Bench().watched(loader(EXACT[kind]()), stops=stops, epoch=epoch)
        assert saved == whole
        assert list(positions) == list(stops)
        for stop, position in positions.items():
            later = Bench()
            after, _ = later.batches(loader(EXACT[kind]()), resume=position, epoch=epoch)
            assert after == whole[stop:]
            assert (position["kind"], later.advanced, later.said) == ("state", 0, [])


def test_workers_replay_and_say_what_would_not() -> None:
    for make, advice in ((buffered, "shuffle shards only"), (stream, "num_workers=0, with which the state_dict")):
        whole, _ = Bench().batches(loader(make(), num_workers=2))
        first, later = Bench(), Bench()
        before, position = first.batches(loader(make(), num_workers=2), stop=3)
        after, _ = later.batches(loader(make(), num_workers=2), resume=position)
        first.data.close(), later.data.close()
        assert before + after == whole
        assert advice in later.said[0]


def test_a_position_by_the_state_that_an_earlier_version_wrote_is_replayed() -> None:
    whole, _ = Bench().batches(loader(buffered()))
    source = buffered()
    rows = iter(source)
    assert [next(rows) for _ in range(12)]
    place = {"kind": "state", "batches": 3, "workers": 0, "dataset": source.state_dict(), "iterator": None}
    later = Bench()
    after, _ = later.batches(loader(buffered()), resume=place | {"length": None, "finished": False})
    assert after == whole[3:]
    assert "3 batches are made again" in later.said[0]
    with pytest.raises(LoopError, match="position by replay, now it would go by state"):
        Bench().batches(loader(stream()), resume=place | {"kind": "replay", "finished": False})


class Twice(Wrapped):
    """A pass over this one is two over the other."""

    def __iter__(self) -> Iterator[Any]:
        for _ in range(2):
            yield from self.dataset


@pytest.mark.parametrize("wrap", [Wrapped, Twice, lambda dataset: dataset])
def test_a_state_that_was_loaded_is_where_one_pass_begins_and_no_other(wrap: Any) -> None:
    whole = Bench()
    passes = loader(wrap(stream()))
    expected = [whole.batches(passes)[0] for _ in range(3)]
    position = Bench().batches(loader(wrap(stream())), stop=3)[1]
    later, resumed = Bench(), loader(wrap(stream()))
    assert later.batches(resumed, resume=position)[0] == expected[0][3:]
    assert [later.batches(resumed)[0] for _ in range(2)] == expected[1:]


def test_a_pass_inside_of_another_begins_at_its_start_also_after_a_resume() -> None:
    position = Bench().batches(loader(stream()), stop=3)[1]
    bench, both = Bench(), loader(stream())
    opened = bench.data.open(both, PassAddress("batches", 0, 0), position, set_epoch=0)
    assert next(opened) == [12, 13, 14, 15]
    assert len(bench.batches(both, loop="evaluate")[0]) == 10


def test_a_chain_of_streams_is_looked_through() -> None:
    position = Bench().batches(loader(ChainDataset([stream(100, 8), buffered()])), stop=3)[1]
    assert position["kind"] == "replay"


def test_datasets_is_not_imported_for_it() -> None:
    from tests.data.kinds import Ledger

    assert Bench().batches(DataLoader(Ledger(), 4), stop=2)[1]["kind"] == "state"
