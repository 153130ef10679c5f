"""Samplers whose state the loop writes to, or whose drawing changes it: order and state go on after any kill."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Sampler, WeightedRandomSampler
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from resumable.data.addresses import PassAddress
from resumable.data.open_pass import Data
from resumable.data.sampling.sampler_state import is_same_state
from resumable.errors import CorruptCheckpointError, LoopError
from tests.data.kinds import Bench, CountingSampler, Indices

SAMPLES, EPOCHS, WORKERS = 26, 3, {"num_workers": 1, "prefetch_factor": 3}


class Hard(Sampler[int]):
    """Draws its order at `iter()`, by the losses that the loop wrote."""

    def __init__(self, length: int = SAMPLES) -> None:
        self.weights = torch.ones(length, dtype=torch.double)

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        return iter(torch.multinomial(self.weights, len(self), replacement=True).tolist())

    def learn(self, batch: Any) -> None:
        for index in np.asarray(batch).ravel().tolist():
            self.weights[index % len(self)] += 0.1 + index / 7

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = state["weights"].clone()


class Counting(Hard):
    """Counts what it gives besides, and does not begin a pass anew that was left."""

    def __init__(self) -> None:
        super().__init__()
        self.at = self.given = 0
        self.order: list[int] = []

    def __iter__(self) -> Iterator[int]:
        if self.at == 0:
            self.order = list(super().__iter__())
        while self.at < len(self.order):
            self.at += 1
            self.given += 1
            yield self.order[self.at - 1]
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"at": self.at, "given": self.given, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.at, self.given, self.order = state["at"], state["given"], list(state["order"])


class Growing(Hard):
    """Has more to give after every batch, from the next pass on."""

    def learn(self, batch: Any) -> None:
        super().learn(batch)
        self.weights = torch.cat([self.weights, self.weights[:1]])


class OfEpoch(Hard):
    """Is told the epoch, which its state holds."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter([(index * (self.epoch + 2) + int(self.weights[0])) % SAMPLES for index in range(SAMPLES)])

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.epoch = state["epoch"]


class OwnGenerator(Hard):
    """Draws index for index from a generator of its own, whose state it tells; the loop writes beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def __iter__(self) -> Iterator[int]:
        for _ in range(SAMPLES):
            yield int(torch.randint(SAMPLES, (), generator=self.generator))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])


class LateGenerator(CountingSampler):
    """Makes its generator when iterating first begins, which then begins once more, and counts the passes."""

    generator: np.random.Generator | None = None

    def __iter__(self) -> Iterator[int]:
        self.generator = self.generator or np.random.default_rng()
        return iter([(index + self.generator.integers(9)) % SAMPLES for index in super().__iter__()])


class InTorchdatasManner(Sampler[int]):
    """A loaded state says where the next `iter()` begins; the one at the end of a pass says: at its end."""

    def __init__(self) -> None:
        self.given, self.next_begins = 0, None

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        self.given, self.next_begins = self.next_begins or 0, None
        for index in torch.randperm(SAMPLES).tolist()[self.given :]:
            self.given += 1
            yield index

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next_begins = state["given"]


class Subclassed(StatefulDistributedSampler):
    """Of torchdata's own."""


class HardBatches(Hard):
    """The same as a batch sampler."""

    def __iter__(self) -> Iterator[Any]:
        drawn = list(super().__iter__())
        return iter([drawn[start : start + 4] for start in range(0, len(drawn), 4)])

    def __len__(self) -> int:
        return len(self.weights)


class Pairs(BatchSampler):
    """A batch sampler of the user's around a sampler with a state; counts, and tells that alone."""

    def __init__(self, sampler: Sampler[int]) -> None:
        super().__init__(sampler, 4, drop_last=False)
        self.batches = 0

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            self.batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches = state["batches"]


SAMPLERS: dict[str, Callable[[], Any]] = {
    "drawn at iter()": Hard,
    "counting": Counting,
    "growing": Growing,
    "of an epoch": OfEpoch,
    "own generator": OwnGenerator,
    "late generator": lambda: LateGenerator(SAMPLES),
    "in torchdata's manner": InTorchdatasManner,
    "torchdata's": lambda: Subclassed(Indices(SAMPLES), 1, 0),
    "batch sampler": HardBatches,
    "inside a batch sampler": lambda: Pairs(Hard()),
    "counting inside a batch sampler": lambda: Pairs(Counting()),
}


