"""Every optimizer of torch through a save into a fresh one: the same state, and the same next steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resumable.errors import RunMismatchError, StateError
from resumable.state.objects.choose_adapter import adapt, verify_round_trip
from tests.state.roundtrip import save, transfer

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "adadelta": torch.optim.Adadelta,
    "adafactor": torch.optim.Adafactor,
    "adagrad": torch.optim.Adagrad,
    "adam amsgrad": lambda parameters: torch.optim.Adam(parameters, amsgrad=True),
    "adam foreach": lambda parameters: torch.optim.Adam(parameters, foreach=True),
    "adam tensor lr": lambda parameters: torch.optim.Adam(parameters, lr=torch.tensor(0.01)),
    "adamw": torch.optim.AdamW,
    "adamw fused": lambda parameters: torch.optim.AdamW(parameters, fused=True),
    "adamax": torch.optim.Adamax,
    "asgd": torch.optim.ASGD,
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters, max_iter=3),
    "lbfgs wolfe": lambda parameters: torch.optim.LBFGS(parameters, max_iter=3, line_search_fn="strong_wolfe"),
    "muon": torch.optim.Muon,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, momentum=0.9, centered=True),
    "rprop": torch.optim.Rprop,
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "sgd plain": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
}


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 2, bias=False)).to(dtype)


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    dtype = next(net.parameters()).dtype
    for number in numbers:
        batch = torch.rand(5, 4, generator=torch.Generator().manual_seed(number)).to(dtype)

        def closure(batch: Tensor = batch) -> Tensor:
            optimizer.zero_grad()
            loss = net(batch).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)


def pair(make: Make, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    net = model(dtype)
    return {"model": net, "optimizer": make(list(net.parameters()))}


def test_no_optimizer_of_torch_is_forgotten() -> None:
    known = {type(make([nn.Parameter(torch.ones(2, 2))])) for make in OPTIMIZERS.values()}
    every = {value for value in vars(torch.optim).values() if isinstance(value, type)}
    every = {cls for cls in every if issubclass(cls, torch.optim.Optimizer)}
    assert every - known == {torch.optim.Optimizer, torch.optim.SparseAdam}  # tested below


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_as_if_nothing_had_happened(name: str, dtype: torch.dtype) -> None:
    whole, resumed = pair(OPTIMIZERS[name], dtype), pair(OPTIMIZERS[name], dtype)
    steps(**{"net": whole["model"], "optimizer": whole["optimizer"]}, numbers=range(3))
    transfer(whole, resumed)
    for objects in (whole, resumed):
        steps(objects["model"], objects["optimizer"], range(3, 6))
    verify_same(whole, resumed)


def verify_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    adapters = adapt(right)
    for name, adapter in adapt(left).items():
        saved = save(adapter)
        verify_round_trip(adapters[name], saved.document, saved.records)


def test_sparse_adam_goes_on_as_if_nothing_had_happened() -> None:
    def make() -> dict[str, Any]:
        net = nn.Embedding(10, 3, sparse=True)
        return {"model": net, "optimizer": torch.optim.SparseAdam(net.parameters())}

    def step(objects: dict[str, Any]) -> None:
        objects["optimizer"].zero_grad()
        objects["model"](torch.tensor([1, 2])).sum().backward()
        objects["optimizer"].step()

    whole, resumed = make(), make()
    step(whole)
    transfer(whole, resumed)
    step(whole)
    step(resumed)
    verify_same(whole, resumed)


class LowRank(torch.optim.Optimizer):
    """Keeps its moment in fewer numbers than the parameter has, under the name that torch's own use."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            moment = self.state[parameter].setdefault("exp_avg", torch.zeros(parameter.shape[0]))
            moment.mul_(0.9).add_(parameter.grad.flatten(1).mean(1) if parameter.ndim > 1 else parameter.grad)
            parameter.sub_(0.1 * moment.reshape(-1, *[1] * (parameter.ndim - 1)))


def test_an_optimizer_of_ones_own_may_keep_state_in_another_shape() -> None:
    source, target = model(), model()
    optimizers = LowRank(source.parameters()), LowRank(target.parameters())
    source(torch.ones(2, 4)).sum().backward()
    optimizers[0].step()
    transfer({"model": source, "optimizer": optimizers[0]}, {"model": target, "optimizer": optimizers[1]})


def test_state_before_the_first_step_comes_back_as_empty() -> None:
    whole, resumed = pair(torch.optim.AdamW), pair(torch.optim.AdamW)
    steps(resumed["model"], resumed["optimizer"], range(2))
    transfer(whole, resumed)
    assert not resumed["optimizer"].state


