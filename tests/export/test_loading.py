"""`load_weights` from the folder that an export made: every tensor is proved on its way into the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from resumable import Trainer, load_weights
from resumable.errors import CheckpointError, CorruptCheckpointError, FormatVersionError
from resumable.export import Exported, export
from tests.export.conftest import Artifact, Train, Trained
from tests.export.models import CASES
from tests.export.signing import accepted, rewritten

TIED = CASES["transformer, tied head"]


@pytest.fixture(scope="module")
def shards(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tied model in shards."""
    return export(str(train(TIED).run), tmp_path_factory.mktemp("shards") / "made", max_shard_bytes=20_000)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def refused(model: nn.Module, folder: Path | str, said: str) -> CheckpointError:
    with pytest.raises(CorruptCheckpointError, match=said) as caught:
        load_weights(model, folder)
    assert caught.value.hint
    return caught.value


def same(model: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# -- whole ------------------------------------------------------------------------------------------------------------


def test_one_file_and_shards_come_in_as_they_were(
    artifact: Artifact, small: Trained, shards: Exported, train: Train
) -> None:
    for folder, trained in ((artifact("safetensors"), small), (shards.folder, train(TIED))):
        model = trained.case.build()
        load_weights(model, folder)
        assert same(model, trained.model)


def test_a_dtype_that_files_lack_is_the_one_that_the_proof_names(tmp_path: Path) -> None:
    def wide() -> nn.Module:
        module = nn.Module()
        module.register_buffer("wave", torch.rand(3, dtype=torch.complex128))
        return module

    made = wide()
    with Trainer({"run": str(tmp_path / "run"), "progress": "never"}, model=made) as trainer:
        list(trainer.steps(1))
    export(str(tmp_path / "run"), tmp_path / "made")
    model = wide()
    load_weights(model, tmp_path / "made")
    assert same(model, made)


# -- damage -----------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_found_and_its_tensor_named(artifact: Artifact, small: Trained) -> None:
    folder = artifact("safetensors")
    path = folder / "model.safetensors"
    flip(path, path.stat().st_size - 1)
    last = list(load_file(path))
    error = refused(small.case.build(), folder, "digest differs")
    assert any(f"model.safetensors: tensor '{name}': digest differs" in error.message for name in last)


def test_a_flipped_bit_in_any_shard_is_found(shards: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shards.folder, tmp_path / "copy"))
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) > 1
    for path in files:
        flip(path, path.stat().st_size - 1)
        refused(TIED.build(), folder, r"tensor '\S+': digest differs")
        flip(path, path.stat().st_size - 1)


def test_a_flipped_bit_is_found_where_values_are_cast(artifact: Artifact, small: Trained) -> None:
    folder = artifact("safetensors")
    path = folder / "model.safetensors"
    flip(path, path.stat().st_size - 1)
    refused(small.case.build().double(), folder, "digest differs")


def test_a_flipped_bit_is_found_on_other_storage(artifact: Artifact, small: Trained) -> None:
    folder = artifact("safetensors")
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/loading/made", recursive=True)
    try:
        load_weights(small.case.build(), "memory://loading/made")
        data = bytearray(memory.cat("/loading/made/model.safetensors"))
        data[-1] ^= 1
        memory.pipe("/loading/made/model.safetensors", bytes(data))
        refused(small.case.build(), "memory://loading/made", "digest differs")
    finally:
        memory.rm("/loading", recursive=True)


