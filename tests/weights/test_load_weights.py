"""Weights into a model: what is taken, what is refused, and what stays as it was."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resumable import CorruptCheckpointError, RunMismatchError, load_weights
from resumable.state.loading import into_model
from tests.harness.python import warm_python
from tests.hugging import shards
from tests.nets import Net, assert_equal, body, copies, file, run


@pytest.fixture(params=["run", "file", "shards"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The weights of `Net(1)` in each kind of place."""
    net = Net(1)
    if request.param == "run":
        return run(tmp_path / "run", model=net)
    if request.param == "file":
        return str(file(tmp_path / "net.safetensors", net.state_dict()))
    return str(shards(tmp_path / "net", net.state_dict()))


# -- what fits --------------------------------------------------------------------------------------------------------


def test_a_model_is_filled_in_place(saved: str) -> None:
    net = Net(2)
    before = [(parameter, parameter.data_ptr()) for parameter in net.parameters()]
    loaded = load_weights(net, saved)
    assert (loaded.missing, loaded.unexpected, loaded.skipped, loaded.another_shape) == ((), (), (), {})
    assert loaded.tensors == len(net.state_dict())
    assert_equal(net, Net(1).state_dict())
    after = [(parameter, parameter.data_ptr()) for parameter in net.parameters()]
    assert all(one is other and at == to for (one, at), (other, to) in zip(before, after, strict=True))


def test_optimizers_go_on_with_the_parameters_that_they_know(saved: str) -> None:
    net = Net(2)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    load_weights(net, saved)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    optimizer.step()
    assert torch.equal(net.head.weight, Net(1).head.weight - 1)


def test_dtype_and_memory_format_of_the_model_stay(saved: str) -> None:
    net = Net(2).to(torch.bfloat16)
    load_weights(net, saved)
    assert_equal(net, Net(1).to(torch.bfloat16).state_dict())
    wide = Net(2).double()
    load_weights(wide, saved)
    assert_equal(wide, Net(1).double().state_dict())


def test_channels_last_stays(tmp_path: Path) -> None:
    made = nn.Conv2d(3, 4, 3)
    net: nn.Module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    load_weights(net, file(tmp_path / "a.safetensors", made.state_dict()))
    assert net.weight.is_contiguous(memory_format=torch.channels_last)
    assert_equal(net, made.state_dict())


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e4m3fn", "bool", "int64", "complex64"])
def test_a_file_of_each_dtype_comes_in_with_its_bits(tmp_path: Path, name: str) -> None:
    def made() -> nn.Module:
        dtype = getattr(torch, name)
        module = nn.Module()
        module.register_buffer("value", (torch.rand(3, 5) * 4).to(dtype))
        module.register_buffer("scalar", torch.ones((), dtype=dtype))
        return module

    one, other = made(), made()
    load_weights(other, file(tmp_path / "a.safetensors", one.state_dict()))
    assert torch.equal(one.value.view(torch.uint8), other.value.view(torch.uint8))


