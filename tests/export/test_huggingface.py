"""Weights as safetensors files: read with the safetensors library, they are the checkpoint's bits under its names."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

from resumable import Run, Trainer
from resumable.export import Exported, export, verify
from resumable.export.formats.safetensors import WeightSpec, shards, write_weights
from resumable.export.proof.weight_bits import weights_match
from resumable.store.storage.local import LocalStorage
from resumable.weights.proof import WeightRecord
from tests.export.conftest import Train, Trained
from tests.export.models import CASES
from tests.harness.client import PYTHON

LIMIT = 20_000
LIMITS = st.none() | st.integers(1, 400)
WEIGHTS = st.lists(
    st.tuples(st.sampled_from(["float32", "bfloat16", "uint8"]), st.lists(st.integers(0, 9), max_size=2)), max_size=12
).map(lambda found: [WeightSpec(f"w{n}", dtype, tuple(shape)) for n, (dtype, shape) in enumerate(found)])


@dataclass(frozen=True)
class Carried:
    """A model, what was published of it, and the size of a shard that was asked for."""

    trained: Trained
    made: Exported
    limit: int | None


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in dtype, shape and every bit of the values."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return one.contiguous().flatten().view(torch.uint8).equal(other.contiguous().flatten().view(torch.uint8))


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of an artifact, read by the library; of shards, those that the index names where it names them."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    found = {}
    for name, file in json.loads(index.read_text())["weight_map"].items():
        with safe_open(folder / file, framework="pt") as opened:
            found[name] = opened.get_tensor(name)
    return found


# -- shards -----------------------------------------------------------------------------------------------------------


@given(WEIGHTS, LIMITS)
def test_shards_hold_every_weight_once_in_its_order(weights: list[WeightSpec], limit: int | None) -> None:
    assert [weight for shard in shards(weights, max_bytes=limit) for weight in shard] == weights


@given(WEIGHTS, LIMITS)
def test_no_shard_is_larger_than_allowed_unless_one_weight_alone_is(
    weights: list[WeightSpec], limit: int | None
) -> None:
    for shard in shards(weights, max_bytes=limit):
        assert limit is None or sum(weight.nbytes for weight in shard) <= limit or len(shard) == 1


@given(WEIGHTS, LIMITS)
def test_there_are_no_more_shards_than_that_takes(weights: list[WeightSpec], limit: int | None) -> None:
    parts = shards(weights, max_bytes=limit)
    assert all(parts) or weights == []
    for before, after in itertools.pairwise(parts):
        assert limit is not None
        assert sum(weight.nbytes for weight in before) + after[0].nbytes > limit


@settings(max_examples=30)  # each is written durably
@given(WEIGHTS, LIMITS)
def test_files_of_any_shards_hold_what_was_written_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, weights: list[WeightSpec], limit: int | None
) -> None:
    folder = tmp_path_factory.mktemp("files")
    values = {
        each.name: torch.randint(0, 127, (each.nbytes,), dtype=torch.uint8)
        .view(getattr(torch, each.dtype))
        .view(each.shape)
        for each in weights
    }
    digests = write_weights(LocalStorage(folder), weights, values.__getitem__, tied={}, max_bytes=limit)
    found = read(folder)
    assert found.keys() == values.keys()
    assert all(same_bits(found[name], value) for name, value in values.items())
    records = {w.name: WeightRecord(dtype=w.dtype, shape=list(w.shape), digest=digests[w.name]) for w in weights}
    assert weights_match(folder.glob("*.safetensors"), records)


# -- of a checkpoint --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["CNN in channels_last", "transformer, tied head", "tied head in shards"])
def carried(request: pytest.FixtureRequest, train: Train, tmp_path_factory: pytest.TempPathFactory) -> Carried:
    """A model and what was published of it."""
    case, limit = (
        CASES.get(request.param, CASES["transformer, tied head"]),
        LIMIT if "shards" in request.param else None,
    )
    trained = train(case)
    made = export(str(trained.run), tmp_path_factory.mktemp("carried") / "made", max_shard_bytes=limit)
    return Carried(trained, made, limit)


def test_the_library_reads_the_bits_of_the_trained_model(carried: Carried) -> None:
    state, proof = carried.trained.model.state_dict(), carried.made.proof
    found = read(carried.made.folder)
    assert found.keys() == state.keys() - proof.weights.tied.keys()
    assert all(same_bits(found[key], state[key]) for key in found)
    assert (proof.grade, proof.weights.identical) == ("weights-identical", True)
    assert proof.entry == ("model.safetensors" if carried.limit is None else "model.safetensors.index.json")


def test_tied_names_stand_in_the_metadata_beside_the_tensor_that_is_kept(carried: Carried) -> None:
    tied = carried.made.proof.weights.tied
    assert tied == ({} if "0.weight" in carried.trained.model.state_dict() else {"head.weight": "embed.weight"})
    for path in carried.made.folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            here = {other: kept for other, kept in tied.items() if kept in opened.keys()}  # noqa: SIM118
            assert opened.metadata() == {"format": "pt", **here}
    assert any("head.weight is embed.weight" in note for note in carried.made.proof.notes) is bool(tied)


def test_the_checkpoint_s_own_digests_are_the_word(carried: Carried) -> None:
    checkpoint, proof = Run(str(carried.trained.run)).latest(), carried.made.proof
    records = checkpoint.records["model"]
    assert {key: each.digest for key, each in proof.weights.tensors.items()} == {
        key: each.digest for key, each in records.items() if each.alias is None
    }
    assert (proof.source.run_id, proof.source.checkpoint) == (checkpoint.manifest.run_id, checkpoint.name)
    assert (proof.source.step, proof.source.epoch, proof.source.object) == (checkpoint.step, checkpoint.epoch, "model")


def test_the_index_is_that_of_hugging_face(carried: Carried) -> None:
    folder, files = carried.made.folder, sorted(path.name for path in carried.made.folder.glob("*.safetensors"))
    if carried.limit is None:
        assert files == ["model.safetensors"]
        return
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in read(folder).values())


def test_the_library_loads_them_into_a_tied_model(carried: Carried) -> None:
    if carried.limit is None:
        fresh = carried.trained.case.build()
        assert load_model(fresh, carried.made.folder / "model.safetensors") == (set(), [])
        batch = carried.trained.case.batch()
        assert same_bits(fresh.eval()(batch), carried.trained.model(batch))


def test_a_cast_is_published_as_such_and_leaves_whole_numbers_alone(train: Train, tmp_path: Path) -> None:
    trained = train(CASES["0-d tensors"])
    made = export(str(trained.run), tmp_path / "made", dtype="bfloat16")
    found = read(made.folder)
    for key, value in trained.model.state_dict().items():
        assert same_bits(found[key], value.bfloat16() if value.is_floating_point() else value), key
    assert made.proof.weights.cast_to == "bfloat16"
    assert any("cast to bfloat16" in note for note in made.proof.notes)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_cast_is_that_of_torch(tmp_path: Path, dtype: str) -> None:
    value = torch.tensor([0.0, -0.0, 1e-45, 65504.0, 65520.0, 1e38, 3.3895e38, float("nan"), float("-inf"), 1 / 3])
    values = {"plain": value, "double": value.double() * 1.1, "transposed": value.view(2, 5).t()}
    weights = [WeightSpec(name, dtype, tuple(each.shape)) for name, each in values.items()]
    write_weights(LocalStorage(tmp_path), weights, values.__getitem__, tied={}, max_bytes=None)
    found = read(tmp_path)
    assert all(same_bits(found[name], each.to(getattr(torch, dtype))) for name, each in values.items())


def test_the_average_of_weights_has_the_names_of_the_model_that_it_averages(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    average = torch.optim.swa_utils.AveragedModel(model)
    with Trainer({"run": str(tmp_path / "run")}, model=model, average=average) as trainer:
        for _ in trainer.steps(2):
            with torch.no_grad():
                model[0].weight.mul_(2)
            average.update_parameters(model)
    made = export(str(tmp_path / "run"), tmp_path / "made", object="average")
    found = read(made.folder)
    assert found.keys() == model.state_dict().keys()
    assert all(same_bits(found[key], value) for key, value in average.module.state_dict().items())
    assert not same_bits(found["0.weight"], model[0].weight)


def test_a_model_without_weights_makes_an_empty_file(tmp_path: Path) -> None:
    with Trainer({"run": str(tmp_path / "run")}, model=nn.Flatten()) as trainer:
        list(trainer.steps(1))
    made = export(str(tmp_path / "run"), tmp_path / "made")
    assert read(made.folder) == {}
    verify(made.folder)


# -- memory -----------------------------------------------------------------------------------------------------------

MIB = 2**20
TENSORS, TENSOR_MIB = 8, 16

PEAK = """
import sys
from resumable.export import export
from resumable.export import exporter, golden_outputs
from resumable.export.formats import safetensors

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

