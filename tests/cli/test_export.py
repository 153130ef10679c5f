"""`resumable export` and `resumable verify DIR` as the shell calls them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from resumable.export import export
from resumable.export.proof.artifact import read_proof
from tests.cli.conftest import Cli, flip_a_bit
from tests.export.models import SMALL, trained

ROOT = Path(__file__).parents[2]
FACTORY = SMALL.factory


@dataclass(frozen=True)
class Shell:
    """What a process of the command line said."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def shell(*arguments: object) -> Shell:
    """The command line in a process of its own, in the folder of this project."""
    command = [sys.executable, "-m", "resumable", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return Shell(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    trained(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def weights(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shell]:
    """An export of weights, and what was said of it."""
    folder = tmp_path_factory.mktemp("weights") / "made"
    return folder, shell("export", run, "--to", folder)


@pytest.fixture(scope="module")
def program(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX program."""
    to = tmp_path_factory.mktemp("program") / "made"
    return export(str(run), to, format="onnx", model=FACTORY, golden=SMALL.batch()).folder


# -- export -----------------------------------------------------------------------------------------------------------


def test_people_are_told_what_was_published_and_what_it_was_shown_to_be(run: Path, weights: tuple[Path, Shell]) -> None:
    folder, said = weights
    [file] = read_proof(folder).files.values()
    assert said.code == 0
    assert said.err == ""
    header, row, grade, origin, checked = said.lines
    assert header.split() == ["file", "size", "digest"]
    assert re.fullmatch(rf"model\.safetensors +{file.size}B +{file.digest}", row)
    assert grade == "weights bit-identical: 4 tensors"
    assert re.fullmatch(rf"exported +model at step-000000003\S+ as safetensors to {folder}", origin)
    assert re.fullmatch(r"checked +in a fresh process", checked)


def test_programs_are_told_the_proof_and_where_it_is(run: Path, tmp_path: Path) -> None:
    to = tmp_path / "made"
    said = shell("export", f"{run}@1", "--to", to, "--max-shard", "100B", "--dtype", "bfloat16", "--json")
    assert said.code == 0
    document = json.loads(said.out)
    assert document.pop("folder") == str(to)
    assert document == read_proof(to).model_dump(mode="json")
    assert document["source"]["step"] == 1
    assert document["weights"]["cast_to"] == "bfloat16"
    assert document["entry"] == "model.safetensors.index.json"
    assert all(file["size"] < 400 for name, file in document["files"].items() if name.startswith("model-"))


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("2GiB", 2**31), ("10k", 10_000), ("7", 7), ("3KiB", 3072)],
)
def test_sizes_of_shards_are_written_as_people_do(text: str, size: int) -> None:
    from resumable.cli.verbs.export import _bytes

    assert _bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5 XB", "-5GB", "1e3", "five"])
def test_a_size_that_is_none_is_a_usage_error(cli: Cli, run: Path, tmp_path: Path, text: str) -> None:
    said = cli("export", run, "--to", tmp_path / "made", "--max-shard", text)
    assert said.code == 2
    assert "expected a size such as 5GB, 500MB or 2GiB" in said.err


def test_what_is_not_the_same_model_exits_with_1_and_two_lines(cli: Cli, run: Path, tmp_path: Path) -> None:
    said = cli("export", run, "--to", tmp_path / "made", "--format", "pt2", "--model", "tests.export.models:narrow")
    assert said.code == 1
    assert said.out == ""
    error, hint = said.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_exits_with_1(cli: Cli, run: Path, tmp_path: Path) -> None:
    said = cli("export", run, "--to", tmp_path)
    assert said.code == 1
    assert f"error: {tmp_path} exists already" in said.err


@pytest.mark.parametrize("arguments", [[], ["--to"], ["--no-such-option"]])
def test_what_cannot_be_parsed_exits_with_2(cli: Cli, run: Path, arguments: list[str]) -> None:
    assert cli("export", run, *arguments).code == 2


def test_the_help_says_what_each_format_needs(cli: Cli) -> None:
    said = cli("export", "--help")
    assert said.code == 0
    text = " ".join(said.out.split())
    options = (
        "--to",
        "--format",
        "--model",
        "--golden",
        "--object",
        "--dtype",
        "--max-shard",
        "--tolerance",
        "--batch",
    )
    for option in (*options, "--json", "--storage-options"):
        assert option in text
    assert "1e-4; where all outputs are float16 1e-3, bfloat16 1e-2" in text
    assert "it is imported and called" in text
    assert "the exit code is 1" in text


# -- verify DIR -------------------------------------------------------------------------------------------------------


def test_people_are_told_that_an_export_is_still_what_was_trained(program: Path) -> None:
    said = shell("verify", program)
    assert said.code == 0
    assert said.err == ""
    found, proved, runtime, *notes = said.lines
    assert re.fullmatch(
        r"outputs (bit-identical|within the tolerance): largest difference \S+ \(tolerance 0\.0001\), batch of 4", found
    )
    assert re.fullmatch(r"proved +outputs within the tolerance, of model at step-000000003\S+", proved)
    assert re.fullmatch(r"run with +onnxruntime \S+", runtime)
    assert [note.split()[1] for note in notes] == ["compared", "training", "constants"]
    assert all(note.startswith("note ") for note in notes)


def test_programs_are_told_what_was_found_here_and_what_was_proved(cli: Cli, program: Path) -> None:
    said = cli("verify", program, "--json")
    assert said.code == 0
    proof = read_proof(program)
    assert proof.difference is not None
    assert said.json == {
        "folder": str(program),
        "ok": True,
        "grade": "outputs-within-tolerance",
        "proved": "outputs-within-tolerance",
        "weights_identical": None,
        "difference": {"absolute": proof.difference.absolute, "relative": proof.difference.relative},
        "tolerance": 1e-4,
        "runtime": proof.checked and proof.checked.runtime,
    }


def test_of_weights_there_are_no_outputs_to_tell(cli: Cli, weights: tuple[Path, Shell]) -> None:
    said = cli("verify", weights[0], "--json")
    assert said.code == 0
    assert (said.json["grade"], said.json["weights_identical"]) == ("weights-identical", True)
    assert (said.json["difference"], said.json["tolerance"], said.json["runtime"]) == (None, None, None)


@pytest.mark.parametrize("name", ["model.onnx", "golden.safetensors", "proof.json"])
def test_damage_exits_with_1_and_says_where(cli: Cli, program: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(program, tmp_path / "copy"))
    flip_a_bit(folder / name)
    said = cli("verify", folder)
    assert said.code == 1
    assert said.out == ""
    assert re.match(rf"error: {folder}: {re.escape(name)}: .*\nhint: ", said.err)
    said = cli("verify", folder, "--json")
    assert said.code == 1
    assert said.json.keys() == {"folder", "ok", "error", "hint"}
    assert said.json["ok"] is False
    assert name in said.json["error"]


@pytest.mark.parametrize(("kind", "absent"), [("onnx", {"torch"}), ("safetensors", {"torch", "onnxruntime"})])
def test_proving_where_it_serves_needs_no_torch(
    program: Path, weights: tuple[Path, Shell], kind: str, absent: set[str]
) -> None:
    folder = program if kind == "onnx" else weights[0]
    code = """if True:
        import sys
        from resumable.cli import app
        try:
            app(["verify", sys.argv[1]])
        except SystemExit as left:
            assert not left.code, left
        print(*sys.modules)
    """
    ended = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(ended.stdout.splitlines()[-1].split())
    assert "resumable.export.verifier" in loaded
    assert not absent & loaded


def test_a_model_is_not_asked_for_of_a_run(cli: Cli, run: Path) -> None:
    said = cli("verify", run, "--model", FACTORY)
    assert said.code == 2
    assert "expected the folder of an exported model" in said.err


def test_a_model_cannot_be_run_without_a_golden_input(cli: Cli, weights: tuple[Path, Shell]) -> None:
    said = cli("verify", weights[0], "--model", FACTORY)
    assert said.code == 1
    assert f"there is no golden input to run {FACTORY} on" in said.err