class Master(torch.optim.SGD):
    """Keeps fp32 moments of bf16 parameters, and a few things that torch's own loading takes apart."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["moment"] = state.get("moment", torch.zeros(parameter.shape)) + parameter.float() / 3
                state["double"] = torch.rand(2, dtype=torch.float64)
                state["label"] = "fast"
                state["shape"] = parameter.shape
                state["history"] = [torch.rand(2, dtype=torch.float64), None, (1, "x")]
                state["nested"] = {"ema": torch.rand(2)}
                state["last"] = torch.rand(4, 4, 2, 2).to(memory_format=torch.channels_last)
        self.state["global"] = {"k": 3}


def test_fp32_moments_of_bf16_parameters_and_odd_values_are_put_right() -> None:
    whole, resumed = (pair(lambda parameters: Master(parameters, lr=0.1), torch.bfloat16) for _ in range(2))
    whole["optimizer"].step()
    transfer(whole, resumed)
    first, second = (next(iter(objects["optimizer"].state.values())) for objects in (whole, resumed))
    assert second["moment"].dtype is torch.float32
    assert torch.equal(first["moment"], second["moment"])
    assert second["label"] == "fast"
    assert second["history"][2] == (1, "x")
    assert resumed["optimizer"].state["global"] == {"k": 3}


def test_state_is_matched_by_name_when_the_live_order_differs() -> None:
    net = model()
    whole = {"model": net, "optimizer": torch.optim.Adam(list(net.parameters()))}
    other = copy.deepcopy(net)
    resumed = {"model": other, "optimizer": torch.optim.Adam(list(other.parameters())[::-1])}
    steps(net, whole["optimizer"], range(2))
    transfer(whole, resumed)
    first = whole["optimizer"].state[net[0].weight]["exp_avg"]
    assert torch.equal(first, resumed["optimizer"].state[other[0].weight]["exp_avg"])
    assert save(adapt(whole)["optimizer"]).records.keys() >= {"model.0.weight.exp_avg", "model.2.weight.step"}


def test_lbfgs_in_another_order_is_refused() -> None:
    net = model()
    whole = {"model": net, "optimizer": torch.optim.LBFGS(list(net.parameters()))}
    resumed = {"model": net, "optimizer": torch.optim.LBFGS(list(net.parameters())[::-1])}
    steps(net, whole["optimizer"], range(1))
    saved = save(adapt(whole)["optimizer"])
    with pytest.raises(RunMismatchError, match="their order"):
        adapt(resumed)["optimizer"].restore(saved.tree())


def test_parameters_of_unregistered_modules_are_matched_by_place() -> None:
    left, right = model(), model()
    whole, resumed = ({"optimizer": torch.optim.Adam(net.parameters())} for net in (left, right))
    steps(left, whole["optimizer"], range(1))
    transfer(whole, resumed)
    assert "group0.0.exp_avg" in save(adapt(resumed)["optimizer"]).records


def test_groups_that_do_not_fit_are_all_named() -> None:
    net = model()
    whole = {"model": net, "optimizer": torch.optim.Adam(net.parameters())}
    groups = [{"params": [net[0].weight]}, {"params": [net[2].weight]}]
    saved = save(adapt(whole)["optimizer"])
    with pytest.raises(RunMismatchError) as caught:
        adapt({"model": net, "optimizer": torch.optim.Adam(groups)})["optimizer"].restore(saved.tree())
    assert "1 parameter group in the checkpoint, 2 here" in str(caught.value)
    assert "group 0, not in this optimizer: model.2.weight" in str(caught.value)


def test_another_shape_of_an_unnamed_parameter_is_named() -> None:
    saved = save(adapt({"optimizer": torch.optim.Adam([nn.Parameter(torch.ones(2, 3))])})["optimizer"])
    with pytest.raises(RunMismatchError, match=r"group0\.0 \(checkpoint \[2, 3\], here \[4\]\)"):
        adapt({"optimizer": torch.optim.Adam([nn.Parameter(torch.ones(4))])})["optimizer"].restore(saved.tree())


def test_a_group_that_the_loop_holds_stays_the_one_in_use() -> None:
    whole, resumed = pair(torch.optim.AdamW), pair(torch.optim.AdamW)
    whole["optimizer"].param_groups[0]["lr"] = 0.5
    held = resumed["optimizer"].param_groups[0]
    states = resumed["optimizer"].state
    transfer(whole, resumed)
    assert held is resumed["optimizer"].param_groups[0]
    assert held["lr"] == 0.5
    assert states is resumed["optimizer"].state


def test_a_function_in_a_group_is_refused_with_its_path() -> None:
    net = model()
    optimizer = torch.optim.SGD([{"params": list(net.parameters()), "fn": lambda: 0}], lr=0.1)
    with pytest.raises(StateError, match=r"object\.groups\.0\.fn: function cannot be stored"):
        save(adapt({"optimizer": optimizer})["optimizer"])


def test_accelerates_wrapper_is_peeled_off() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    net = model()
    inner = torch.optim.AdamW(net.parameters())
    prepared = accelerator.prepare(inner)
    assert prepared is not inner
    adapter = adapt({"model": net, "optimizer": prepared})["optimizer"]
    assert (adapter.kind, adapter.type) == ("optimizer", "torch.optim.adamw.AdamW")
    with pytest.raises(StateError, match="the same object as"):
        adapt({"a": inner, "b": prepared})
