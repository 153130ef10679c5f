"""What looks like a state and would not bring its object back is refused, and the advice leads to what does."""

from __future__ import annotations

import collections
import copy
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

import resumable
from resumable import Run, Trainer
from resumable.errors import StateError
from resumable.state.objects.choose_adapter import adapt
from tests.tiny import Crash

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "SGD with momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "Adam": torch.optim.Adam,
    "Adam with a tensor as its rate": lambda p: torch.optim.AdamW(p, torch.tensor(0.1)),
    "LBFGS": torch.optim.LBFGS,
}
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: schedulers.StepLR(o, 2),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda epoch: 0.9**epoch),
    "ReduceLROnPlateau": schedulers.ReduceLROnPlateau,
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=20),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, total_iters=2), schedulers.ExponentialLR(o, 0.9)], [2]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler([schedulers.ConstantLR(o)]),
}
WRAPPINGS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "itself": (lambda state: state, "x"),
    "in a dict": (lambda state: {"a": state}, "x.a"),
    "in a list": (lambda state: [1, state], "x.1"),
    "deep inside": (lambda state: {"best": [({"all": (0, state)},)]}, r"x.best.0.0.all.1"),
}


def trained(make: Callable[[Any], Any], *, steps: int) -> tuple[nn.Module, Any]:
    model = nn.Linear(2, 1)
    optimizer = make(model.parameters())

    def loss() -> Any:
        optimizer.zero_grad()
        result = model(torch.ones(1, 2)).square().mean()
        result.backward()
        return result

    for _ in range(steps):
        optimizer.step(loss)
    return model, optimizer


def refused(tree: Any, what: str, **others: Any) -> StateError:
    with pytest.raises(StateError, match=what) as caught:
        adapt({"x": tree, **others})
    return caught.value


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_dict_of_an_optimizer_is_refused(name: str, steps: int, wrapping: str) -> None:
    wrap, path = WRAPPINGS[wrapping]
    model, optimizer = trained(OPTIMIZERS[name], steps=steps)
    error = refused(
        wrap(optimizer.state_dict()), rf"^{path}\S*: this is the state_dict\(\) of an optimizer", model=model
    )
    assert "pass the optimizer itself under its own name: Trainer(..., " in str(error.hint)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_state_dict_of_a_scheduler_is_refused(name: str, wrapping: str) -> None:
    wrap, path = WRAPPINGS[wrapping]
    _, optimizer = trained(OPTIMIZERS["SGD"], steps=1)
    scheduler = SCHEDULERS[name](optimizer)
    refused(
        wrap(scheduler.state_dict()), rf"^{path}\S*: this is the state_dict\(\) of a scheduler", optimizer=optimizer
    )


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("given", [False, True])
def test_the_state_dict_of_a_module_is_refused(given: bool, wrapping: str) -> None:
    wrap, path = WRAPPINGS[wrapping]
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    others = {"model": model} if given else {}
    refused(wrap(model.state_dict()), rf"^{path}: this is the state_dict\(\) of a module", **others)
    refused(wrap(model[1].state_dict()), rf"^{path}: this is the state_dict\(\) of a module", **others)


def test_the_state_dict_of_a_scaler_is_refused() -> None:
    scaler = torch.amp.GradScaler("cpu")
    refused({"s": scaler.state_dict()}, r"^x.s: this is the state_dict\(\) of a scaler")


class Sampler:
    def __init__(self) -> None:
        self.weights = torch.ones(4)


def test_what_is_the_users_own_is_accepted() -> None:
    model, optimizer = trained(torch.optim.Adam, steps=2)
    scheduler = schedulers.StepLR(optimizer, 2)
    latents = {"z": torch.zeros(2, requires_grad=True), "p": nn.Parameter(torch.ones(2))}
    search = torch.optim.Adam(latents.values())
    own = {
        "best_state": copy.deepcopy(model.state_dict()),
        "cloned": {name: value.clone() for name, value in model.state_dict().items()},
        "best_optimizer": copy.deepcopy(optimizer.state_dict()),
        "best_schedule": copy.deepcopy(scheduler.state_dict()),
        "weights": Sampler().weights,
        "latents": latents,
        "rates": scheduler.base_lrs,
        "state": {"a": 1},
        "param_groups": [],
        "last_epoch": 3,
        "first": list(model.state_dict()),
        "search": {"state": {}, "param_groups": "none"},
    }
    adapt({"x": own, "model": model, "optimizer": optimizer, "scheduler": scheduler, "search": search})
    adapt({"x": [own["best_state"]]})


