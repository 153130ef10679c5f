"""Schedulers, scalers and user objects through a save into fresh ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from resumable.errors import RunMismatchError, StateError
from resumable.state.objects.choose_adapter import adapt, is_empty
from tests.state.roundtrip import save, transfer


class Warmup:
    """A schedule as an object: torch stores its attributes."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, epoch: float) -> float:
        return min(1.0, (epoch + 1) / self.length)


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda epoch: 0.9**epoch),
    "LambdaLR object": lambda o: schedulers.LambdaLR(o, Warmup(4)),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, Warmup(4)),
    "StepLR": lambda o: schedulers.StepLR(o, 2),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 2, 4]),
    "ConstantLR": schedulers.ConstantLR,
    "LinearLR": schedulers.LinearLR,
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, total_iters=2), schedulers.ExponentialLR(o, 0.9)], [2]
    ),
    "PolynomialLR": schedulers.PolynomialLR,
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 10),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.1, 0.3, step_size_up=2),
    "CyclicLR object": lambda o: schedulers.CyclicLR(o, 0.1, 0.3, step_size_up=2, scale_fn=Warmup(4)),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=20),
    "SWALR": lambda o: SWALR(o, 0.05, anneal_epochs=4),
}


def build(make: Callable[[Optimizer], Any], lr: Any = 0.1) -> dict[str, Any]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=lr, momentum=0.9)
    return {"optimizer": optimizer, "scheduler": make(optimizer)}


def rates(objects: dict[str, Any], steps: int) -> list[tuple[float, float]]:
    found = []
    for number in range(steps):
        objects["optimizer"].step()
        plateau = isinstance(objects["scheduler"], schedulers.ReduceLROnPlateau)
        objects["scheduler"].step(*([1.0 + number % 2] if plateau else []))
        group = objects["optimizer"].param_groups[0]
        found.append((float(group["lr"]), group["momentum"]))
    return found


def test_no_scheduler_of_torch_is_forgotten() -> None:
    every = {value for value in vars(schedulers).values() if isinstance(value, type)}
    names = {cls.__name__ for cls in every if issubclass(cls, schedulers.LRScheduler)}
    assert names - {name.split()[0] for name in SCHEDULERS} == {"LRScheduler", "_LRScheduler"} & names


@pytest.mark.filterwarnings("ignore:The epoch parameter in")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_goes_on_as_if_nothing_had_happened(name: str) -> None:
    whole, resumed = build(SCHEDULERS[name]), build(SCHEDULERS[name])
    rates(whole, 3)
    transfer(whole, resumed)
    assert rates(whole, 6) == rates(resumed, 6)


def test_a_callable_object_gets_its_attributes_back() -> None:
    whole = build(lambda o: schedulers.LambdaLR(o, Warmup(4)))
    resumed = build(lambda o: schedulers.LambdaLR(o, Warmup(9)))
    transfer(whole, resumed)
    assert resumed["scheduler"].lr_lambdas[0].length == 4


def test_a_scheduler_of_a_tensor_learning_rate_goes_on() -> None:
    whole, resumed = (build(SCHEDULERS["ExponentialLR"], torch.tensor(0.1)) for _ in range(2))
    rates(whole, 3)
    transfer(whole, resumed)
    assert rates(whole, 6) == rates(resumed, 6)


def test_a_grad_scaler_keeps_its_scale_and_its_tracker() -> None:
    whole, resumed = torch.amp.GradScaler("cpu"), torch.amp.GradScaler("cpu")
    whole.scale(torch.ones(1))
    whole.update(1234.5)
    transfer({"scaler": whole}, {"scaler": resumed})
    assert resumed.get_scale() == 1234.5


class Environment:
    """A user's object; it keeps what it is given."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"position": torch.zeros(3), "goal": (1, 2)}

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def test_an_object_that_keeps_what_it_is_given_owns_it() -> None:
    whole, resumed = Environment(), Environment()
    whole.state["position"] += 5
    saved = save(adapt({"env": whole})["env"])
    tree = saved.tree()
    adapt({"env": resumed})["env"].restore(tree)
    resumed.state["position"] += 1
    assert tree["position"].tolist() == [5, 5, 5]
    assert resumed.state["position"].data_ptr() % 64 == 0


class Forgetful(Environment):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = {**state, "goal": list(state["goal"])}


def test_an_object_that_does_not_come_back_as_it_was_is_named() -> None:
    with pytest.raises(StateError, match=r"env \(.*Forgetful\) differs from what was saved: env\.goal"):
        transfer({"env": Forgetful()}, {"env": Forgetful()})


class Refusing(Environment):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise KeyError("colour")


def test_an_object_that_refuses_its_state_is_named() -> None:
    with pytest.raises(RunMismatchError, match=r"env does not fit the checkpoint: .*colour"):
        transfer({"env": Environment()}, {"env": Refusing()})


def test_an_empty_state_is_told() -> None:
    assert is_empty({})
    assert is_empty(adapt({"loss": nn.MSELoss()})["loss"].capture())
    assert not is_empty(adapt({"model": nn.Linear(1, 1)})["model"].capture())


SHARED: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ({"x": object()}, "object has no state_dict"),
        ({"x": nn.Linear}, "type has no state_dict"),
        ({"x": (1, 2)}, "tuple has no state_dict"),
        ({"gradients": {}}, "cannot be the name"),
        ({"golden": {}}, "cannot be the name"),
        ({"a b": {}}, "cannot be the name"),
        ({"group0": {}}, "cannot be the name"),
        ({"a": SHARED, "b": SHARED}, "b: the same object as a"),
    ],
)
def test_an_object_that_cannot_be_registered_is_refused_with_a_hint(objects: dict[str, Any], reason: str) -> None:
    with pytest.raises(StateError, match=reason) as caught:
        adapt(objects)
    assert caught.value.hint


def test_a_wrapped_module_is_the_same_object() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(StateError, match="the same object as"):
        adapt({"a": net, "b": nn.DataParallel(net)})


@pytest.mark.parametrize("failure", [MemoryError("none"), torch.OutOfMemoryError("CUDA out of memory"), OSError(5)])
def test_a_machine_that_cannot_restore_is_not_taken_for_a_checkpoint_that_does_not_fit(failure: Exception) -> None:
    class Heavy:
        def state_dict(self) -> dict[str, int]:
            return {"n": 1}

        def load_state_dict(self, state: dict[str, int]) -> None:
            raise failure

    [adapter] = adapt({"heavy": Heavy()}).values()
    with pytest.raises(type(failure)):
        adapter.restore({"n": 1})
