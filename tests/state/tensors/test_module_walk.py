"""The walk yields what torch's own yields: names, order and duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

from resumable.state.tensors.module_walk import holds_gradient, named_modules, named_parameters


class Renaming(nn.Linear):
    """A module with a walk of its own."""

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:  # type: ignore[override]
        for name, module in super().named_modules(*args, **kwargs):
            yield f"{name}!", module


def _tied() -> nn.Module:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Sequential(nn.ReLU(), nn.Linear(2, 2, bias=False))})
    model["again"] = model["a"]
    model["b"][1].weight = model["a"].weight
    model.register_module("none", None)
    return model


MODELS = {
    "one": nn.Linear(2, 2),
    "nested and tied": _tied(),
    "a walk of its own": nn.Sequential(nn.ReLU(), Renaming(2, 2), nn.Sequential(Renaming(2, 2))),
    "deep": nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, enable_nested_tensor=False),
}


@pytest.mark.parametrize("remove_duplicate", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_it_yields_what_torch_yields(name: str, remove_duplicate: bool) -> None:
    model = MODELS[name]
    modules = list(model.named_modules(remove_duplicate=remove_duplicate))
    parameters = list(model.named_parameters(remove_duplicate=remove_duplicate))
    assert named_modules(model, remove_duplicate=remove_duplicate) == modules
    found = list(named_parameters(model, remove_duplicate=remove_duplicate))
    assert [(name, id(each)) for name, each in found] == [(name, id(each)) for name, each in parameters]


def test_a_gradient_is_found_wherever_it_is() -> None:
    model = _tied()
    assert not holds_gradient(model)
    model["b"][1].weight.sum().backward()
    assert holds_gradient(model)
