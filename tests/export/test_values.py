"""The values of a checkpoint: each reaches the artifact, whatever it shares memory with, or the export is refused."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from resumable import RunMismatchError, Trainer
from resumable.errors import ExportError
from resumable.export import export
from tests.export.models import SMALL

HERE = "tests.export.test_values"


def trained(run: Path, **models: nn.Module) -> str:
    with Trainer({"run": str(run)}, **models) as trainer:
        list(trainer.steps(1))
    return str(run)


class Mirror(nn.Module):
    """Its extra state is its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result

    def get_extra_state(self) -> Any:
        return {"seen": self.layer.weight.detach()}

    def set_extra_state(self, state: Any) -> None:
        pass


def test_a_weight_that_an_extra_state_shares_is_among_the_weights(tmp_path: Path) -> None:
    model = Mirror()
    made = export(trained(tmp_path / "run", model=model), tmp_path / "made")
    assert load_file(made.folder / "model.safetensors").keys() == {"layer.weight", "layer.bias"}
    assert load_file(made.folder / "model.safetensors")["layer.weight"].equal(model.layer.weight)
    assert made.proof.weights.tied == {}


class Masked(nn.Module):
    """A buffer that no `state_dict` has: made empty, and filled, widened or left out by training."""

    def __init__(self, mask: Tensor | None = None) -> None:
        super().__init__()
        self.mask: Tensor | None
        self.register_buffer("mask", mask, persistent=False)
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result if self.mask is None else result * self.mask.sum()


def zero() -> nn.Module:
    return Masked(torch.zeros(2))


def test_the_hidden_buffers_of_an_average_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    average = AveragedModel(Masked(torch.full((2,), 3.0)))
    run = trained(tmp_path / "run", model=SMALL.build(), ema=average)
    asked = {"format": "pt2", "object": "ema", "model": f"{HERE}:zero", "golden": SMALL.batch()}
    made = export(run, tmp_path / "made", **asked)
    with torch.no_grad():
        assert load_file(made.folder / "golden.safetensors")["output.0"].equal(average.eval()(SMALL.batch()))


@pytest.mark.parametrize("build", ["Masked", "zero"])
def test_a_hidden_buffer_that_training_made_or_widened_is_exported(tmp_path: Path, build: str) -> None:
    model = Masked(torch.ones(5))
    asked = {"format": "pt2", "model": f"{HERE}:{build}", "golden": SMALL.batch()}
    made = export(trained(tmp_path / "run", model=model), tmp_path / "made", **asked)
    with torch.no_grad():
        assert load_file(made.folder / "golden.safetensors")["output.0"].equal(model.eval()(SMALL.batch()))


def test_a_head_that_is_tied_where_it_was_not_is_told(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", model=Twice())
    asked = {"format": "onnx", "model": f"{HERE}:once", "golden": SMALL.batch()}
    with pytest.raises(RunMismatchError, match=r"two tensors in the checkpoint, one here: one\.weight and two\.weight"):
        export(run, tmp_path / "made", **asked)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.two(self.one(x))
        return result


def once() -> nn.Module:
    model = Twice()
    model.two.weight = model.one.weight
    return model


def murmurs() -> nn.Module:
    """Says half a line on stdout, beside Python's own way, and goes on until the interpreter ends."""
    os.write(1, b"building")
    if "pytest" not in sys.modules:
        atexit.register(print, "ending", flush=True)
    return SMALL.build()


def test_what_a_model_says_is_no_part_of_what_the_check_found(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", model=SMALL.build())
    made = export(run, tmp_path / "made", model=f"{HERE}:murmurs", golden=SMALL.batch())
    assert made.proof.difference is not None


class Halves(nn.Module):
    """Gives bfloat16, which NumPy lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result.bfloat16()


def test_what_the_check_found_is_told_of_the_folder_that_was_asked_for(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", model=Halves())
    with pytest.raises(ExportError, match="bfloat16") as caught:
        export(run, tmp_path / "made", format="onnx", model=f"{HERE}:Halves", golden=SMALL.batch())
    assert str(caught.value).startswith(str(tmp_path / "made" / "model.onnx"))


class Renamed(nn.Module):
    """Its weights have names of their own in a `state_dict`, as those of some libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self._register_state_dict_hook(_renamed)
        self.register_load_state_dict_pre_hook(_named_back)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


def _renamed(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    state["w"] = state.pop("layer.weight")


def _named_back(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    state["layer.weight"] = state.pop("w")


def test_of_weights_that_a_program_calls_otherwise_nothing_is_said(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", model=Renamed())
    made = export(run, tmp_path / "made", format="pt2", model=f"{HERE}:Renamed", golden=SMALL.batch())
    assert made.proof.grade == "outputs-identical"
    assert made.proof.weights.identical is None
