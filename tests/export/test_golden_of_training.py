"""A golden input that training gave: its outputs are those of the training process, and no other model passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from resumable import Run
from resumable.errors import ConfigError, ExportError
from resumable.export import export
from tests.export.conftest import Trained
from tests.export.models import CASES, trained

MODELS = "tests.export.models"
CASE = CASES["MLP"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("golden") / "run"
    return Trained(folder, CASE, trained(folder, CASE, golden=CASE.batch()))


def test_the_outputs_are_those_of_the_training_process_at_that_checkpoint(run: Trained, tmp_path: Path) -> None:
    made = export(f"{run.run}@1", tmp_path / "made", format="onnx", model=CASE.factory)
    known = made.proof.golden
    assert known is not None
    assert known.made_by == "trainer"
    trained_on = Run(str(run.run)).at(1).manifest.environment
    assert {key: known.environment[key] for key in trained_on} == trained_on
    live = Run(str(run.run)).at(1).tree("golden")
    found = load_file(made.folder / "golden.safetensors")
    assert found["input.0"].equal(CASE.batch())
    assert found["output.0"].equal(live["outputs"][0])
    with torch.no_grad():
        assert not found["output.0"].equal(run.model(CASE.batch()))  # that of the end
    assert made.proof.grade == "outputs-within-tolerance"


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_function_that_builds_an_impostor_is_found_out(run: Trained, tmp_path: Path, format: str) -> None:
    said = rf"{MODELS}:impostor builds another model than the one that was trained: .* differ by 0\.\d+"
    with pytest.raises(ExportError, match=said) as caught:
        export(str(run.run), tmp_path / "made", format=format, model=f"{MODELS}:impostor")
    assert "activations" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def test_an_impostor_is_found_out_whatever_other_input_is_given(run: Trained, tmp_path: Path) -> None:
    said = f"{MODELS}:impostor builds another model than the one that was trained"
    with pytest.raises(ExportError, match=said):
        export(str(run.run), tmp_path / "made", format="pt2", model=f"{MODELS}:impostor", golden=torch.zeros(2, 784))
    assert not list(tmp_path.iterdir())


def test_an_input_that_is_given_goes_before_that_of_training(run: Trained, tmp_path: Path) -> None:
    batch = CASE.batch()[:2] + 1
    made = export(str(run.run), tmp_path / "made", format="onnx", model=CASE.factory, golden=batch)
    assert made.proof.golden is not None
    assert (made.proof.golden.made_by, made.proof.golden.batch_size) == ("export", 2)
    assert load_file(made.folder / "golden.safetensors")["input.0"].equal(batch)


def test_weights_carry_the_golden_input_of_training_without_any_code(run: Trained, tmp_path: Path) -> None:
    made = export(str(run.run), tmp_path / "made")
    assert made.proof.grade == "weights-identical"
    assert made.proof.golden is not None
    assert (made.proof.golden.made_by, made.proof.difference) == ("trainer", None)
    with torch.no_grad():
        assert load_file(made.folder / "golden.safetensors")["output.0"].equal(run.model(CASE.batch()))


def test_weights_that_were_cast_have_no_golden_outputs_and_say_so(run: Trained, tmp_path: Path) -> None:
    made = export(str(run.run), tmp_path / "made", dtype="float16")
    assert made.proof.golden is None
    assert any("not cast" in note for note in made.proof.notes)


def test_a_golden_input_is_no_module(run: Trained, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ExportError), match="golden"):
        export(str(run.run), tmp_path / "made", object="golden")
