"""Plain objects by their attributes: filled in place, without running their code."""

from __future__ import annotations

import collections
import dataclasses
import io
import logging
import operator
import random
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import resumable
from resumable import attributes
from resumable.errors import RunMismatchError, StateError
from resumable.state.codec.tree import PartName
from resumable.state.objects.choose_adapter import adapt
from tests.state.exactness import exactly
from tests.state.roundtrip import save, transfer


class Stopping:
    """As in most tutorials."""

    best_of_class = 0

    def __init__(self, value: int = 0) -> None:
        self.best, self.count, self.stop = float(value), value, False
        self.history: collections.deque[int] = collections.deque([value], maxlen=3)
        self.weights = {"w": torch.full((3,), float(value))}
        self.trace, self.log, self.kind = print, logging.getLogger("x"), Stopping

    def __call__(self) -> None:
        raise AssertionError("a call")

    @property
    def harmful(self) -> int:
        raise AssertionError("a property ran")

    def __setattr__(self, name: str, value: object) -> None:
        if self.__dict__.get("sealed"):
            raise AssertionError("a method ran")
        super().__setattr__(name, value)


class Slotted:
    __slots__ = ("__private", "count", "never")

    def __init__(self, value: int = 0) -> None:
        self.count = self.__private = value

    def both(self) -> tuple[int, int]:
        return self.count, self.__private


class More(Slotted):
    """With slots, and a dict."""

    def __init__(self, value: int = 0) -> None:
        super().__init__(value)
        self.more = [value]


@dataclasses.dataclass(slots=True)
class State:
    best: float = 9e9
    n: int = 0
    seen: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Frozen:
    n: int = 0


def test_the_attributes_of_an_object_come_back_in_place() -> None:
    whole, live = Stopping(7), Stopping()
    held, live.__dict__["sealed"] = (live.history, live.weights, live.weights["w"]), True
    whole.__dict__["sealed"] = True
    transfer({"es": attributes(whole)}, {"es": attributes(live)})
    assert exactly(vars(live), vars(whole))
    assert all(one is other for one, other in zip(held, (live.history, live.weights, live.weights["w"]), strict=True))


@pytest.mark.parametrize("make", [Slotted, More])
def test_slots_are_attributes(make: Any) -> None:
    live = make()
    transfer({"s": attributes(make(4))}, {"s": attributes(live)})
    assert live.both() == (4, 4)
    assert not hasattr(live, "never")
    assert getattr(live, "more", [4]) == [4]


def test_a_dataclass_is_an_object_as_any_other() -> None:
    live = State()
    transfer({"s": attributes(State(0.5, 3, [1, 2]))}, {"s": attributes(live)})
    assert live == State(0.5, 3, [1, 2])


def test_objects_among_the_attributes_have_a_name_of_their_own() -> None:
    net, given = nn.Linear(2, 1), random.Random(3)
    holder = types.SimpleNamespace(net=net, opt=torch.optim.SGD(net.parameters()), stream=given, parts=[{"g": given}])
    adapters = adapt({"stream": given, "holder": attributes(holder)})
    assert list(adapters) == ["stream", "holder", "holder.net", "holder.opt"]
    values = adapters["holder"].capture()["values"]  # type: ignore[index, call-overload]
    assert values["parts"] == [{"g": PartName("stream")}]
    held = list(vars(holder).values())
    adapters["holder"].restore(save(adapters["holder"]).tree())
    assert all(one is other for one, other in zip(held, vars(holder).values(), strict=True))


def test_dataclasses_inside_are_objects_by_their_attributes() -> None:
    whole, live = ([State(n, 1, [n]), {"more": (State(2 * n), [])}] for n in (3, 4))
    held = [live[0], live[0].seen, live[1]["more"][0]]
    holder = types.SimpleNamespace(all=whole)
    adapters = adapt({"holder": attributes(holder)})
    assert list(adapters) == ["holder", "holder.all.0", "holder.all.1.more.0"]
    transfer(
        {"holder": attributes(types.SimpleNamespace(all=whole))},
        {"holder": attributes(types.SimpleNamespace(all=live))},
    )
    assert live == whole
    assert all(map(operator.is_, held, [live[0], live[0].seen, live[1]["more"][0]]))
    frozen = types.SimpleNamespace(args=Frozen())
    with pytest.raises(StateError, match="Frozen cannot be stored") as caught:
        save_with_hint({"x": attributes(frozen)})
    assert str(caught.value.hint).startswith("keep dataclasses.asdict(...) of it; or leave")


