"""The names of the format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable.store.layout import (
    CheckpointName,
    attempt_path,
    checkpoint_path,
    frozen_name,
    is_blob_name,
    is_blob_path,
    is_object_name,
    is_own_name,
    object_of,
    parse_attempt,
    slab_name,
    tensors_name,
)

numbers = st.integers(0, 10**18 - 1)


def test_a_name_says_step_epoch_and_attempt() -> None:
    name = CheckpointName(12000, 3, 2)
    assert str(name) == "step-000012000.e0003.a0002"
    assert checkpoint_path(name) == "checkpoints/step-000012000.e0003.a0002"
    assert checkpoint_path(name, "manifest.json") == "checkpoints/step-000012000.e0003.a0002/manifest.json"


@given(numbers, numbers, numbers)
def test_every_name_is_parsed_as_itself(step: int, epoch: int, attempt: int) -> None:
    name = CheckpointName(step, epoch, attempt)
    assert CheckpointName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "step-12000.e0003.a0002",
        "step-0000012000.e0003.a0002",
        "step-000012000.e003.a0002",
        "step-000012000.e00003.a0002",
        "step-000012000.e0003.a0002 ",
        "step-000012000.e0003.a0002\n",
        "step-00001200\u0660.e0003.a0002",
        "step--00012000.e0003.a0002",
        "step-000012000.e0003",
        "step-" + "9" * 30 + ".e0003.a0002",
        ".tmp-0123456789abcdef",
        "",
    ],
)
def test_any_other_spelling_is_no_name(text: str) -> None:
    assert CheckpointName.parse(text) is None


def test_a_higher_attempt_is_newer_whatever_its_step_and_numbers_do_not_sort_as_text() -> None:
    names = [CheckpointName(10**9, 0, 1), CheckpointName(999_999_999, 0, 1), CheckpointName(5, 0, 10_000)]
    assert sorted(names, key=lambda name: name.order) == [names[1], names[0], names[2]]
    assert CheckpointName(500, 3, 1).place > CheckpointName(500, 2, 1).place


def test_attempts_are_files_with_numbers() -> None:
    assert attempt_path(3) == "attempts/000003.json"
    assert parse_attempt("000003.json") == 3
    assert parse_attempt("1234567.json") == 1234567
    for other in ("3.json", "000000.json", "0000003.json", "000003.json.bak", "00000\u0663.json", ".probe-00", "lock"):
        assert parse_attempt(other) is None


BLOBS = """
model.safetensors _x9.safetensors modèle.safetensors m.rank00001.safetensors state.rank00000.json
m.frozen.safetensors m.frozen.rank00001.safetensors
opts--a.safetensors layers--0--b.frozen.safetensors m--frozen.frozen.safetensors m--10.rank00001.safetensors
layers--0.slabs-s000000100-e0001.safetensors
"""


@pytest.mark.parametrize("name", BLOBS.split())
def test_names_of_blobs(name: str) -> None:
    assert is_blob_name(name)
    assert is_own_name(name)
    assert is_blob_path(f"checkpoints/step-000012000.e0003.a0002/{name}")


NO_BLOBS = """
manifest.json notes.txt state.json state.rank0.json model.rank0.safetensors m.x.rank00000.safetensors .safetensors
m.rank00000.frozen.safetensors m.frozen.frozen.safetensors .frozen.safetensors
--a.safetensors a--.safetensors a---b.safetensors a--01.safetensors a----b.safetensors 0--a.safetensors
a--1_0.safetensors
..safetensors 9x.safetensors a-b.safetensors a/b.safetensors a\udcff.safetensors
"""


@pytest.mark.parametrize(
    "name", [*NO_BLOBS.split(), "", "a b.safetensors", "m.safetensors\n", "x" * 250 + ".safetensors"]
)
def test_names_that_are_no_blobs(name: str) -> None:
    assert not is_blob_name(name)


@pytest.mark.parametrize("owner", ["model", "opts.a", "layers.0", "layers.frozen.rank00000", "m.999999999"])
def test_the_files_of_an_object_name_it(owner: str) -> None:
    assert is_object_name(owner)
    for name in (tensors_name(owner), frozen_name(owner), slab_name(owner, step=3, epoch=1)):
        assert is_blob_name(name)
        assert object_of(name) == owner


@pytest.mark.parametrize(
    "owner", ["", ".a", "a.", "a..b", "0.a", "a.01", "a.-1", "a. 1", "a.1_0", "a.b-c", "a.\u0663", "a--b"]
)
def test_names_that_are_no_objects(owner: str) -> None:
    assert not is_object_name(owner)


def test_deleting_may_remove_the_manifest_and_nothing_foreign() -> None:
    assert is_own_name("manifest.json")
    for foreign in ("notes.txt", ".tmp-mine", "model.safetensors.bak", "model.pt", ".DS_Store"):
        assert not is_own_name(foreign)


@pytest.mark.parametrize(
    "path",
    [
        "/checkpoints/step-000012000.e0003.a0002/model.safetensors",
        "checkpoints/../model.safetensors",
        "checkpoints/step-000012000.e0003.a0002/../model.safetensors",
        "checkpoints/step-000012000.e0003.a0002/x/model.safetensors",
        "checkpoints/model.safetensors",
        "attempts/000001.json",
        "model.safetensors",
    ],
)
def test_paths_that_lead_elsewhere_are_no_blob_paths(path: str) -> None:
    assert not is_blob_path(path)
