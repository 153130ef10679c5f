"""`proof.json`: what is written is read back, and what was not written so is refused with what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable.errors import CorruptCheckpointError, FormatVersionError, ResumableError
from resumable.export import Exported, Proof
from resumable.export.proof.artifact import read_proof
from resumable.export.proof.schema import OutputDifference, parse_proof
from resumable.store.documents.sealed_json import digest
from resumable.utils import strict_json
from resumable.weights.proof import MAX_BYTES
from tests.export.conftest import Artifact
from tests.export.signing import signed

FORMATS = ["safetensors", "pt2", "onnx"]

Make = Callable[[str], Exported]


def changed(proof: Proof, *path: str, value: Any) -> bytes:
    document = json.loads(proof.dump())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return signed(document)


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_published_is_read_back_as_it_was_returned(exported: Make, format: str) -> None:
    made = exported(format)
    data = (made.folder / "proof.json").read_bytes()
    assert parse_proof(data) == made.proof
    assert made.proof.dump() == data


def test_any_program_reads_it_as_plain_json(exported: Make) -> None:
    made = exported("onnx")
    document = json.loads((made.folder / "proof.json").read_bytes())
    assert list(document)[-1] == "digest"
    assert document["proof_version"] == 1
    assert document["files"].keys() == {path.name for path in made.folder.iterdir()} - {"proof.json"}


def test_a_difference_without_end_is_kept(exported: Make) -> None:
    proof = exported("onnx").proof
    endless = proof.model_copy(update={"difference": OutputDifference(absolute=float("inf"), relative=float("inf"))})
    assert parse_proof(endless.dump()) == endless


def test_a_newer_version_says_to_upgrade(exported: Make, artifact: Artifact) -> None:
    data = changed(exported("onnx").proof, "proof_version", value=2)
    with pytest.raises(FormatVersionError, match="version 2, expected at most 1") as caught:
        parse_proof(data)
    assert "upgrade" in str(caught.value.hint)
    folder = artifact("onnx")
    (folder / "proof.json").write_bytes(data)
    with pytest.raises(FormatVersionError):
        read_proof(folder)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("serves",), True, "serves: Extra inputs are not permitted"),
        (("source", "host"), "x", "source.host: Extra inputs are not permitted"),
        (("proof_version",), 0, "proof_version: Input should be greater than or equal to 1"),
        (("proof_version",), True, "proof_version: Input should be a valid integer"),
        (("format",), "pickle", "format: Input should be 'safetensors', 'pt2', 'onnx' or 'aoti'"),
        (("grade",), "perfect", "grade: Input should be"),
        (("entry",), "../model.onnx", "entry: String should match pattern"),
        (("files", "/etc/passwd"), {"size": 1, "digest": "0" * 32}, "String should match pattern"),
        (("files", "model.onnx", "size"), -1, "files.model.onnx.size: Input should be greater than or equal to 0"),
        (("files", "model.onnx", "digest"), "0", "files.model.onnx.digest: String should match pattern"),
        (("tolerance",), {"absolute": -1.0}, "tolerance.absolute: Input should be greater than or equal to 0"),
        (("tolerance",), {"absolute": "nan"}, "tolerance.absolute: Input should be a valid number"),
        (("golden", "batch_size"), "4", "golden.batch_size: Input should be a valid integer"),
        (("notes",), ["x" * 1001], "notes.0: String should have at most 1000 characters"),
        (("created",), 1e300, "created: Input should be less than"),
    ],
)
def test_what_is_no_such_document_is_named(exported: Make, path: tuple[str, ...], value: Any, said: str) -> None:
    with pytest.raises(CorruptCheckpointError) as caught:
        parse_proof(changed(exported("onnx").proof, *path, value=value))
    assert caught.value.message.startswith("proof.json: ")
    assert said in caught.value.message
    assert "again" in str(caught.value.hint)


def test_a_missing_key_is_named(exported: Make) -> None:
    document = json.loads(exported("onnx").proof.dump())
    del document["weights"]
    with pytest.raises(CorruptCheckpointError, match="weights: Field required"):
        parse_proof(signed(document))


def test_every_flipped_bit_is_found(exported: Make) -> None:
    data = exported("safetensors").proof.dump()
    for at in range(len(data)):
        with pytest.raises(CorruptCheckpointError):
            parse_proof(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])


def test_every_cut_is_found(exported: Make) -> None:
    data = exported("safetensors").proof.dump()
    for length in range(len(data)):
        with pytest.raises(CorruptCheckpointError):
            parse_proof(data[:length])


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff\xfe", b"[" * 100_000, b'{"proof_version":2}'])
def test_what_is_no_proof_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"^proof\.json: "):
        parse_proof(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=20,
    )
)  # fmt: skip
def test_any_document_with_a_digest_that_fits_is_judged_and_never_a_crash(value: Any) -> None:
    body = strict_json.dumps({"proof_version": value, "value": value})
    with pytest.raises(ResumableError):
        parse_proof(body[:-1] + b',"digest":"%s"}' % digest(body).encode())


def test_a_key_that_stands_twice_is_refused(exported: Make) -> None:
    body = exported("onnx").proof.dump().rpartition(b',"digest":')[0] + b',"entry":"model.onnx"}'
    with pytest.raises(CorruptCheckpointError, match="entry"):
        parse_proof(body[:-1] + b',"digest":"%s"}' % digest(body).encode())


def test_what_is_too_long_is_refused_and_not_read_whole(artifact: Artifact) -> None:
    folder = artifact("onnx")
    with (folder / "proof.json").open("r+b") as file:
        file.truncate(2**40)  # a hole: reading it whole would end this program
    with pytest.raises(CorruptCheckpointError, match=r"proof\.json"):
        read_proof(folder)
    sound = b" " * MAX_BYTES
    body = b'{"a":1' + sound + b"}"
    with pytest.raises(CorruptCheckpointError, match=r"bytes"):
        parse_proof(body[:-1] + b',"digest":"%s"}' % digest(body).encode())


def test_a_proof_that_is_a_folder_or_not_there_is_told(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ResumableError, match=r"no proof\.json, so it is not an exported model"):
        read_proof(tmp_path)
    folder = artifact("onnx")
    (folder / "proof.json").unlink()
    (folder / "proof.json").mkdir()
    with pytest.raises(ResumableError):
        read_proof(folder)