def test_an_object_that_holds_itself_is_no_cycle() -> None:
    whole, live = State(1), State(2)
    whole.seen, live.seen = [whole], [live]  # type: ignore[list-item]
    transfer({"s": attributes(whole)}, {"s": attributes(live)})
    assert live.best == 1
    assert live.seen[0] is live  # type: ignore[comparison-overlap]


def test_a_plain_object_inside_is_named_once_it_was_passed() -> None:
    inner = Slotted()
    outer = types.SimpleNamespace(state=inner, n=1)
    with pytest.raises(StateError, match=r"outer\.values\.state: Slotted cannot be stored") as caught:
        save_with_hint({"outer": attributes(outer)})
    assert str(caught.value.hint).startswith("pass it under a name of its own: Trainer(..., slotted=attributes(...))")
    live = types.SimpleNamespace(state=Slotted(), n=2)
    held = live.state
    transfer(
        {"outer": attributes(outer), "inner": attributes(inner)},
        {"outer": attributes(live), "inner": attributes(live.state)},
    )
    assert live.state is held
    assert live.n == 1


def save_with_hint(objects: dict[str, Any]) -> None:
    from resumable.state.codec import encode

    for adapter in adapt(objects).values():
        encode(adapter.capture(), key_of=adapter.key_of, where=adapter.name, advice=adapter.advice)


def test_what_training_added_and_removed_comes_back() -> None:
    whole, live = Stopping(1), Stopping()
    wrapped = attributes(whole)
    whole.late = [1]  # type: ignore[attr-defined]
    del whole.count
    target = attributes(live)
    transfer({"es": wrapped}, {"es": target})
    assert (live.late, hasattr(live, "count")) == ([1], False)  # type: ignore[attr-defined]
    # The same objects once more, as a cell that is run again passes them.
    transfer({"es": wrapped}, {"es": attributes(live)})
    assert live.late == [1]  # type: ignore[attr-defined]


def test_an_object_that_is_built_otherwise_is_refused_by_name() -> None:
    whole, more, less, code = Stopping(), Stopping(), Stopping(), Stopping()
    more.patience = 3  # type: ignore[attr-defined]
    del less.count
    code.trace = None  # type: ignore[assignment]
    for live, reason in (
        (more, "attributes that the checkpoint lacks: patience"),
        (less, "attributes that are not here: count"),
        (code, "attributes that held code, a logger or a file: trace"),
    ):
        with pytest.raises(RunMismatchError, match=reason):
            transfer({"es": attributes(whole)}, {"es": attributes(live)})
        assert misfits({"es": attributes(whole)}, {"es": attributes(live)}) == [reason], "before anything is claimed"


def misfits(whole: dict[str, Any], live: dict[str, Any]) -> list[str]:
    """What is refused before the launch claims an attempt."""
    (adapter,), (target,) = adapt(whole).values(), adapt(live).values()
    saved = save(adapter, inline=True)
    assert adapter.misfits(saved.records, saved.document) == []
    return target.misfits(saved.records, saved.document)


def test_attributes_that_are_left_out_stay_as_they_are() -> None:
    live = types.SimpleNamespace(n=1, args=object())
    held = live.args
    transfer(
        {"x": attributes(types.SimpleNamespace(n=2, args=object()), without=["args"])},
        {"x": attributes(live, without="args")},
    )
    assert (live.n, live.args) == (2, held)
    with pytest.raises(StateError, match="this SimpleNamespace has no such attribute"):
        attributes(live, without=["arsg"])


class Table(dict[str, Any]):
    pass


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Frozen(), "Frozen is a frozen dataclass"),
        (Stopping, "Stopping is a type"),
        (resumable, "resumable is a module"),
        (nn.Linear(1, 1), "a Linear has more state than its attributes"),
        (torch.Generator(), "a Generator has more state"),
        ({"a": 1}, "a dict has more state"),
        (torch.rand(1), "a Tensor has more state"),
        (Table(), "Table has items beside its attributes"),
        (1, "int has no attributes"),
        (None, "NoneType has no attributes"),
    ],
)
def test_what_has_no_attributes_to_fill_is_refused(target: Any, reason: str) -> None:
    with pytest.raises(StateError, match=reason) as caught:
        attributes(target)
    assert caught.value.hint


