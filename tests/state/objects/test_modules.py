"""Modules through a save into fresh ones: weights, buffers, flags and memory formats, or a refusal that names all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resumable.errors import RunMismatchError, StateError
from resumable.state.objects.choose_adapter import adapt, differences, loadable_state
from tests.state.roundtrip import save, transfer


class Net(nn.Module):
    """Tied weights, an empty and a 0-d parameter, buffers of every kind, and a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.rand(()))
        self.none = nn.Parameter(torch.rand(0, 3))
        self.register_buffer("mask", torch.rand(3), persistent=False)
        self.register_buffer("cache", None, persistent=False)
        self.register_buffer("running", None)
        self.calls = 0

    def get_extra_state(self) -> Any:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]


def test_a_modules_keys_are_those_of_its_state_dict_and_tied_weights_stand_once() -> None:
    net = Net()
    saved = save(adapt({"model": net})["model"])
    tensors = {key for key, value in net.state_dict().items() if isinstance(value, Tensor)}
    assert saved.records.keys() == tensors | {"non_persistent_buffers.mask"}
    assert saved.records["head.weight"].alias == "embed.weight"


def test_everything_of_a_module_comes_back() -> None:
    whole, resumed = Net(), Net()
    whole.calls = 7
    whole.cache = torch.rand(2, 2)
    whole.running = torch.rand(3)
    whole.embed.weight.requires_grad_(False)
    whole.norm.eval()
    whole.norm(torch.rand(3, 4))
    transfer({"model": whole}, {"model": resumed})
    assert resumed.calls == 7
    assert resumed.embed.weight is resumed.head.weight
    assert not resumed.embed.weight.requires_grad
    assert (resumed.training, resumed.norm.training) == (True, False)
    for name in ("mask", "cache", "running"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name))


def test_a_buffer_that_a_warm_up_made_goes_away_again() -> None:
    whole, resumed = Net(), Net()
    resumed.cache, resumed.running = torch.rand(2), torch.rand(3)
    transfer({"model": whole}, {"model": resumed})
    assert resumed.cache is None
    assert resumed.running is None


def test_parameters_are_filled_in_place() -> None:
    whole, resumed = Net(), Net()
    before = {name: parameter.data_ptr() for name, parameter in resumed.named_parameters()}
    transfer({"model": whole}, {"model": resumed})
    assert before == {name: parameter.data_ptr() for name, parameter in resumed.named_parameters()}


def test_the_memory_format_comes_back() -> None:
    whole, resumed = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    whole.to(memory_format=torch.channels_last)
    parameter = resumed.weight
    transfer({"model": whole}, {"model": resumed})
    assert resumed.weight is parameter
    assert resumed.weight.is_contiguous(memory_format=torch.channels_last)
    transfer({"model": nn.Conv2d(3, 4, 3)}, {"model": resumed})
    assert resumed.weight.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_a_module_of_each_dtype_comes_back(dtype: torch.dtype) -> None:
    nets = [nn.Module(), nn.Module()]
    for net in nets:
        net.register_parameter("weight", nn.Parameter(torch.rand(3, 4).to(dtype)))
    transfer({"model": nets[0]}, {"model": nets[1]})


def test_an_averaged_model_keeps_its_own_prefix() -> None:
    def averaged() -> AveragedModel:
        return AveragedModel(nn.Linear(2, 2), multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)

    whole, resumed = averaged(), averaged()
    whole.update_parameters(nn.Linear(2, 2))
    transfer({"ema": whole}, {"ema": resumed})
    assert int(resumed.n_averaged) == 1
    assert "module.weight" in save(adapt({"ema": whole})["ema"]).records


def test_data_parallel_is_unwrapped_and_a_users_module_named_so_is_not() -> None:
    whole, resumed = nn.Linear(2, 2), nn.Linear(2, 2)
    transfer({"model": nn.DataParallel(whole)}, {"model": resumed})
    assert torch.equal(whole.weight, resumed.weight)
    assert save(adapt({"model": nn.ModuleDict({"module": whole})})["model"]).records.keys() == {
        "module.weight",
        "module.bias",
    }


