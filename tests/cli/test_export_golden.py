"""`resumable export --golden FILE`: the known input comes from a file, of ours or of anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from resumable import save
from tests.cli.conftest import Cli
from tests.export.models import CASES, SMALL, Case, trained

SEVERAL = CASES["dict and tuple outputs"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for case in (SMALL, SEVERAL):
        trained(folder / case.build.__name__, case)
    return folder


def exported(cli: Cli, runs: Path, case: Case, golden: Path, to: Path, *more: object) -> Any:
    run = runs / case.build.__name__
    return cli("export", run, "--to", to, "--format", "onnx", "--model", case.factory, "--golden", golden, *more)


def test_a_tensor_that_was_saved_is_the_input(cli: Cli, runs: Path, tmp_path: Path) -> None:
    save(SMALL.batch(), tmp_path / "batch.safetensors")
    said = exported(cli, runs, SMALL, tmp_path / "batch.safetensors", tmp_path / "made", "--json")
    assert said.code == 0, said.err
    assert said.json["golden"]["made_by"] == "export"
    assert load_file(tmp_path / "made" / "golden.safetensors")["input.0"].equal(SMALL.batch())


def test_a_tuple_goes_by_position_and_the_files_of_others_by_name(cli: Cli, runs: Path, tmp_path: Path) -> None:
    batch = SEVERAL.batch()
    save(tuple(batch.values()), tmp_path / "tuple.safetensors")
    save_file(batch, tmp_path / "names.safetensors")
    for name, arguments in {"tuple": [None, None], "names": ["left", "right"]}.items():
        said = exported(cli, runs, SEVERAL, tmp_path / f"{name}.safetensors", tmp_path / name, "--json")
        assert said.code == 0, said.err
        assert [port["argument"] for port in said.json["golden"]["inputs"]] == arguments


def test_the_words_that_a_model_s_code_prints_are_no_part_of_the_document(cli: Cli, runs: Path, tmp_path: Path) -> None:
    save(SMALL.batch(), tmp_path / "batch")
    talks = ("--format", "onnx", "--model", "tests.export.models:talks", "--golden", tmp_path / "batch")
    said = cli("export", runs / "small", "--to", tmp_path / "made", *talks, "--json")
    assert said.code == 0
    assert said.json["folder"] == str(tmp_path / "made")
    assert "building the model" in said.err


@pytest.mark.parametrize("content", [None, b"no tensors", [torch.zeros(1), "label"]])
def test_a_file_that_holds_no_input_exits_with_1(cli: Cli, runs: Path, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "batch.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save(content, path)
    said = exported(cli, runs, SMALL, path, tmp_path / "made")
    assert said.code == 1
    assert said.err.startswith("error: ")
    assert "hint: " in said.err
    assert not (tmp_path / "made").exists()