def test_what_is_wrapped_here_is_unwrapped(saved: str) -> None:
    net = Net(2)
    load_weights(nn.DataParallel(torch.compile(net, backend="eager")), saved)
    assert_equal(net, Net(1).state_dict())


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_of_others_are_taken_away_and_the_log_says_so(
    tmp_path: Path, wrapper: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = {wrapper + name: value for name, value in Net(1).state_dict().items()}
    net = Net(2)
    with caplog.at_level(logging.INFO, "resumable"):
        loaded = load_weights(net, file(tmp_path / "a.safetensors", wrapped))
    assert loaded.prefix == wrapper
    assert_equal(net, Net(1).state_dict())
    assert caplog.messages == [f"LOADED  from={tmp_path}/a.safetensors tensors=9 prefix={wrapper}"]


def test_code_of_the_models_own_that_loads_gets_everything_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(into_model, "GROUP_BYTES", 1)

    class Doubling(nn.Linear):
        def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
            assert {"weight", "bias"} <= state.keys()
            super()._load_from_state_dict({key: 2 * value for key, value in state.items()}, prefix, *rest)

    made, net = nn.Linear(2, 2), Doubling(2, 2)
    load_weights(net, file(tmp_path / "a.safetensors", made.state_dict()))
    assert torch.equal(net.weight, 2 * made.weight)


def test_an_extra_state_comes_with_its_tensors_and_arrays(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"calls": self.calls, "seen": self.seen}

        def set_extra_state(self, state: Any) -> None:
            self.calls, self.seen = state["calls"], state["seen"]

    made, net = Counting(2, 2), Counting(2, 2)
    made.calls, made.seen, net.calls, net.seen = 7, torch.arange(3), 0, torch.zeros(3)
    path = run(tmp_path / "run", model=nn.ModuleDict({"old": made}))
    load_weights(nn.ModuleDict({"new": net}), path, rename={"old.": "new."})
    assert net.calls == 7
    assert torch.equal(net.seen, torch.arange(3))
    assert torch.equal(net.weight, made.weight)


def test_an_extra_state_that_is_a_tensor_has_whatever_shape_it_likes(tmp_path: Path) -> None:
    class Remembering(nn.Linear):
        seen = torch.zeros(0)

        def get_extra_state(self) -> Any:
            return self.seen

        def set_extra_state(self, state: Any) -> None:
            self.seen = state

    made, net = Remembering(2, 2), Remembering(2, 2)
    made.seen = torch.arange(3)
    load_weights(net, run(tmp_path / "run", model=made))
    assert torch.equal(net.seen, torch.arange(3))


def test_a_lazy_model_takes_the_shapes_that_are_stored(tmp_path: Path) -> None:
    made, net = nn.Linear(2, 3), nn.LazyLinear(3)
    load_weights(net, file(tmp_path / "a.safetensors", made.state_dict()))
    assert_equal(net, made.state_dict())


# -- what does not ----------------------------------------------------------------------------------------------------


def test_everything_that_does_not_fit_is_in_one_message_and_nothing_was_changed(saved: str) -> None:
    net = Net(2, classes=7)
    net.more = nn.Linear(1, 1)
    del net.body[0].bias
    before = copies(net)
    with pytest.raises(RunMismatchError) as caught:
        load_weights(net, saved)
    message = caught.value.message
    assert "head.weight (checkpoint (2, 4), here (7, 4))" in message
    assert "head.bias (checkpoint (2,), here (7,))" in message
    assert "missing in the checkpoint: more.bias, more.weight" in message
    assert "not in this module: body.0.bias" in message
    assert "strict=False" in str(caught.value.hint)
    assert_equal(net, before)


def test_every_other_shape_is_listed(tmp_path: Path) -> None:
    def many(size: int) -> nn.ParameterList:
        return nn.ParameterList([torch.rand(size) for _ in range(40)])

    with pytest.raises(RunMismatchError) as caught:
        load_weights(many(2), file(tmp_path / "a.safetensors", many(3).state_dict()))
    assert caught.value.message.count("(checkpoint (3,), here (2,))") == 40


def test_what_fits_is_taken_and_the_rest_is_returned_and_logged(saved: str, caplog: pytest.LogCaptureFixture) -> None:
    net = Net(2, classes=7)
    net.more = nn.Linear(1, 1)
    del net.body[0].bias
    before = copies(net)
    with caplog.at_level(logging.INFO, "resumable"):
        loaded = load_weights(net, saved, strict=False)
    assert loaded.missing == ("more.bias", "more.weight")
    assert loaded.unexpected == ("body.0.bias",)
    assert loaded.another_shape == {"head.weight": ((2, 4), (7, 4)), "head.bias": ((2,), (7,))}
    assert loaded.tensors == 6
    assert torch.equal(net.body[0].weight, Net(1).body[0].weight)
    assert torch.equal(net.head.weight, before["head.weight"])
    line = caplog.messages[-1]
    assert line.startswith("LOADED  from=")
    assert "tensors=6 missing=more.bias,more.weight unexpected=body.0.bias" in line
    assert "another_shape=" in line


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"weight": (2, 2)}, "missing=bias"),
        ({"weight": (2, 2), "bias": (2,), "more": (1,)}, "unexpected=more"),
        ({"weight": (2, 2), "bias": (3,)}, "another_shape=bias"),
        ({"module.weight": (2, 2), "module.bias": (2,)}, None),
    ],
)
def test_a_script_without_logging_of_its_own_is_shown_what_does_not_fit_and_nothing_else(
    tmp_path: Path, stored: dict[str, tuple[int, ...]], said: str | None
) -> None:
    file(tmp_path / "a.safetensors", {name: torch.ones(shape) for name, shape in stored.items()})
    script = "import sys, resumable, torch\nresumable.load_weights(torch.nn.Linear(2, 2), sys.argv[1], strict=False)"
    command = [warm_python(), "-c", script, str(tmp_path / "a.safetensors")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert ended.stdout == ""
    assert [line.partition(" ")[0] for line in ended.stderr.splitlines()] == (["LOADED"] if said else [])
    assert (said or "") in ended.stderr


def test_a_model_of_which_nothing_fits_is_refused_also_where_not_strict(saved: str) -> None:
    with pytest.raises(RunMismatchError, match=r"missing in the checkpoint: 0\.bias, 0\.weight") as caught:
        load_weights(nn.Sequential(nn.Linear(3, 4)), saved, strict=False)
    assert "check the model and the object" in str(caught.value.hint)


def test_a_prefix_that_is_no_wrapper_is_suggested_and_not_taken_away(tmp_path: Path) -> None:
    path = file(tmp_path / "a.safetensors", {f"model.{name}": value for name, value in Net(1).state_dict().items()})
    net = Net(2)
    with pytest.raises(RunMismatchError) as caught:
        load_weights(net, path)
    assert caught.value.hint == "rename={'model.': ''} would make 9 of 9 fit"
    load_weights(net, path, rename={"model.": ""})
    assert_equal(net, Net(1).state_dict())


def test_a_head_is_swapped(saved: str) -> None:
    net = Net(2, classes=7)
    before = copies(net)
    loaded = load_weights(net, saved, skip=["head.*"])
    assert loaded.skipped == ("head.bias", "head.weight")
    assert_equal(net, {**Net(1).state_dict(), "head.weight": before["head.weight"], "head.bias": before["head.bias"]})


def test_names_are_mapped(saved: str) -> None:
    net = nn.ModuleDict({"trunk": body(2), "head": nn.Linear(4, 2)})
    load_weights(net, saved, rename={"body.": "trunk."})
    assert_equal(net["trunk"], Net(1).body.state_dict())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rename": {"bdoy.": "trunk."}}, r"no stored key begins with 'bdoy\.'"),
        ({"skip": ["haed.*"]}, r"'haed\.\*' matches no name"),
        ({"rename": {"body.0.": "body.1."}}, r"both become 'body\.1\.(weight|bias)'"),
    ],
)
def test_slips_of_the_pen_are_refused(saved: str, asked: Any, message: str) -> None:
    net = Net(2)
    before = copies(net)
    with pytest.raises(RunMismatchError, match=message):
        load_weights(net, saved, strict=False, **asked)
    assert_equal(net, before)