@pytest.mark.parametrize("target", [Stopping(), State(), Slotted(), types.SimpleNamespace()])
def test_the_error_for_a_plain_object_names_the_way(target: Any) -> None:
    with pytest.raises(StateError, match="has no state_dict") as caught:
        adapt({"es": target})
    assert "Trainer(..., es=attributes(...))" in str(caught.value.hint)


def test_one_object_under_two_names_is_refused() -> None:
    state = State()
    with pytest.raises(StateError, match="b: the same object as a"):
        adapt({"a": attributes(state), "b": attributes(state)})


# -- tensors and arrays -----------------------------------------------------------------------------------------------


def views(fill: float) -> list[Any]:
    base, array = torch.full((6, 8), fill), np.full((6, 8), fill)
    return [
        base,
        base.clone()[:, ::2],
        base.clone().t(),
        base.clone().contiguous(memory_format=torch.contiguous_format)[1:],
        torch.full((2, 3, 4, 5), fill).contiguous(memory_format=torch.channels_last),
        torch.tensor(fill),
        torch.empty(0, 3),
        torch.nn.Parameter(torch.full((3,), fill)),
        torch.full((3,), fill, requires_grad=True),
        torch.full((3,), fill, dtype=torch.complex64).conj(),
        array,
        array.copy()[::-1, ::2],
        np.asfortranarray(array),
        array.copy().T,
        np.array(fill),
        np.full(2000, fill)[::3],
        np.full(2000, fill, dtype=np.int8)[::-1],
        np.array(["a"] if fill else ["b"]),
    ]


@pytest.mark.parametrize("number", range(len(views(0.0))))
def test_a_tensor_or_an_array_is_filled_in_place(number: int) -> None:
    whole, live = views(3.0)[number], views(0.0)[number]
    transfer({"x": whole}, {"x": live})
    assert exactly(live, whole)


@pytest.mark.parametrize(
    ("whole", "live"),
    [
        (torch.ones(3), torch.ones(4)),
        (torch.ones(3), torch.ones(3, dtype=torch.float64)),
        (np.ones(3), np.ones(4)),
        (np.ones(3), np.ones(3, dtype=np.float32)),
    ],
)
def test_one_of_another_shape_or_dtype_is_refused(whole: Any, live: Any) -> None:
    with pytest.raises(RunMismatchError, match=r"the checkpoint holds float64\[3\]|the checkpoint holds float32\[3\]"):
        transfer({"x": whole}, {"x": live})
    assert len(misfits({"x": whole}, {"x": live})) == 1
    [whole], [live] = (
        [torch.cat([each] * 300) if isinstance(each, torch.Tensor) else np.tile(each, 300)] for each in (whole, live)
    )
    assert len(misfits({"x": whole}, {"x": live})) == 1


def readonly() -> Any:
    array = np.ones(3)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (readonly(), "this array is read-only"),
        (torch.ones(1).expand(3), "several elements of this tensor are one"),
        (torch.ones(2, requires_grad=True) * 2, "a tensor that is part of an autograd graph"),
        (torch.ones(2).to_sparse(), "a sparse_coo tensor cannot be stored"),
        (torch.ones(2, device="meta"), "a tensor on the meta device"),
        (np.ma.masked_array([1]), "MaskedArray has no state_dict"),
    ],
)
def test_one_that_cannot_be_filled_is_refused_at_once(target: Any, reason: str) -> None:
    with pytest.raises(StateError, match=f"x: {reason}"):
        adapt({"x": target})


@pytest.mark.parametrize("value", [1, 0.5, "text", True, (1, 2), np.float32(1)])
def test_a_number_is_for_carry(value: Any) -> None:
    with pytest.raises(StateError) as caught:
        adapt({"best": value})
    assert str(caught.value.hint).startswith("call trainer.carry('best')")


def test_an_open_file_is_left_alone() -> None:
    live = types.SimpleNamespace(n=1, file=io.StringIO())
    transfer({"x": attributes(types.SimpleNamespace(n=2, file=io.StringIO()))}, {"x": attributes(live)})
    assert live.n == 2