class Program:
    """One launch: passes over one loader by `epochs`, in which the loop writes to the sampler after each batch."""

    def __init__(self, kind: str, way: dict[str, Any], *, registered: bool) -> None:
        self.sampler = SAMPLERS[kind]()
        self.inner = getattr(self.sampler, "sampler", self.sampler)
        place = "batch_sampler" if "batch" in kind else "sampler"
        batched = {} if "batch" in kind else {"batch_size": 4}
        self.loader = DataLoader(Indices(1000), **{place: self.sampler}, **batched, collate_fn=list, **way)  # type: ignore[arg-type]
        parts = {id(part): part for part in (self.sampler, self.inner) if hasattr(part, "load_state_dict")}
        self.objects = list(parts.values()) if registered else []
        self.data: Data = Bench(restored_elsewhere=self.objects).data
        self.seen: list[Any] = []

    def train(self, *, until: int | None, start: dict[str, Any] | None = None) -> dict[str, Any]:
        """From `start` to the end, or until so many batches were seen in all; returns what a checkpoint then holds."""
        start = start or {"epoch": 0, "position": None, "samplers": {}, "objects": [], "done": 0}
        for part, state in zip(self.objects, start["objects"], strict=False):
            part.load_state_dict(copy.deepcopy(state))
        self.data.load(start["samplers"])
        done, resume = start["done"], start["position"]
        for epoch in range(start["epoch"], EPOCHS):
            opened = self.data.open(self.loader, PassAddress("batches", 0, epoch), resume, set_epoch=epoch)
            resume = None
            for batch in opened:
                self.seen.append((epoch, batch))
                if hasattr(self.inner, "learn"):
                    self.inner.learn(batch)
                done += 1
                if done == until:
                    return self._checkpoint(epoch, opened.position(), done)
            if done == until:
                return self._checkpoint(epoch + 1, None, done)
        self.data.close()
        return self._checkpoint(EPOCHS, None, done)

    def _checkpoint(self, epoch: int, position: Any, done: int) -> dict[str, Any]:
        taken = {"epoch": epoch, "position": position, "samplers": self.data.state(), "done": done}
        taken["objects"] = [part.state_dict() for part in self.objects]
        taken = copy.deepcopy(taken)
        self.data.close()
        return taken


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize("registered", [False, True], ids=["by the loader", "as an object"])
@pytest.mark.parametrize("kind", SAMPLERS)
def test_killed_after_any_batch_the_order_and_the_state_of_a_sampler_go_on(kind: str, registered: bool) -> None:
    if registered and "torchdata" in kind:
        pytest.skip("not a state that an object can be restored from")
    whole = Program(kind, {}, registered=registered)
    end = whole.train(until=None)
    assert end["done"] > 2 * SAMPLES // 4
    for until in range(1, end["done"]):
        first, second = (Program(kind, {}, registered=registered) for _ in range(2))
        assert second.train(until=None, start=first.train(until=until))["done"] == end["done"]
        assert first.seen + second.seen == whole.seen
        assert is_same_state(second.inner.state_dict(), whole.inner.state_dict())


WAYS = [({}, WORKERS), (WORKERS, {}), (WORKERS, WORKERS), (WORKERS, {"num_workers": 2, "prefetch_factor": 4})]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize("kind", ["counting", "inside a batch sampler", "in torchdata's manner"])
@pytest.mark.parametrize("ways", WAYS, ids=["0-1", "1-0", "1-1", "1-2"])
def test_what_was_drawn_ahead_for_workers_is_drawn_once_and_workers_may_change(kind: str, ways: Any) -> None:
    whole = Program(kind, {}, registered=False)
    end = whole.train(until=None)
    for until in (3, 6, 7, 8, 14):  # 7 batches in a pass: within, near and at its end
        first, second = (Program(kind, way, registered=kind == "counting") for way in ways)
        start = first.train(until=until)
        assert second.train(until=None, start=start)["done"] == end["done"]
        assert first.seen + second.seen == whole.seen
        assert is_same_state(second.inner.state_dict(), whole.inner.state_dict())


