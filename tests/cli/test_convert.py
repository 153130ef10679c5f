from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import resumable
from tests.cli.conftest import Cli


class Runs:
    def __reduce__(self) -> Any:
        return print, ("it was run",)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    weight = torch.rand(3, 400)
    torch.save({"weight": weight, "tied": weight, "bias": torch.rand(3), "epoch": 7}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def test_it_says_how_much_was_converted(file: Path, tmp_path: Path, cli: Cli) -> None:
    target = tmp_path / "x.safetensors"
    done = cli("convert", file, target)
    assert (done.code, done.err) == (0, "")
    assert (
        done.out == f"converted {file} -> {target}: 2 tensors, 1,203 elements, {target.stat().st_size / 1024:.1f}KiB\n"
    )
    assert resumable.load(target, only="epoch") == 7


def test_json_holds_the_same(file: Path, tmp_path: Path, cli: Cli) -> None:
    target = tmp_path / "x.safetensors"
    assert cli("convert", file, target, "--json").json == {
        "file": str(file),
        "to": str(target),
        "tensors": 2,
        "elements": 1203,
        "size_bytes": target.stat().st_size,
    }


def test_an_existing_file_is_replaced(file: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"something older")
    assert cli("convert", file, tmp_path / "x.safetensors").code == 0
    assert resumable.load(tmp_path / "x.safetensors", only="epoch") == 7


def test_it_works_on_urls(file: Path, cli: Cli) -> None:
    assert cli("convert", f"file://{file}", "memory://tests-cli-convert/x").code == 0
    assert resumable.load("memory://tests-cli-convert/x", only="epoch") == 7


def test_code_in_the_file_is_an_error_that_names_it(tmp_path: Path, cli: Cli) -> None:
    torch.save({"x": Runs()}, tmp_path / "x.pt")
    done = cli("convert", tmp_path / "x.pt", tmp_path / "y")
    assert (done.code, done.out) == (1, "")
    assert "refused for print: " in done.err
    assert "nothing was run" in done.err
    assert "\nhint: " in done.err
    assert [each.name for each in tmp_path.iterdir()] == ["x.pt"]


def test_a_missing_file_is_an_error_and_a_missing_argument_a_usage_error(tmp_path: Path, cli: Cli) -> None:
    missing = cli("convert", tmp_path / "x.pt", tmp_path / "y")
    assert missing.code == 1
    assert "no such file" in missing.err
    assert cli("convert", tmp_path / "x.pt").code == 2


def test_help_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text('raise AssertionError("torch was imported")\n')
    path = os.pathsep.join([str(tmp_path), str(Path(resumable.__file__).parent.parent)])
    for arguments in (["--help"], ["convert", "--help"]):
        command = [sys.executable, "-m", "resumable", *arguments]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "convert" in done.stdout
