"""Restoring in place: what is read and how often, whose code takes part, and what a changed file leads to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resumable import CorruptCheckpointError, Run, RunMismatchError, StateError, Trainer
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.state.objects import round_trip
from resumable.store.storage.local import LocalStorage

Objects = dict[str, Any]


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(8, 40), nn.BatchNorm1d(40), nn.Linear(40, 8))
    made[2].requires_grad_(False)
    return made


def stepped(module: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([each for each in module.parameters() if each.requires_grad], lr=0.1)
    for parameter in module.parameters():
        parameter.grad = torch.rand_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def objects(module: nn.Module | None = None) -> Objects:
    module = module or model()
    return {"model": module, "optimizer": stepped(module)}


def config(run: Path) -> Config:
    return Config.load({"run": str(run), "data_seed": 1, "signals": [], "progress": "never"})


@pytest.fixture
def opened() -> Iterator[Callable[[Path, Objects], Checkpointer]]:
    made: list[Checkpointer] = []

    def opening(run: Path, given: Objects) -> Checkpointer:
        made.append(Checkpointer(config(run), given))
        return made[-1]

    yield opening
    for checkpointer in made:
        checkpointer.close()


def saved(run: Path, given: Objects) -> None:
    checkpointer = Checkpointer(config(run), given)
    checkpointer.save(Position(), reason="test")
    checkpointer.drain()
    checkpointer.close()


def values(given: Objects) -> dict[str, Tensor]:
    moments = {
        f"{key}.{name}": t for key, s in given["optimizer"].state_dict()["state"].items() for name, t in s.items()
    }
    return {**given["model"].state_dict(keep_vars=True), **moments}


def copies(given: Objects) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in values(given).items()}


def assert_same(given: Objects, wanted: dict[str, Tensor]) -> None:
    found = values(given)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


class Reads:
    """Every read of a blob of tensors, by its file and its bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes: dict[str, int] = {}
        original = LocalStorage.read_into

        def read_into(storage: LocalStorage, path: str, buffer: memoryview, **how: Any) -> int:
            name = path.rpartition("/")[2]
            self.bytes[name] = self.bytes.get(name, 0) + len(buffer)
            return original(storage, path, buffer, **how)

        monkeypatch.setattr(LocalStorage, "read_into", read_into)

    def taken(self) -> dict[str, int]:
        """Since it was last asked, of blobs of tensors."""
        found, self.bytes = self.bytes, {}
        return {name: count for name, count in found.items() if name.endswith(".safetensors")}


def test_objects_are_filled_where_they_are_and_nothing_is_digested_twice(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = objects(), objects()
    saved(tmp_path, source)
    before = {key: value.data_ptr() for key, value in values(target).items()}
    checkpointer = opened(tmp_path, target)
    reads, digested = Reads(monkeypatch), list[str]()
    original = round_trip.tensor_digests
    monkeypatch.setattr(
        round_trip, "tensor_digests", lambda tensors, records: digested.extend(tensors) or original(tensors, records)
    )
    checkpointer.restore()
    assert_same(target, copies(source))
    steps = {key for key in before if key.endswith(".step")}  # these stand in the document, and are made from it
    assert {
        key: value.data_ptr() for key, value in values(target).items() if key not in steps
    }.items() <= before.items()
    sizes = {name: blob.size for name, blob in checkpointer.resumed.manifest.blobs.items() if "json" not in name}
    heads = {name: min(size, 2**16) for name, size in sizes.items()}
    taken = reads.taken()
    assert all(taken[name] <= sizes[name] + heads[name] for name in sizes)
    assert len(steps) == len(digested) > 0  # what was read is proved as it is read
    digested.clear()
    checkpointer.restore()
    assert reads.taken() == {}
    assert len(digested) == len(values(source))  # a second restore compares


def test_a_second_restore_reads_only_what_differs(tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"model": nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300, bias=False))}
    saved(tmp_path, source)
    target = {"model": nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300, bias=False))}
    checkpointer = opened(tmp_path, target)
    checkpointer.restore()
    reads = Reads(monkeypatch)
    with torch.no_grad():
        target["model"][0].bias.add_(1)
    checkpointer.restore()
    assert torch.equal(target["model"][0].bias, source["model"][0].bias)
    assert reads.taken()["model.safetensors"] <= 2**16 + 300 * 4


def test_a_fresh_optimizer_gets_its_state_and_the_groups_stay_the_users(tmp_path: Path, opened: Any) -> None:
    source = objects()
    saved(tmp_path, source)
    target = {"model": (module := model())}
    optimizer = torch.optim.AdamW([each for each in module.parameters() if each.requires_grad], lr=0.5)
    target["optimizer"], group = optimizer, optimizer.param_groups[0]
    opened(tmp_path, target).restore()
    assert_same(target, copies(source))
    assert optimizer.param_groups[0] is group
    assert group["lr"] == 0.1