def test_a_compiled_module_is_unwrapped() -> None:
    whole, resumed = nn.Linear(2, 2), nn.Linear(2, 2)
    transfer({"model": torch.compile(whole, backend="eager")}, {"model": resumed})
    assert torch.equal(whole.weight, resumed.weight)
    assert adapt({"model": torch.compile(whole, backend="eager")})["model"].type == "torch.nn.modules.linear.Linear"


def test_a_lazy_module_is_refused_until_it_has_shapes() -> None:
    with pytest.raises(StateError, match=r"state\.weight: UninitializedParameter") as caught:
        save(adapt({"model": nn.LazyLinear(3)})["model"])
    assert "one batch" in str(caught.value.hint)


def test_a_lazy_module_takes_the_shapes_of_the_checkpoint() -> None:
    whole, resumed = nn.LazyLinear(3), nn.LazyLinear(3)
    whole(torch.rand(2, 4))
    transfer({"model": whole}, {"model": resumed})
    assert torch.equal(whole.weight, resumed.weight)


def test_a_module_whose_hook_filters_its_state_comes_back() -> None:
    def frozen_left_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        state.pop(prefix + "bias")

    whole, resumed = nn.Linear(2, 2), nn.Linear(2, 2)
    for net in (whole, resumed):
        net.register_state_dict_post_hook(frozen_left_out)
    transfer({"model": whole}, {"model": resumed})
    assert torch.equal(whole.weight, resumed.weight)


def test_everything_that_does_not_fit_is_named_in_one_message_and_nothing_is_changed() -> None:
    whole = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 3), "c": nn.Linear(2, 2).double()})
    other = nn.ModuleDict({"b": nn.Linear(2, 4), "c": nn.Linear(2, 2), "d": nn.Linear(2, 2)})
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(RunMismatchError) as caught:
        transfer({"model": whole}, {"model": other})
    message = str(caught.value)
    assert "missing in the checkpoint: d.weight, d.bias" in message
    assert "not in this module: a.weight, a.bias" in message
    assert "another shape: b.weight (checkpoint (3, 2), here (4, 2))" in message
    assert "another dtype: c.weight (checkpoint torch.float64, here torch.float32)" in message
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


def test_weights_that_were_tied_and_are_no_longer_are_named() -> None:
    apart = Net()
    apart.head.weight = nn.Parameter(apart.head.weight.detach().clone())
    with pytest.raises(
        RunMismatchError, match=r"one tensor in the checkpoint, two here: embed\.weight and head\.weight"
    ):
        transfer({"model": Net()}, {"model": apart})


def test_a_submodule_more_or_less_is_named() -> None:
    with pytest.raises(RunMismatchError, match="modules missing in the checkpoint: 1"):
        transfer({"model": nn.Sequential(nn.Linear(1, 1))}, {"model": nn.Sequential(nn.Linear(1, 1), nn.Dropout())})


def test_what_changed_since_is_found_to_the_bit() -> None:
    net = Net()
    adapter = adapt({"model": net})["model"]
    saved = save(adapter)
    assert differences(adapter, saved.document, saved.records) == []
    with torch.no_grad():
        net.scale.copy_(-net.scale)
    net.norm.eval()
    assert differences(adapter, saved.document, saved.records) == [
        "model.state.scale: other values",
        "model.training.norm: stored true, here false",
    ]


def test_weights_are_a_state_dict_with_its_metadata() -> None:
    net = Net()
    state = loadable_state("module", save(adapt({"model": net})["model"]).tree())
    assert state._metadata == net.state_dict()._metadata
    assert list(state) == list(net.state_dict())
    assert torch.equal(state["scale"], net.scale)