def test_a_position_of_an_earlier_version_resumes() -> None:
    for kind, way in [("drawn at iter()", {}), ("drawn at iter()", WORKERS), ("own generator", WORKERS)]:
        whole = Program(kind, {}, registered=False)
        whole.train(until=None)
        first, second = (Program(kind, way, registered=False) for _ in range(2))
        start = first.train(until=10)
        assert start["position"].pop("drawn")["batches"] >= 3
        second.train(until=None, start=start)
        assert first.seen + second.seen == whole.seen
        assert is_same_state(second.inner.state_dict(), whole.inner.state_dict())


def test_a_position_of_an_earlier_version_of_a_sampler_that_counts_goes_on_where_the_loop_was() -> None:
    start = Program("inside a batch sampler", WORKERS, registered=False)
    position = start.train(until=3)["position"]
    del position["drawn"]
    rest = Program("inside a batch sampler", {}, registered=False)
    opened = rest.data.open(rest.loader, PassAddress("batches", 0, 0), position, set_epoch=0)
    seen = [(0, batch) for batch in opened]
    whole = Program("inside a batch sampler", {}, registered=False)
    whole.train(until=None)
    assert start.seen + seen == whole.seen[:7]
    assert rest.sampler.batches == 7


@pytest.mark.parametrize(
    "drawn", [5, {}, {"batches": 2, "order": "", "ended": False}, {"batches": True, "order": "", "ended": False}]
)
def test_what_does_not_say_how_far_was_drawn_is_damage(drawn: Any) -> None:
    start = Program("counting", {}, registered=False).train(until=3)
    start["position"]["drawn"] = drawn
    with pytest.raises(CorruptCheckpointError, match="not the position of a pass by address"):
        Program("counting", {}, registered=False).train(until=None, start=start)


class AsItGoes(Hard):
    """Draws each index by the losses of that moment."""

    def __iter__(self) -> Iterator[int]:
        for _ in range(len(self)):
            yield int(torch.multinomial(self.weights, 1))

    def learn(self, batch: Any) -> None:
        self.weights[batch] *= 1000


@pytest.mark.parametrize("way", [{}, WORKERS], ids=["no workers", "one worker"])
def test_an_order_that_follows_what_the_loop_writes_as_it_goes_is_refused_with_what_to_do(way: Any) -> None:
    SAMPLERS["as it goes"] = AsItGoes
    try:
        first, second = (Program("as it goes", way, registered=False) for _ in range(2))
        with pytest.raises(LoopError, match=r"order of the first \d batches differs") as refused:
            second.train(until=None, start=first.train(until=5))
    finally:
        del SAMPLERS["as it goes"]
    assert "draw the whole order at the head of __iter__" in refused.value.hint


class Following(WeightedRandomSampler):
    """What the hint below asks for."""

    def state_dict(self) -> dict[str, Tensor]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.weights.copy_(state["weights"])


def test_a_subclass_of_torchs_sampler_with_a_state_goes_on_without_the_help_of_other_objects() -> None:
    SAMPLERS["as the hint says"] = lambda: learning(Following)
    try:
        whole, first, second = (Program("as the hint says", {}, registered=False) for _ in range(3))
        whole.train(until=None)
        second.train(until=None, start=first.train(until=10))
        assert first.seen + second.seen == whole.seen
    finally:
        del SAMPLERS["as the hint says"]


def learning(kind: type[WeightedRandomSampler]) -> WeightedRandomSampler:
    sampler = kind(torch.ones(SAMPLES, dtype=torch.double), SAMPLES)  # type: ignore[arg-type]
    sampler.learn = lambda batch: sampler.weights.index_add_(0, torch.tensor(batch), torch.ones(len(batch)).double())  # type: ignore[attr-defined]
    return sampler


def test_states_are_told_apart_by_their_bits() -> None:
    nan = float("nan")
    equal = [1, 1.5, nan, None, "a", b"a", {"a": [1, (2.0, nan)]}, torch.tensor([nan]), np.array([nan]), {1, 2}]
    equal += [torch.tensor([1.0], dtype=torch.bfloat16), torch.zeros(0), torch.zeros(()), np.float32(2)]
    for one in equal:
        assert is_same_state(one, copy.deepcopy(one)), one
    for one, other in [
        (0.0, -0.0),
        (1, True),
        ([1], (1,)),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ([1], [1, 2]),
        (torch.zeros(1), -torch.zeros(1)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(2), torch.zeros(1, 2)),
        (np.zeros(2), np.zeros((1, 2))),
        (object(), object()),
        (np.array([None]), np.array([None])),
    ]:
        assert not is_same_state(one, other), (one, other)