def test_a_copy_of_what_is_gone_is_accepted() -> None:
    adapt({"x": {"best": nn.Linear(2, 2).state_dict()}})


def train(run: Path, *, crash_at: int | None = None) -> list[float]:
    """A program that does as the hints say: the optimizers of a dict are each given by a name."""
    torch.manual_seed(1)
    model = nn.Linear(2, 1)
    optimizers = {"a": torch.optim.Adam(model.parameters(), 0.1)}
    with Trainer({"run": str(run), "every": {"steps": 1}, "progress": "never"}, model=model, **optimizers) as trainer:
        for step in trainer.steps(6):
            loss = model(torch.rand(4, 2)).square().mean()
            optimizers["a"].zero_grad()
            loss.backward()
            optimizers["a"].step()
            if step == crash_at:
                raise Crash
    return [value for parameter in model.parameters() for value in parameter.flatten().tolist()]


def test_what_the_hint_says_brings_the_state_back(tmp_path: Path) -> None:
    model, optimizer = trained(torch.optim.Adam, steps=0)
    hint = refused({"a": optimizer.state_dict()}, "state_dict", model=model).hint
    assert "under its own name: Trainer(..., " in str(hint)
    with pytest.raises(Crash):
        train(tmp_path / "run", crash_at=3)
    assert train(tmp_path / "run") == train(tmp_path / "whole")


def _unfit(container: Any, run: Path) -> StateError:
    """What the first save of a container says."""
    with Trainer({"run": str(run), "progress": "never"}, x=container) as trainer:
        with pytest.raises(StateError) as caught:
            next(trainer.steps(1))
        return caught.value


@dataclasses.dataclass
class Progress:
    best: float = 0.0


class Recent(collections.deque[int]):
    pass


class Table(dict[str, Any]):
    pass


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (torch.Generator(), "keep its .get_state()"),
        (np.random.RandomState(1), "keep its .get_state()"),
        (np.random.default_rng(1), "keep its .bit_generator.state"),
        (random.Random(1), "keep its .getstate()"),
        (nn.Linear(1, 1), "keep its .state_dict()"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_who_loads_by_himself_is_shown_what_to_keep(value: Any, hint: str, tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        resumable.save({"part": value}, tmp_path / "x.safetensors")
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (Recent([1]), "use a plain list in the loop itself"),
        (collections.defaultdict(lambda: 0), "make it of int, float, list, dict or set"),
        (Table(), "use a plain dict in the loop itself"),
        (Progress(), "pass it under a name of its own: Trainer(..., progress=attributes(...))"),
        (Path("a"), "keep str(path)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_hint_about_a_part_of_a_container_leads_to_a_dead_copy(value: Any, hint: str, tmp_path: Path) -> None:
    assert str(_unfit({"part": [value]}, tmp_path / "run").hint).startswith(hint)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("golden", "the input that is given to trainer.golden() is stored under this name"),
        ("gradients", "the gradients that wait for an optimizer are stored under this name"),
        ("group0", "it is reserved for parameters that belong to no registered module"),
        ("a b", "it is not a Python identifier, and becomes part of file and tensor names"),
        ("a" * 182, "it has 182 bytes, expected at most 181"),
    ],
)
def test_a_name_that_is_not_free_says_why(name: str, reason: str) -> None:
    with pytest.raises(StateError) as caught:
        adapt({name: {}})
    assert caught.value.message == f"{name}: cannot be the name of an object: {reason}"
    assert "Trainer(..., " in str(caught.value.hint)


def test_an_object_may_be_named_like_the_state_files(tmp_path: Path) -> None:
    values = {"scale": torch.arange(40.0), "seen": 0}
    with Trainer({"run": str(tmp_path / "run"), "progress": "never"}, state=values) as trainer:
        for _ in trainer.steps(2):
            values["seen"] += 1
            values["scale"] += 1
    again = {"scale": torch.zeros(40), "seen": 9}
    Trainer({"run": str(tmp_path / "run"), "progress": "never"}, state=again).restore()
    assert again["seen"] == 2
    assert torch.equal(again["scale"], torch.arange(2.0, 42.0))
    latest = Run(str(tmp_path / "run")).latest()
    latest.verify()
    assert {"state.safetensors", "state.rank00000.json"} <= latest.manifest.blobs.keys()


def test_the_longest_name_is_stored_with_tensors_of_both_kinds(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    with Trainer({"run": str(tmp_path / "run"), "progress": "never"}, **{"a" * 181: model}) as trainer:
        for _ in trainer.steps(1):
            pass