class Doubling(nn.Linear):
    """A module whose own loading does what torch's does not: it keeps what it is given, and may change it."""

    factor = 1.0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        self.given = state_dict[prefix + "weight"]
        super()._load_from_state_dict(state_dict, prefix, *rest)
        with torch.no_grad():
            self.weight.mul_(self.factor)


def test_code_of_the_user_takes_part_and_gets_tensors_of_its_own(tmp_path: Path, opened: Any) -> None:
    source, target = objects(Doubling(8, 8)), objects(Doubling(8, 8))
    saved(tmp_path, source)
    opened(tmp_path, target).restore()
    assert_same(target, copies(source))
    given = target["model"].given
    assert given.data_ptr() != target["model"].weight.data_ptr()
    assert not given.requires_grad


def test_code_of_the_user_that_changes_what_it_loads_is_found_out(tmp_path: Path, opened: Any) -> None:
    source, target = objects(Doubling(8, 8)), objects(Doubling(8, 8))
    saved(tmp_path, source)
    target["model"].factor = 2.0
    with pytest.raises(
        StateError, match=r"model \(.*Doubling\) differs from what was saved: model.state.weight: other"
    ):
        opened(tmp_path, target).restore()


@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_a_hook_that_changes_what_was_loaded_is_found_out(tmp_path: Path, opened: Any, name: str) -> None:
    source, target = objects(), objects()
    saved(tmp_path, source)

    def change(*_: Any) -> None:
        values(target)["2.weight" if name == "model" else "0.exp_avg"].data.mul_(2)

    target[name].register_load_state_dict_post_hook(change)
    with pytest.raises(StateError, match=rf"{name} \(.*\) differs from what was saved: .*: other values"):
        opened(tmp_path, target).restore()


@pytest.mark.parametrize("kind", ["pre hook", "post hook", "hook of a state_dict", "method of the instance"])
def test_hooks_are_called_as_torch_calls_them(tmp_path: Path, opened: Any, kind: str) -> None:
    source, target = objects(), objects()
    saved(tmp_path, source)
    called: list[str] = []
    layer = target["model"][2]
    if kind == "pre hook":
        layer.register_load_state_dict_pre_hook(lambda *_: called.append(kind))
    elif kind == "post hook":
        layer.register_load_state_dict_post_hook(lambda *_: called.append(kind))
    elif kind == "hook of a state_dict":
        layer.register_state_dict_post_hook(lambda *_: called.append(kind))
    else:
        load = target["model"].load_state_dict
        target["model"].load_state_dict = lambda *a, **k: called.append(kind) or load(*a, **k)
    opened(tmp_path, target).restore()
    assert called
    assert_same(target, copies(source))


def test_what_changes_between_verification_and_filling_is_an_error_that_names_it(tmp_path: Path, opened: Any) -> None:
    saved(tmp_path, objects())
    checkpointer = opened(tmp_path, objects())
    path = tmp_path / checkpointer.resumed.manifest.blobs["optimizer.safetensors"].path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match=r"optimizer\.safetensors: tensor 'model\..*': digest differs"):
        checkpointer.restore()


# -- weights only -----------------------------------------------------------------------------------------------------


def test_weights_are_read_straight_into_a_model_and_nothing_else_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = objects(), model()
    saved(tmp_path, source)
    before = [parameter.data_ptr() for parameter in target.parameters()]
    latest = Run(str(tmp_path)).latest()
    reads = Reads(monkeypatch)
    loaded = latest.load_into(target)
    assert (loaded.missing, loaded.unexpected) == ((), ())
    assert reads.taken().keys() == set(latest.blobs_of("model"))
    assert [parameter.data_ptr() for parameter in target.parameters()] == before
    assert all(torch.equal(value, source["model"].state_dict()[key]) for key, value in target.state_dict().items())


def test_a_model_that_does_not_fit_is_not_touched(tmp_path: Path) -> None:
    saved(tmp_path, objects())
    target = nn.Sequential(nn.Linear(8, 40), nn.BatchNorm1d(40), nn.Linear(40, 9))
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(RunMismatchError, match=r"another shape: 2\.weight"):
        Run(str(tmp_path)).latest().load_into(target)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_two_weights_do_not_come_into_a_model_that_ties_them(tmp_path: Path) -> None:
    def pair() -> nn.ModuleDict:
        return nn.ModuleDict({"a": nn.Linear(300, 300, bias=False), "b": nn.Linear(300, 300, bias=False)})

    apart, tied = pair(), pair()
    tied["b"].weight = tied["a"].weight
    before = tied["a"].weight.clone()
    with Trainer({"run": str(tmp_path)}, model=apart) as trainer:
        for _ in trainer.steps(1):
            pass
    latest = Run(str(tmp_path)).latest()
    with pytest.raises(RunMismatchError, match=r"two tensors in the checkpoint, one here: a\.weight and b\.weight"):
        latest.load_into(tied)
    assert torch.equal(tied["a"].weight, before)
    latest.load_into(tied, skip=["b.*"])
    assert torch.equal(tied["a"].weight, apart["a"].weight)
