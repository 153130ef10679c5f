"""Artifacts served where there is no Python: the programs in Node and C++ find the live model, or say what is wrong."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.export.languages.programs import Program, flip, proof_of, refused, sign

# Building takes the time, once per session: the first test that asks waits for it.
pytestmark = pytest.mark.timeout(300)


def change(folder: Path, key: str, in_place: Callable[[Tensor], object]) -> None:
    """Change one golden tensor; the proof is not told."""
    golden = safetensors.torch.load_file(folder / "golden.safetensors")
    in_place(golden[key])
    safetensors.torch.save_file(golden, folder / "golden.safetensors")


def output_of(folder: Path, number: int) -> str:
    """What the programs call an output."""
    port = proof_of(folder)["golden"]["outputs"][number]
    return str(port["name"] or port["key"])


def test_the_outputs_of_the_live_model_are_found_in_another_language(
    runner: Program, fresh: Callable[[str], Path]
) -> None:
    folder = fresh(runner.format)
    ended = runner(folder)
    assert (ended.code, ended.err) == (0, "")
    said = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert proof_of(folder)["source"]["run_id"] in said["model"]
    assert proof_of(folder)["grade"] in said["proof"]
    assert re.search(rf"^output +{output_of(folder, 1)}: bit-identical$", ended.out, re.M), ended.out
    assert re.match(r"outputs-(identical|within-tolerance) \(.*golden batch of 4\), with", said["here"]), ended.out
    assert {"onnx": "onnxruntime-node 1.30.0", "aoti": f"libtorch {torch.__version__.split('+')[0]}"}[
        runner.format
    ] in said["here"]


def test_the_golden_output_is_what_is_compared_with(runner: Program, fresh: Callable[[str], Path]) -> None:
    folder = fresh(runner.format)
    change(folder, "output.0", lambda scores: scores[1, 2, 3].add_(0.25))
    sign(folder, proof_of(folder))
    ended = runner(folder)
    refused(
        ended,
        f"output {output_of(folder, 0)} is not that of the live model: largest difference 0.25",
        "allowed 0.0001",
        "export again",
    )


def test_a_difference_is_allowed_up_to_the_tolerance_of_the_proof(
    runner: Program, fresh: Callable[[str], Path]
) -> None:
    folder = fresh(runner.format)
    change(folder, "output.0", lambda scores: scores[1, 2, 3].add_(0.25))
    sign(folder, proof_of(folder) | {"tolerance": {"absolute": 0.3}})
    ended = runner(folder)
    assert ended.code == 0, ended
    assert re.search(
        rf"^output +{output_of(folder, 0)}: largest difference (0\.25|2\.50e-1), relative ", ended.out, re.M
    ), ended.out
    assert "outputs-within-tolerance (0.3 absolute, golden batch of 4)" in ended.out


def test_an_output_that_became_nan_is_never_within_tolerance(runner: Program, fresh: Callable[[str], Path]) -> None:
    folder = fresh(runner.format)
    change(folder, "output.0", lambda scores: scores[0, 0, 0].fill_(math.nan))
    sign(folder, proof_of(folder) | {"tolerance": {"absolute": 1e30}})
    ended = runner(folder)
    refused(ended, f"output {output_of(folder, 0)} is not that of the live model")
    assert re.search(r"largest difference (inf|Infinity), allowed 1e\+30", ended.err), ended.err


def test_another_number_of_a_tag_is_a_difference_although_it_is_no_float(
    runner: Program, fresh: Callable[[str], Path]
) -> None:
    folder = fresh(runner.format)
    change(folder, "output.1", lambda tags: tags[0, 0].add_(1))
    sign(folder, proof_of(folder))
    refused(
        runner(folder),
        f"output {output_of(folder, 1)} is not that of the live model: largest difference 1, allowed 0.0001",
    )


def test_a_flipped_byte_in_any_file_is_named(program: Program, fresh: Callable[[str], Path]) -> None:
    whole = fresh(program.format)
    assert program(whole).code == 0
    for path in sorted(whole.iterdir()):
        for at in (8, path.stat().st_size // 2, -1):
            before = path.read_bytes()
            flip(path, at)
            ended = program(whole)
            refused(ended, path.name)
            assert re.search(r"digest|cut off", ended.err), ended.err
            path.write_bytes(before)
    assert program(whole).code == 0


def test_a_file_that_is_cut_off_or_missing_is_named(program: Program, fresh: Callable[[str], Path]) -> None:
    folder = fresh(program.format)
    entry = folder / proof_of(folder)["entry"]
    size = entry.stat().st_size
    os.truncate(entry, size - 5)
    refused(program(folder), f"{entry.name}: {size - 5} bytes, expected {size}")
    entry.unlink()
    refused(program(folder), f"{entry.name}, named in proof.json, cannot be read")
    (folder / "proof.json").unlink()
    refused(program(folder), "no proof can be read", str(folder))


@pytest.mark.parametrize("file", ["proof.json", "entry"])
def test_a_link_and_a_pipe_are_refused_before_they_are_opened(
    program: Program, fresh: Callable[[str], Path], file: str
) -> None:
    folder = fresh(program.format)
    path = folder / (proof_of(folder)["entry"] if file == "entry" else file)
    path.rename(folder.parent / "outside")
    path.symlink_to(folder.parent / "outside")
    refused(program(folder), f"{path.name}: a symbolic link")
    path.unlink()
    os.mkfifo(path)
    refused(program(folder), f"{path.name}: no regular file")


def test_an_entry_that_is_not_among_the_files_is_refused(program: Program, fresh: Callable[[str], Path]) -> None:
    folder = fresh(program.format)
    document = proof_of(folder)
    del document["files"][document["entry"]]
    sign(folder, document)
    refused(program(folder), "proof.json", document["entry"], "files")


def test_a_proof_of_a_later_version_is_told_from_damage(program: Program, fresh: Callable[[str], Path]) -> None:
    folder = fresh(program.format)
    sign(folder, proof_of(folder) | {"proof_version": 2})
    refused(program(folder), "proof.json is of version 2, this program reads 1")


def test_no_file_outside_the_folder_is_looked_at(program: Program, fresh: Callable[[str], Path]) -> None:
    folder = fresh(program.format)
    (folder.parent / "beside").write_bytes(b"")
    document = proof_of(folder)
    document["files"]["../beside"] = {}
    sign(folder, document)
    refused(program(folder), "../beside", "proof.json")


def test_a_proof_whose_golden_tensors_are_others_is_refused(runner: Program, fresh: Callable[[str], Path]) -> None:
    folder = fresh(runner.format)
    document = proof_of(folder)
    document["golden"]["inputs"][0]["shape"] = [4, 6]
    sign(folder, document)
    refused(runner(folder), "golden.safetensors: input.0 is int64 [4,5], expected int64 [4,6]")
    document["golden"]["inputs"][0] |= {"shape": [4, 5], "key": "input.7"}
    sign(folder, document)
    refused(runner(folder), "golden.safetensors: it has no tensor", "input.7")


def test_a_model_without_a_golden_input_cannot_be_compared(runner: Program, fresh: Callable[[str], Path]) -> None:
    folder = fresh(runner.format)
    sign(folder, proof_of(folder) | {"golden": None})
    refused(runner(folder), "proof.json has no golden input to run", "--golden FILE")


@pytest.mark.parametrize("words", [(), ("--help",), ("a", "b")])
def test_what_is_no_usage_ends_in_2(program: Program, words: tuple[str, ...]) -> None:
    ended = program(*words)
    assert ended.code == 2
    assert ended.err.startswith("check: usage: ")


def test_a_format_that_the_program_does_not_run_ends_in_2(program: Program, fresh: Callable[[str], Path]) -> None:
    folder = fresh("safetensors" if program.format == "aoti" else program.format)
    if program.format != "aoti":
        sign(folder, proof_of(folder) | {"format": "pt2"})
    ended = program(folder)
    assert ended.code == 2
    assert re.search("runs no artifact of format", ended.err), ended.err


BAD_HEADERS = {
    "a length beyond the file": (
        b"\xff" * 8,
        "a header of 18446744073709551615 bytes|a header of 18446744073709552000",
    ),
    "no JSON": (b"\x04\0\0\0\0\0\0\0{{{{", "its header is no JSON"),
    "no object": (b"\x04\0\0\0\0\0\0\0[12]", "its header is"),
    "an unknown dtype": ({"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}}, "dtype .?F7"),
    "a negative size": ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, r"has shape \[-1\]"),
    "half a size": ({"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}, r"has shape \[1\.5\]"),
    "too large a shape": ({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, "shape|takes"),
    "offsets that do not fit": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "takes 8 bytes"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, "data_offsets"),
    "a gap": ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}, "begins at byte"),
    "too many bytes": ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, "its tensors end at byte"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_safetensors_file_that_contradicts_itself_is_refused(
    program: Program, fresh: Callable[[str], Path], case: str
) -> None:
    header, words = BAD_HEADERS[case]
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
        header = len(header).to_bytes(8, "little") + header
    folder = fresh(program.format)
    name = "model.safetensors" if program.format == "safetensors" else "golden.safetensors"
    (folder / name).write_bytes(header + bytes(4))
    sign(folder, proof_of(folder))
    ended = program(folder)
    refused(ended, name)
    assert re.search(words, ended.err), ended.err


def test_an_export_that_never_came_to_its_end_is_refused(runner: Program, fresh: Callable[[str], Path]) -> None:
    folder = fresh(runner.format)
    sign(folder, proof_of(folder) | {"grade": None})
    refused(runner(folder), "this export never came to its end, so nothing is proved", "export again")
