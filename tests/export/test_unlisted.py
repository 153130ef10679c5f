"""What a proof does not cover is not loaded, and what lies in a folder is looked at before a byte of it is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from resumable.errors import CorruptCheckpointError
from resumable.export import verify
from tests.cli.conftest import cli as cli
from tests.export.conftest import Artifact
from tests.export.signing import Document, accepted, rewritten
from tests.export.test_damage import FILES

FORMATS = ["safetensors", "pt2", "onnx"]
NAMES = ["program.so", "program.onnx_data", "program", "program.pt2"]


def unlisted(folder: Path, key: str, name: str) -> None:
    """Call the entry, or the golden file, otherwise, and leave it out of the files."""

    def change(document: Document) -> None:
        within, part = (document, "entry") if key == "entry" else (document["golden"], "file")
        del document["files"][within[part]]
        os.rename(folder / within[part], folder / name)
        within[part] = name

    rewritten(folder, change)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", FORMATS)
def test_an_entry_that_is_not_among_the_files_is_refused(artifact: Artifact, format: str, name: str) -> None:
    folder = artifact(format)
    unlisted(folder, "entry", name)
    with pytest.raises(CorruptCheckpointError, match=f"entry is '{name}', which is not among its files") as caught:
        verify(folder)
    assert str(folder) in caught.value.message


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_golden_file_that_is_not_among_the_files_is_refused(artifact: Artifact, format: str) -> None:
    folder = artifact(format)
    unlisted(folder, "golden", "other.safetensors")
    with pytest.raises(CorruptCheckpointError, match=r"golden\.file is 'other.safetensors', which is not among"):
        verify(folder)


@pytest.mark.parametrize("name", ["more.so", "more.onnx_data", "more", "more.safetensors", "x.index.json", "code.py"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_stranger_that_something_may_load_is_refused(artifact: Artifact, format: str, name: str) -> None:
    folder = artifact(format)
    (folder / name).write_bytes(b"x")
    with pytest.raises(CorruptCheckpointError, match=f"{name}: not listed in the proof"):
        verify(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_for_people_may_lie_beside_an_artifact(artifact: Artifact, format: str) -> None:
    folder = artifact(format)
    for name in ("README.md", "LICENSE", ".gitattributes", "config.json", "notes.txt"):
        (folder / name).write_bytes(b"x")
    (folder / ".git").mkdir()
    assert verify(folder)[0].grade is not None


def test_a_file_that_an_onnx_program_names_is_one_of_the_proof_whatever_it_is_called(artifact: Artifact) -> None:
    folder = artifact("onnx")
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="NOTES.md", size_threshold=0)
    accepted(folder)
    with pytest.raises(CorruptCheckpointError, match=r"NOTES\.md: not listed in the proof, and model\.onnx"):
        verify(folder)


# -- what a file is, and how large ------------------------------------------------------------------------------------


def _link(path: Path) -> None:
    outside = path.parent.parent / f"outside-{path.name}"
    path.rename(outside)
    path.symlink_to(outside)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _terabyte(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2**40)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "link": (_link, "a symbolic link"),
    "pipe": (_pipe, "not a regular file"),
    "terabyte": (_terabyte, "1099511627776 bytes, expected"),
    "device": (_device, "a symbolic link"),
}


@pytest.mark.parametrize("sort", SPOILT)
@pytest.mark.parametrize(("format", "name"), FILES)
def test_what_is_no_plain_file_of_its_size_is_refused_before_it_is_read(
    artifact: Artifact, format: str, name: str, sort: str
) -> None:
    folder = artifact(format)
    spoil, said = SPOILT[sort]
    spoil(folder / name)
    with pytest.raises(CorruptCheckpointError, match=rf"{name}: .*({said})"):
        verify(folder)


@pytest.mark.parametrize("sort", ["link", "pipe"])
def test_the_command_line_says_what_is_wrong_with_a_proof_that_is_no_file(
    artifact: Artifact, cli: Callable[..., Any], sort: str
) -> None:
    folder = artifact("safetensors")
    spoil, said = SPOILT[sort]
    spoil(folder / "proof.json")
    ended = cli("verify", folder)
    assert ended.code == 1
    assert f"proof.json: {said}" in ended.err
