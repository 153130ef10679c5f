"""Weights that are tied, and weights that stand in other objects of a run than its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resumable import NoCheckpointError, Run, RunMismatchError, load_weights
from tests.hugging import shards
from tests.nets import Average, Net, Tied, apart, assert_equal, body, copies, file, run

# -- ties -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["run", "file", "shards"])
def test_a_tied_model_comes_back_tied_from_what_holds_one_of_its_names(tmp_path: Path, place: str) -> None:
    made, net = Tied(1), Tied(2)
    if place == "run":
        path = run(tmp_path / "run", model=made)
    elif place == "file":
        path = str(tmp_path / "tied.safetensors")
        save_model(made, path)
    else:
        path = str(shards(tmp_path / "tied", {"head.weight": made.head.weight.detach()}))
    load_weights(net, path)
    assert net.head.weight is net.embed.weight
    assert torch.equal(net.embed.weight, made.embed.weight)


@pytest.mark.parametrize("place", ["run", "file", "shards"])
def test_what_was_tied_fills_both_of_a_model_that_does_not_tie(tmp_path: Path, place: str) -> None:
    made, net = Tied(1), apart(2)
    if place == "run":
        path = run(tmp_path / "run", model=made)
    elif place == "file":
        path = str(tmp_path / "tied.safetensors")
        save_model(made, path)
    else:
        state = {"embed.weight": made.embed.weight.detach()}
        path = str(shards(tmp_path / "tied", state, count=1, **{"head.weight": "embed.weight"}))
    load_weights(net, path)
    assert torch.equal(net.embed.weight, made.embed.weight)
    assert torch.equal(net.head.weight, made.embed.weight)
    assert net.head.weight is not net.embed.weight


@pytest.mark.parametrize("place", ["run", "file", "shards"])
def test_two_values_for_one_tied_tensor_are_refused(tmp_path: Path, place: str) -> None:
    made, net = apart(1), Tied(2)
    before = copies(net)
    paths = {
        "run": lambda: run(tmp_path / "run", model=made),
        "file": lambda: file(tmp_path / "a.safetensors", made.state_dict()),
        "shards": lambda: shards(tmp_path / "a", made.state_dict()),
    }
    path = paths[place]()
    with pytest.raises(RunMismatchError, match=r"one here: embed\.weight and head\.weight") as caught:
        load_weights(net, path, strict=False)
    assert "skip=['head.weight']" in str(caught.value.hint)
    assert_equal(net, before)
    load_weights(net, path, skip=["head.weight"])
    assert torch.equal(net.embed.weight, made.embed.weight)


def test_one_value_that_is_stored_twice_fills_a_tied_tensor(tmp_path: Path) -> None:
    made, net = apart(1), Tied(2)
    made.head.weight.data.copy_(made.embed.weight)
    load_weights(net, file(tmp_path / "a.safetensors", made.state_dict()))
    assert torch.equal(net.head.weight, made.embed.weight)


# -- other objects of a run -------------------------------------------------------------------------------------------


def test_an_average_of_torchs_comes_into_the_bare_model_and_into_an_average(tmp_path: Path) -> None:
    def averaged(net: nn.Module) -> AveragedModel:
        return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)

    made = averaged(Net(1))
    path = run(tmp_path / "run", model=Net(3), ema=made)
    net = Net(2)
    assert load_weights(net, path, name="ema").prefix == "module."
    assert_equal(net, Net(1).state_dict())
    whole = averaged(Net(2))
    assert load_weights(whole, path, name="ema").prefix == ""
    assert_equal(whole.module, Net(1).state_dict())
    load_weights(net, path)
    assert_equal(net, Net(3).state_dict())


def test_an_average_of_somebodys_own_is_found_in_its_dict(tmp_path: Path) -> None:
    average = Average(Net(1))
    path = run(tmp_path / "run", model=Net(3), ema=average)
    net = Net(2)
    with pytest.raises(RunMismatchError, match=r"missing in the checkpoint: body\.1\.num_batches_tracked"):
        load_weights(net, path, name="ema")
    loaded = load_weights(net, path, name="ema", strict=False)
    assert loaded.prefix == "shadow."
    assert loaded.missing == ("body.1.num_batches_tracked", "body.1.running_mean", "body.1.running_var")
    assert all(torch.equal(value, average.shadow[name]) for name, value in net.named_parameters())


def test_of_two_dicts_in_one_object_one_is_chosen_by_rename(tmp_path: Path) -> None:
    average = Average(nn.Linear(2, 2), spare=True)
    path = run(tmp_path / "run", ema=average)
    net = nn.Linear(2, 2)
    average.backup["weight"].zero_()
    with pytest.raises(RunMismatchError, match=r"2 times: as 'backup\.\*' and 'shadow\.\*'"):
        load_weights(net, path, name="ema")
    load_weights(net, path, name="ema", rename={"shadow.": ""})
    assert torch.equal(net.weight, average.shadow["weight"])


def test_an_object_that_does_not_fit_says_what_is_in_it(tmp_path: Path) -> None:
    class Numbered(Average):
        def state_dict(self) -> dict[str, Any]:
            return {"shadow_params": [*self.shadow.values()]}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.shadow = dict(zip(self.shadow, state["shadow_params"], strict=True))

    path = run(tmp_path / "run", ema=Numbered(nn.Linear(2, 2)), progress={"best": 1.0})
    with pytest.raises(RunMismatchError, match=r"not in this module: shadow_params\.0, shadow_params\.1"):
        load_weights(nn.Linear(2, 2), path, name="ema")
    with pytest.raises(RunMismatchError, match="progress: holds no tensors"):
        load_weights(nn.Linear(2, 2), path, name="progress")
    with pytest.raises(NoCheckpointError, match="no object 'emma'") as caught:
        load_weights(nn.Linear(2, 2), path, name="emma")
    assert "ema, progress" in str(caught.value.hint)


def test_a_checkpoint_loads_by_the_same_rules(tmp_path: Path) -> None:
    latest = Run(run(tmp_path / "run", model=Net(1))).latest()
    net = nn.ModuleDict({"trunk": body(2), "head": nn.Linear(4, 7)})
    loaded = latest.load_into(net, rename={"body.": "trunk."}, skip=["head.*"])
    assert loaded.skipped == ("head.bias", "head.weight")
    assert_equal(net["trunk"], Net(1).body.state_dict())
