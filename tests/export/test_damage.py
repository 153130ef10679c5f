"""An artifact that was damaged, mixed up or doctored: `verify` says what and where, and never that all is well."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from resumable.errors import CheckpointError, CorruptCheckpointError, ExportError, NoCheckpointError
from resumable.export import export, verify
from resumable.export.formats.programs import ModelCall, write_program
from tests.export.conftest import Artifact, Train, exported_as
from tests.export.models import CASES, SMALL, Case, small
from tests.export.signing import accepted, rewritten
from tests.harness.client import PYTHON

FORMATS = ["safetensors", "pt2", "onnx"]
FILES = [
    ("safetensors", "model.safetensors"),
    ("safetensors", "proof.json"),
    *((format, name) for format in ("pt2", "onnx") for name in (f"model.{format}", "golden.safetensors", "proof.json")),
]

each_file = pytest.mark.parametrize(("format", "name"), FILES)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("format", FORMATS)
def test_a_copy_that_is_whole_is_proved(artifact: Artifact, format: str) -> None:
    proof, measured = verify(artifact(format))
    assert proof.grade is not None
    assert measured.weights_identical is {"safetensors": True, "pt2": True, "onnx": None}[format]


@each_file
def test_a_flipped_bit_is_found_in_the_file_that_has_it(artifact: Artifact, format: str, name: str) -> None:
    folder = artifact(format)
    size = (folder / name).stat().st_size
    for at in (0, size // 3, size // 2, size - 1):
        flip(folder / name, at)
        with pytest.raises(CorruptCheckpointError, match=name) as caught:
            verify(folder)
        assert str(folder) in caught.value.message
        assert "again" in str(caught.value.hint)
        flip(folder / name, at)


@each_file
def test_a_missing_file_is_named(artifact: Artifact, format: str, name: str) -> None:
    folder = artifact(format)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        verify(folder)


@each_file
def test_a_file_cut_short_is_told_with_its_sizes(artifact: Artifact, format: str, name: str) -> None:
    folder = artifact(format)
    size = (folder / name).stat().st_size
    with (folder / name).open("r+b") as file:
        file.truncate(size - 1)
    said = "cut short" if name == "proof.json" else f"{name}: {size - 1} bytes, expected {size}"
    with pytest.raises(CorruptCheckpointError, match=said):
        verify(folder)


@each_file
def test_bytes_behind_the_end_are_found(artifact: Artifact, format: str, name: str) -> None:
    folder = artifact(format)
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(CorruptCheckpointError, match=name):
        verify(folder)


@each_file
def test_a_folder_in_a_file_s_place_is_told(artifact: Artifact, format: str, name: str) -> None:
    folder = artifact(format)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises((CheckpointError, OSError), match=name):
        verify(folder)


@pytest.fixture(scope="module")
def retrained(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of the same model with other weights: the same names and shapes, other values. One has its proof."""
    other = train(Case(small, lambda: torch.full((4, 4), 0.5)))
    folder = tmp_path_factory.mktemp("retrained")
    exported_as(other, folder / "onnx", "onnx")
    (folder / "pt2").mkdir()
    write_program(other.model, ModelCall((other.case.batch(),), {}), folder / "pt2", format="pt2", batch="dynamic")
    return folder


def test_the_proof_of_another_export_is_not_taken_for_that_of_this_one(artifact: Artifact, retrained: Path) -> None:
    folder = artifact("onnx")
    shutil.copy(retrained / "onnx" / "proof.json", folder)
    said = r"bytes, expected|digest \w+, expected"
    with pytest.raises(CorruptCheckpointError, match=said) as caught:
        verify(folder)
    assert "copy the whole folder" in str(caught.value.hint)