def test_a_model_without_memory_is_refused(saved: str) -> None:
    with torch.device("meta"):
        net = Net(2)
    with pytest.raises(RunMismatchError, match=r"on the meta device: .*body\.0\.weight") as caught:
        load_weights(net, saved)
    assert "to_empty" in str(caught.value.hint)
    net.to_empty(device="cpu")
    load_weights(net, saved)
    assert_equal(net, Net(1).state_dict())


# -- how it is read ---------------------------------------------------------------------------------------------------


def test_only_what_is_taken_is_read_of_a_run(tmp_path: Path) -> None:
    path = run(tmp_path / "run", model=Net(1))
    [blob] = (tmp_path / "run").glob("checkpoints/step-000000001*/model.safetensors")
    data = blob.read_bytes()
    spoiled = data.replace(Net(1).head.weight.detach().numpy().tobytes(), bytes(32))
    assert spoiled != data
    blob.write_bytes(spoiled)
    load_weights(Net(2, classes=7), path, skip=["head.*"])
    with pytest.raises(CorruptCheckpointError, match=r"tensor 'head\.weight': digest differs"):
        load_weights(Net(2), path)


def test_what_is_cast_is_read_in_groups_and_the_rest_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(into_model, "GROUP_BYTES", 100)
    made = nn.ParameterList([torch.rand(10) for _ in range(40)])
    net = nn.ParameterList([torch.rand(10, dtype=torch.float64 if number % 2 else None) for number in range(40)])
    for path in (run(tmp_path / "run", model=made), shards(tmp_path / "shards", made.state_dict())):
        for parameter in net:
            parameter.data.zero_()
        load_weights(net, path)
        assert all(torch.equal(one, other.to(one.dtype)) for one, other in zip(net, made, strict=True))


MEASURED = """
import pathlib, re, sys, torch
from torch import nn
from resumable import load_weights
from resumable.state.loading import into_model

def peak_kib():
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

into_model.GROUP_BYTES = 16 * 2**20
dtype = getattr(torch, sys.argv[2])
load_weights(nn.ParameterList([torch.ones(1, dtype=dtype)]), sys.argv[3])  # so that everything is imported
net = nn.ParameterList([torch.ones(2**21, dtype=dtype) for _ in range(24)])
before = peak_kib()
load_weights(net, sys.argv[1])
print((peak_kib() - before) // 1024)
assert float(net[23][5].detach()) == 0.5
"""


@pytest.mark.parametrize(("place", "dtype", "most_mib"), [("run", "float32", 8), ("file", "bfloat16", 48)])
def test_little_is_in_memory_beside_the_model(tmp_path: Path, place: str, dtype: str, most_mib: int) -> None:
    made = nn.ParameterList([torch.full((2**21,), 0.5) for _ in range(24)])  # 192 MiB
    small = file(tmp_path / "small.safetensors", {"0": torch.ones(1)})
    if place == "run":
        path = run(tmp_path / "run", model=made)
    else:
        path = str(file(tmp_path / "a.safetensors", made.state_dict()))
    command = [sys.executable, "-c", MEASURED, path, dtype, str(small)]
    plain = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is freed is gone at once
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, env=plain)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < most_mib, f"{ended.stdout.strip()} MiB more"