before = peak()
export(sys.argv[1], sys.argv[2], max_shard_bytes=eval(sys.argv[3]), dtype=eval(sys.argv[4]))
print(peak() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model has many tensors that are large beside all else."""
    model = nn.ParameterList([torch.zeros(TENSOR_MIB * MIB // 4) for _ in range(TENSORS)])
    run = tmp_path_factory.mktemp("large") / "run"
    with Trainer(
        {"run": str(run), "every": {"steps": None, "minutes": None}, "keep": {"last": 1}}, model=model
    ) as trainer:
        next(iter(trainer.steps(1)))  # which saves
    return run


# The tensor itself and a quarter of it for all else; of a cast, the tensor before and after.
@pytest.mark.parametrize(("limit", "dtype", "tensors"), [(None, None, 1.5), (50 * MIB, "bfloat16", 2)])
def test_one_tensor_at_a_time_is_in_memory(
    large: Path, tmp_path: Path, limit: int | None, dtype: str | None, tensors: float
) -> None:
    command = [PYTHON, "-c", PEAK, str(large), str(tmp_path / "made"), repr(limit), repr(dtype)]
    # Or what was freed would be kept by the allocator, now and then.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(MIB)}
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(ended.stdout) * 1024 < tensors * TENSOR_MIB * MIB, ended.stdout