def _renamed(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {("other" if key == name else key): value for key, value in state.items()}


def test_other_names_shapes_and_dtypes_than_the_proofs_are_refused(artifact: Artifact, small: Trained) -> None:
    folder = artifact("safetensors")
    path = folder / "model.safetensors"
    state = load_file(path)
    name = next(key for key, value in state.items() if value.ndim == 2)
    for other, said in (
        (_renamed(state, name), f"tensor '{name}': not in the file"),
        ({**state, "other": torch.ones(1)}, "tensor 'other': in a file, but not in the proof"),
        ({**state, name: state[name].view(torch.int32)}, f"tensor '{name}': the file holds I32.*expected float32"),
        ({**state, name: state[name].reshape(-1)}, rf"tensor '{name}': the file holds F32\[\d+\], expected float32"),
    ):
        save_file(other, path)
        accepted(folder)
        refused(small.case.build(), folder, said)


def test_a_tie_that_the_proof_does_not_know_is_refused(shards: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shards.folder, tmp_path / "copy"))
    (name, kept), *_ = shards.proof.weights.tied.items()
    rewritten(folder, lambda document: document["weights"].update(tied={}))
    refused(TIED.build(), folder, f"tensor '{name}': tied to '{kept}', expected None")


def test_weights_that_went_missing_are_told_from_a_folder_that_never_had_any(
    artifact: Artifact, small: Trained
) -> None:
    folder = artifact("safetensors")
    (folder / "model.safetensors").unlink()
    refused(small.case.build(), folder, "its proof.json describes weights, but neither model.safetensors nor")


def test_a_file_that_is_named_itself_is_believed(artifact: Artifact, small: Trained) -> None:
    folder = artifact("safetensors")
    (folder / "proof.json").write_text("{}")
    refused(small.case.build(), folder, "proof.json: cut short, or not of this format")
    assert load_weights(small.case.build(), folder / "model.safetensors").tensors


# -- the proof --------------------------------------------------------------------------------------------------------


def test_a_bit_that_is_flipped_in_the_proof_is_found(artifact: Artifact, small: Trained) -> None:
    folder = artifact("safetensors")
    for at in (0, 100, -1):
        flip(folder / "proof.json", at)
        error = refused(small.case.build(), folder, r"proof\.json: (cut short|its digest differs)")
        assert "golden.safetensors" not in str(error)
        flip(folder / "proof.json", at)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "gguf"}, r"proof\.json: format: "),
        ({"weights": {}}, r"proof\.json: weights\.cast_to: Field required"),
        ({"proof_version": 0}, r"proof\.json: proof_version: "),
        ({"weights": {"cast_to": None, "identical": True, "tied": {}, "tensors": {"a": 1}}}, r"weights\.tensors\.a"),
    ],
)
def test_a_proof_that_is_none_is_refused(artifact: Artifact, small: Trained, change: Any, said: str) -> None:
    folder = artifact("safetensors")
    rewritten(folder, lambda document: document.update(change))
    refused(small.case.build(), folder, said)


def test_a_proof_that_is_too_large_is_not_read(artifact: Artifact, small: Trained) -> None:
    folder = artifact("safetensors")
    with (folder / "proof.json").open("r+b") as file:
        file.truncate(32 * 2**20 + 1)
    refused(small.case.build(), folder, r"proof\.json: 33554433 bytes, more than the 33554432 allowed")


def test_a_proof_of_a_newer_version_says_so(artifact: Artifact, small: Trained) -> None:
    folder = artifact("safetensors")
    rewritten(folder, lambda document: document.update(proof_version=2, weights=None))
    with pytest.raises(FormatVersionError, match=r"proof\.json: version 2, expected at most 1") as caught:
        load_weights(small.case.build(), folder)
    assert "upgrade" in str(caught.value.hint)


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_program_holds_no_files_of_weights(artifact: Artifact, small: Trained, format: str) -> None:
    folder = artifact(format)
    with pytest.raises(CheckpointError) as caught:
        load_weights(small.case.build(), folder)
    assert caught.value.message == f"{folder}: an exported program ({format}), which has no files of weights"
    assert "--format safetensors" in str(caught.value.hint)
    assert "golden" not in str(caught.value)
    (folder / "proof.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        load_weights(small.case.build(), folder)
    assert "golden" not in str(caught.value.hint)
