"""Weights in safetensors files together with the function that builds their model: outputs are compared too."""

from __future__ import annotations

from pathlib import Path

import pytest

from resumable.errors import ExportError, RunMismatchError
from resumable.export import Exported, export, verify
from tests.export.conftest import Train, Trained
from tests.export.models import CASES

MODELS = "tests.export.models"
TIED = CASES["transformer, tied head"]


@pytest.fixture(scope="module")
def made(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tied model in shards, whose outputs were compared."""
    to = tmp_path_factory.mktemp("with-code") / "made"
    run = str(train(TIED).run)
    return export(run, to, model=TIED.factory, golden=TIED.batch(), max_shard_bytes=20_000)


def test_the_model_that_the_function_builds_is_run_with_the_files_of_weights(made: Exported) -> None:
    proof = made.proof
    assert (proof.grade, proof.weights.identical) == ("weights-identical", True)
    assert proof.difference is not None
    assert proof.difference.absolute == 0.0
    assert proof.checked is not None
    assert str(proof.checked.runtime).startswith("torch ")


def test_it_is_run_again_where_it_serves(made: Exported) -> None:
    proof, measured = verify(made.folder, model=TIED.factory)
    assert proof == made.proof
    assert measured.outputs is not None
    assert measured.outputs.identical


def test_without_the_function_the_weights_alone_are_compared(made: Exported) -> None:
    _, measured = verify(made.folder)
    assert (measured.weights_identical, measured.outputs) == (True, None)


def test_a_function_that_builds_an_impostor_is_found_out_where_it_serves(train: Train, tmp_path: Path) -> None:
    case = CASES["MLP"]
    made = export(str(train(case).run), tmp_path / "made", model=case.factory, golden=case.batch())
    with pytest.raises(ExportError, match=r"outputs differ by 0\.\d+"):
        verify(made.folder, model=f"{MODELS}:impostor")


def test_a_function_that_builds_a_model_of_other_names_is_told(made: Exported) -> None:
    with pytest.raises(RunMismatchError):
        verify(made.folder, model=f"{MODELS}:mlp")


def test_an_extra_state_is_the_function_s_own_to_make(tmp_path: Path) -> None:
    from resumable import Trainer
    from tests.export.test_programs import Extra

    with Trainer({"run": str(tmp_path / "run")}, model=Extra()) as trainer:
        list(trainer.steps(1))
    model = "tests.export.test_programs:Extra"
    made = export(str(tmp_path / "run"), tmp_path / "made", model=model, golden=CASES["0-d tensors"].batch())
    assert made.proof.difference is not None
    assert made.proof.difference.absolute == 0.0


def test_a_check_that_is_killed_while_it_builds_the_model_publishes_nothing(small: Trained, tmp_path: Path) -> None:
    model = "tests.export.models:dies_in_the_check"
    with pytest.raises(ExportError, match="the check in a fresh process ended with -9"):
        export(str(small.run), tmp_path / "made", model=model, golden=small.case.batch())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["non-persistent buffer"])
def test_a_buffer_that_is_in_no_file_and_that_training_changed_is_found_by_the_outputs(
    train: Train, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    with pytest.raises(ExportError, match="outputs differ"):
        export(str(train(case).run), tmp_path / "made", model=case.factory, golden=case.batch())
    assert not list(tmp_path.iterdir())
