"""Random damage by somebody who computes digests: what is read is right, or refused in the words of the error tree."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load as read_with_the_library

from resumable import ResumableError, Run
from resumable.checkpointing.position import Position
from resumable.errors import CheckpointError
from resumable.state.codec import decode
from resumable.state.tensors.records import TensorRecord
from resumable.state.tensors.safetensors_layout import parse_header
from resumable.store.documents.parse_documents import parse_manifest
from resumable.store.layout import CheckpointName, is_blob_name, is_blob_path, is_object_name, parse_attempt
from resumable.utils import strict_json
from tests.faults.forgery import Forgery, sealed
from tests.faults.mutations import mutated
from tests.faults.rich import Rich
from tests.state.image_views import view_tensors
from tests.state.roundtrip import save_tree

randoms = st.randoms(use_true_random=False)
fuzz = settings(max_examples=200, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("fuzz") / "run"
    Rich(run).train(4)
    return run


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


# -- whole runs -------------------------------------------------------------------------------------------------------


PARTS = st.sampled_from(["objects", "objects", "objects", "rng", "position", ""])


@settings(fuzz, max_examples=120)
@given(randoms, PARTS)
def test_a_launch_on_any_well_formed_state_restores_it_or_says_why_not(
    original: Path, tmp_path_factory: pytest.TempPathFactory, random: Random, part: str
) -> None:
    _launch_on_a_state(_fresh_copy(original, tmp_path_factory), random, part)


@settings(fuzz, max_examples=80)
@given(randoms)
def test_a_launch_on_any_well_formed_manifest_resumes_or_says_why_not(
    original: Path, tmp_path_factory: pytest.TempPathFactory, random: Random
) -> None:
    _launch_on_a_manifest(_fresh_copy(original, tmp_path_factory), random)


@pytest.mark.matrix
@settings(fuzz, max_examples=600)
@given(randoms, PARTS)
def test_many_launches_on_well_formed_states_restore_them_or_say_why_not(
    original: Path, tmp_path_factory: pytest.TempPathFactory, random: Random, part: str
) -> None:
    _launch_on_a_state(_fresh_copy(original, tmp_path_factory), random, part)
    _launch_on_a_manifest(_fresh_copy(original, tmp_path_factory), random)


def _launch_on_a_state(run: Path, random: Random, part: str) -> None:
    forgery = Forgery(run)
    state = forgery.state()
    changed = mutated(state[part], random) if part else mutated(state, random)
    forgery.write_state({**state, part: changed} if part else changed)
    _read_everything(run)
    with contextlib.suppress(ResumableError):
        Rich(run).resume()


def _launch_on_a_manifest(run: Path, random: Random) -> None:
    forgery = Forgery(run)
    forgery.write_manifest(mutated(forgery.manifest(), random))
    _read_everything(run)
    with contextlib.suppress(ResumableError):
        Rich(run).resume()


def _fresh_copy(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.getbasetemp() / "fuzzed"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(original, run)
    return run


def _read_everything(run: Path) -> None:
    with contextlib.suppress(ResumableError):
        for checkpoint in Run(str(run)).checkpoints():
            checkpoint.verify()
            for name in checkpoint.manifest.objects:
                checkpoint.load(name)


# -- one layer at a time ----------------------------------------------------------------------------------------------


def _values() -> dict[str, Any]:
    from tests.golden.launch import every_value

    return every_value()


SAVED = save_tree(_values())
TENSORS = SAVED.tensors()


@settings(fuzz, max_examples=500)
@given(randoms)
def test_any_document_is_decoded_or_refused_with_a_value_error(random: Random) -> None:
    document = strict_json.loads(strict_json.dumps(mutated(SAVED.document, random)))
    with contextlib.suppress(ValueError):
        decode(document, TENSORS)


@fuzz
@given(randoms)
def test_any_manifest_is_read_or_refused_as_a_checkpoint(original: Path, random: Random) -> None:
    document = mutated(Forgery(original).manifest(), random)
    try:
        manifest = parse_manifest(sealed(document))
    except CheckpointError:
        return
    assert parse_manifest(manifest.dump()) == manifest or "nan" in str(manifest.metrics)
    for blob in manifest.blobs.values():
        assert re.fullmatch(r"checkpoints/step-\d+\.e\d+\.a\d+/[^/\\\x00]+", blob.path)


@settings(fuzz, max_examples=250)
@given(randoms)
def test_any_position_is_taken_or_refused_with_a_value_error(original: Path, random: Random) -> None:
    try:
        tree = decode(mutated(Forgery(original).state()["position"], random), {})
        position = Position.from_tree(tree) if isinstance(tree, dict) else None
    except ValueError:
        return
    if position is not None:
        assert position.summary()
        assert Position.from_tree(position.tree()) == position


@settings(fuzz, max_examples=500)
@given(st.data())
def test_what_we_take_for_an_image_the_formats_own_library_reads_alike(data: st.DataObject) -> None:
    image = _damaged(bytes(SAVED.image), data)
    try:
        slices = parse_header(image)
    except ValueError:
        return
    try:
        theirs = read_with_the_library(bytes(image))
    except SafetensorError as error:
        raise AssertionError(f"taken by us: {slices}") from error
    assert theirs.keys() == slices.keys()
    for key, place in slices.items():
        flat = theirs[key].contiguous().reshape(-1)
        assert tuple(theirs[key].shape) == place.shape
        assert (flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"") == image[place.start : place.end]


@settings(fuzz, max_examples=250)
@given(st.data())
def test_what_does_not_hold_what_was_recorded_is_refused_with_a_value_error(data: st.DataObject) -> None:
    image = bytearray(_damaged(bytes(SAVED.image), data))
    try:
        tensors = view_tensors([image], SAVED.records)
    except ValueError:
        return
    for key, record in SAVED.records.items():
        assert _fits(tensors[key], record)


def _fits(tensor: torch.Tensor, record: TensorRecord) -> bool:
    return list(tensor.shape) == list(record.shape) and str(tensor.dtype) == f"torch.{record.dtype}"


def _damaged(image: bytes, data: st.DataObject) -> bytes:
    """The header changed as a document, or some bytes of the file, or its length."""
    (length,) = struct.unpack_from("<Q", image)
    how = data.draw(st.sampled_from(["document", "bytes", "header bytes", "length", "cut", "more"]))
    if how == "document":
        text = json.dumps(mutated(json.loads(image[8 : 8 + length]), data.draw(randoms))).encode()
        return struct.pack("<Q", len(text)) + text + image[8 + length :]
    if how == "length":
        return struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1))) + image[8:]
    if how == "cut":
        return image[: data.draw(st.integers(0, len(image)))]
    if how == "more":
        return image + data.draw(st.binary(min_size=1, max_size=9))
    damaged = bytearray(image)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, (8 + length if how == "header bytes" else len(image)) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    return bytes(damaged)


NAMES = st.text() | st.from_regex(r"step-\d{1,20}\.e\d{1,20}\.a\d{1,20}", fullmatch=True)


@settings(fuzz, max_examples=250)
@given(NAMES)
@example("step-000000001.e0000.a0001\n")
@example("step-" + "\N{ARABIC-INDIC DIGIT ONE}" * 9 + ".e0000.a0001")
@example("step-0000000001.e0000.a0001")
def test_a_name_of_a_checkpoint_has_one_spelling(text: str) -> None:
    name = CheckpointName.parse(text)
    assert name is None or (str(name) == text and text.isascii())


@pytest.mark.parametrize("numbers", [(10**18, 0, 1), (0, 10**18, 1), (0, 0, 10**18), (-1, 0, 1)])
def test_a_number_that_no_name_can_say_makes_no_name(numbers: tuple[int, int, int]) -> None:
    """What is saved under one would never be found again."""
    with pytest.raises(ValueError, match=r"expected 0 to 9{18}"):
        CheckpointName(*numbers)


@settings(fuzz, max_examples=250)
@given(st.text() | st.from_regex(r"\d{1,20}\.json", fullmatch=True))
def test_a_name_of_an_attempt_has_one_spelling(text: str) -> None:
    number = parse_attempt(text)
    assert number is None or f"{number:06d}.json" == text


@settings(fuzz, max_examples=250)
@given(
    st.text(alphabet="a./\\\0\n~%-:_é")
    | st.from_regex(r"(checkpoints/)?(step-000000001\.e0000\.a0001/)?.*", fullmatch=True)
)
@example("checkpoints/step-000000001.e0000.a0001/../x.safetensors")
@example("checkpoints/step-000000001.e0000.a0001/x.safetensors\n")
@example("checkpoints/step-000000001.e0000.a0001/x\n.safetensors")
def test_no_name_of_a_blob_or_an_object_leads_anywhere(text: str) -> None:
    for legal in (is_blob_name(text), is_object_name(text)):
        assert not legal or (not set(text) & set("/\\\0\n~%:") and text not in (".", "..") and text.isprintable())
    assert not is_blob_path(text) or (text.count("/") == 2 and text.startswith("checkpoints/step-"))


# -- found by fuzzing, kept -------------------------------------------------------------------------------------------


def _inline(dtype: Any, shape: list[int], data: str) -> dict[str, Any]:
    return {"$inline": {"dtype": dtype, "shape": shape, "strides": None, "data": data}}


def _array(shape: list[int]) -> dict[str, Any]:
    return {"$ndarray": {"dtype": "<f4", "shape": shape, "order": "C", "data": "AAAAAA=="}}


KEPT: Mapping[str, Any] = {
    "a text beyond Unicode": {"$scalar": {"dtype": "<U1", "data": "////fw=="}},
    "a time unit of nothing": {"$scalar": {"dtype": "<m8[0s]", "data": "AAAAAAAAAAA="}},
    "a tensor that cannot require grad": {
        "$leaf": {"$inline": {"dtype": "int8", "shape": [1], "strides": None, "data": "AA=="}}
    },
    "an unhashable key": {"$dict": [[[], 1]]},
    "a dtype that is a list": _inline([], [], ""),
    "sixty-five dimensions": _array([1] * 65),
    "more dimensions than NumPy has": {
        "$ndarray": {"dtype": "<f4", "shape": [1] * 64, "order": "C", "data": "AAAAAA=="}
    },
}


@pytest.mark.parametrize("document", KEPT.values(), ids=KEPT.keys())
def test_what_once_escaped_is_refused_with_a_value_error(document: Any) -> None:
    try:
        value = decode(document, {})
    except ValueError:
        return
    assert isinstance(value, np.ndarray), "64 dimensions are legal in NumPy 2"
