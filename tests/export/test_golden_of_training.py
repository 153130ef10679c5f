"""A golden input that training gave: its outputs are those of the training process, and no other model passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from resumable import Run, Trainer
from resumable.errors import ConfigError, ExportError
from resumable.export import export
from tests.export.conftest import Trained
from tests.export.models import CASES, RESTLESS, SMALL, small, trained

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


# -- what proves nothing ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights became NaN in its second step, and that went on to its end."""
    run, model = tmp_path_factory.mktemp("diverged") / "run", small()
    config = {"run": str(run), "every": {"steps": 1, "minutes": None}, "keep": {"last": 9}}
    with Trainer(config, model=model) as trainer:
        trainer.golden(SMALL.batch())
        for step in trainer.steps(3):
            if step == 1:
                nn.init.constant_(model[2].weight, torch.nan)
    return run


@pytest.mark.parametrize("asked", [{}, {"format": "pt2", "model": SMALL.factory}, {"model": SMALL.factory}])
def test_what_a_diverged_model_gave_is_no_proof(diverged: Path, tmp_path: Path, asked: dict[str, str]) -> None:
    said = r"step-000000003\S+: no finite number among the 8 in the golden outputs"
    with pytest.raises(ExportError, match=said) as caught:
        export(str(diverged), tmp_path / "made", **asked)  # type: ignore[arg-type]
    assert "export an earlier checkpoint" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def test_the_checkpoints_from_before_a_model_diverged_are_exported(diverged: Path, tmp_path: Path) -> None:
    made = export(f"{diverged}@1", tmp_path / "made", format="pt2", model=SMALL.factory)
    assert made.proof.grade == "outputs-identical"


@pytest.mark.parametrize("format", ["pt2", "safetensors"])
@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (torch.full((4, 784), torch.nan), "no finite number among the 40 in the golden outputs"),
        (torch.zeros(0, 784), "no number at all in the golden outputs"),
    ],
)
def test_a_given_input_for_which_any_model_would_pass_is_refused(
    run: Trained, tmp_path: Path, batch: torch.Tensor, said: str, format: str
) -> None:
    with pytest.raises(ExportError, match=said) as caught:
        export(str(run.run), tmp_path / "made", format=format, model=CASE.factory, golden=batch)
    assert "pass another input" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def test_a_model_that_draws_in_eval_mode_is_told_that_this_may_be_why(tmp_path: Path) -> None:
    trained(tmp_path / "run", RESTLESS, golden=RESTLESS.batch())
    with pytest.raises(ExportError, match="builds another model than the one that was trained") as caught:
        export(str(tmp_path / "run"), tmp_path / "made", format="pt2", model=RESTLESS.factory)
    assert "draws random numbers in eval mode" in str(caught.value.hint)