def test_the_golden_file_of_another_export_is_found(artifact: Artifact, retrained: Path) -> None:
    folder = artifact("onnx")
    shutil.copy(retrained / "onnx" / "golden.safetensors", folder)
    with pytest.raises(CorruptCheckpointError, match=r"golden\.safetensors: digest"):
        verify(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_a_key_that_no_proof_has_is_refused_although_the_digest_fits(artifact: Artifact, format: str) -> None:
    folder = artifact(format)
    rewritten(folder, lambda document: document.update(approved=True))
    with pytest.raises(CorruptCheckpointError, match="approved: Extra inputs are not permitted") as caught:
        verify(folder)
    assert str(folder) in caught.value.message


# -- what only running it finds: every digest fits --------------------------------------------------------------------


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_program_of_other_weights_is_found_by_what_it_gives(artifact: Artifact, retrained: Path, format: str) -> None:
    folder = artifact(format)
    shutil.copy(retrained / format / f"model.{format}", folder)
    accepted(folder)
    said = {"pt2": "its weights are not those that were saved", "onnx": "outputs differ by .* 0.0001 is the tolerance"}
    with pytest.raises(ExportError, match=said[format]):
        verify(folder)


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_other_golden_outputs_are_told_with_how_far_they_are(artifact: Artifact, format: str) -> None:
    folder = artifact(format)
    tensors = load_file(folder / "golden.safetensors")
    tensors["output.0"] = tensors["output.0"] + 0.25
    save_file(tensors, folder / "golden.safetensors")
    accepted(folder)
    with pytest.raises(ExportError, match=r"outputs differ by 0\.25 \(.* of the largest\), 0\.0001 is the tolerance"):
        verify(folder)


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_golden_output_that_is_no_number_is_beyond_any_tolerance(artifact: Artifact, format: str) -> None:
    folder = artifact(format)
    tensors = load_file(folder / "golden.safetensors")
    tensors["output.0"][0, 0] = float("nan")
    save_file(tensors, folder / "golden.safetensors")
    accepted(folder)
    rewritten(folder, lambda document: document.update(tolerance={"absolute": 1e300}))
    with pytest.raises(ExportError, match="outputs differ by inf"):
        verify(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("output.0"),
        lambda tensors: tensors.update({"output.0": tensors["output.0"][:2].clone()}),
        lambda tensors: tensors.update({"input.0": tensors["input.0"].double()}),
        lambda tensors: tensors.update({"output.0": tensors["output.0"].half()}),
    ],
)
@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_golden_file_that_is_not_as_the_proof_says_is_damage(
    artifact: Artifact, format: str, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    folder = artifact(format)
    tensors = load_file(folder / "golden.safetensors")
    change(tensors)
    save_file(tensors, folder / "golden.safetensors")
    accepted(folder)
    with pytest.raises(CorruptCheckpointError, match=r"golden\.safetensors: .*put\.0"):
        verify(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors["0.weight"].add_(1),
        lambda tensors: tensors.pop("0.bias"),
        lambda tensors: tensors.update(more=torch.zeros(1)),
        lambda tensors: tensors.update({"0.bias": tensors["0.bias"].view(2, 4)}),
        lambda tensors: tensors.update({"0.bias": tensors["0.bias"].view(torch.int32)}),
    ],
)
def test_other_tensors_in_the_files_of_weights_are_found(
    artifact: Artifact, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    folder = artifact("safetensors")
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    accepted(folder)
    with pytest.raises(ExportError, match="its weights are not those that were saved"):
        verify(folder)


def test_a_file_of_weights_that_is_none_is_damage(artifact: Artifact) -> None:
    folder = artifact("safetensors")
    (folder / "model.safetensors").write_bytes(b"no safetensors")
    accepted(folder)
    with pytest.raises(CorruptCheckpointError, match=str(folder)):
        verify(folder)


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_program_that_is_none_is_told_by_its_runtime(artifact: Artifact, format: str) -> None:
    folder = artifact(format)
    (folder / f"model.{format}").write_bytes(b"no program")
    accepted(folder)
    with pytest.raises(ExportError, match=rf"model\.{format}: ") as caught:
        verify(folder)
    assert caught.value.hint


def test_what_a_killed_export_leaves_is_no_proved_model(artifact: Artifact) -> None:
    folder = artifact("onnx")
    rewritten(folder, lambda document: document.update(grade=None, difference=None, checked=None))
    with pytest.raises(ExportError, match="killed before it was proved"):
        verify(folder)


def test_a_folder_without_a_proof_is_no_exported_model(tmp_path: Path) -> None:
    with pytest.raises(NoCheckpointError, match=r"no proof\.json, so it is not an exported model") as caught:
        verify(tmp_path)
    assert "resumable export" in str(caught.value.hint)


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_golden_outputs_without_a_finite_number_prove_nothing(artifact: Artifact, format: str) -> None:
    folder = artifact(format)
    tensors = load_file(folder / "golden.safetensors")
    for key in ("input.0", "output.0"):
        tensors[key] = torch.full_like(tensors[key], torch.nan)
    save_file(tensors, folder / "golden.safetensors")
    accepted(folder)
    with pytest.raises(ExportError, match="no finite number among the 8 in the golden outputs") as caught:
        verify(folder)
    assert str(folder) in caught.value.message
    assert "export again" in str(caught.value.hint)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_golden_outputs_of_weights_that_prove_nothing_are_found_without_torch(
    train: Train, tmp_path: Path, dtype: torch.dtype
) -> None:
    case = CASES["MLP in bfloat16"] if dtype is torch.bfloat16 else SMALL
    folder = export(str(train(case).run), tmp_path / "made", model=case.factory, golden=case.batch()).folder
    tensors = load_file(folder / "golden.safetensors")
    tensors["output.0"] = torch.full_like(tensors["output.0"], torch.nan).to(dtype)
    save_file(tensors, folder / "golden.safetensors")
    accepted(folder)
    port = {"dtype": str(dtype).removeprefix("torch.")}
    rewritten(folder, lambda document: document["golden"]["outputs"][0].update(port))
    code = """if True:
        import sys
        from resumable.errors import ExportError
        from resumable.export import verify
        try:
            verify(sys.argv[1])
        except ExportError as error:
            print(error.message)
        print("torch" in sys.modules)
    """
    ended = subprocess.run([PYTHON, "-c", code, folder], capture_output=True, text=True, check=True)
    said, with_torch = ended.stdout.splitlines()
    assert "no finite number among the" in said
    assert with_torch == "False"
