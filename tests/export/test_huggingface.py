"""Weights as safetensors files: read with the safetensors library, they are the checkpoint's bits under its names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

from resumable import Run, Trainer
from resumable.export import export, verify
from resumable.export.huggingface import Weight, holds, shards, write
from resumable.export.proof import WeightRecord
from resumable.store.local import LocalStorage
from tests.export.conftest import Train
from tests.export.models import CASES, language

LIMITS = st.none() | st.integers(1, 400)
WEIGHTS = st.lists(
    st.tuples(st.sampled_from(["float32", "bfloat16", "uint8"]), st.lists(st.integers(0, 9), max_size=2)), max_size=12
).map(lambda found: [Weight(f"w{n}", dtype, tuple(shape)) for n, (dtype, shape) in enumerate(found)])


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in dtype, shape and every bit of the values."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return one.contiguous().flatten().view(torch.uint8).equal(other.contiguous().flatten().view(torch.uint8))


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of an artefact, read by the library; of shards, those that the index names where it names them."""
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
def test_shards_hold_every_weight_once_in_its_order(weights: list[Weight], limit: int | None) -> None:
    assert [weight for shard in shards(weights, max_bytes=limit) for weight in shard] == weights


@given(WEIGHTS, LIMITS)
def test_no_shard_is_larger_than_allowed_unless_one_weight_alone_is(weights: list[Weight], limit: int | None) -> None:
    for shard in shards(weights, max_bytes=limit):
        assert limit is None or sum(weight.nbytes for weight in shard) <= limit or len(shard) == 1


@given(WEIGHTS, LIMITS)
def test_there_are_no_more_shards_than_that_takes(weights: list[Weight], limit: int | None) -> None:
    parts = shards(weights, max_bytes=limit)
    assert all(parts) or weights == []
    for before, after in zip(parts, parts[1:], strict=False):
        assert limit is not None
        assert sum(weight.nbytes for weight in before) + after[0].nbytes > limit


@given(WEIGHTS, LIMITS)
def test_files_of_any_shards_hold_what_was_written_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, weights: list[Weight], limit: int | None
) -> None:
    folder = tmp_path_factory.mktemp("files")
    values = {
        each.name: torch.randint(0, 127, (each.nbytes,), dtype=torch.uint8)
        .view(getattr(torch, each.dtype))
        .view(each.shape)
        for each in weights
    }
    digests = write(LocalStorage(folder), weights, values.__getitem__, tied={}, max_bytes=limit)
    found = read(folder)
    assert found.keys() == values.keys()
    assert all(same_bits(found[name], value) for name, value in values.items())
    records = {w.name: WeightRecord(dtype=w.dtype, shape=list(w.shape), digest=digests[w.name]) for w in weights}
    assert holds(folder.glob("*.safetensors"), records)


# -- of a checkpoint --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CNN in channels_last", "transformer, tied head"])
@pytest.mark.parametrize("limit", [None, 2000])
def test_the_library_reads_the_bits_of_the_trained_model(
    train: Train, tmp_path: Path, name: str, limit: int | None
) -> None:
    trained = train(CASES[name])
    made = export(str(trained.run), tmp_path / "made", max_shard_bytes=limit)
    state, tied = trained.model.state_dict(), made.proof.weights.tied
    found = read(made.folder)
    assert found.keys() == state.keys() - tied.keys()
    assert all(same_bits(found[key], state[key]) for key in found)
    assert made.proof.grade == "weights-identical"
    assert made.proof.weights.identical is True
    assert made.proof.entry == ("model.safetensors" if limit is None else "model.safetensors.index.json")


def test_the_index_is_that_of_hugging_face(train: Train, tmp_path: Path) -> None:
    trained = train(CASES["CNN with BatchNorm"])
    folder = export(str(trained.run), tmp_path / "made", max_shard_bytes=1000).folder
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 2
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(
        each.numel() * each.element_size() for each in trained.model.state_dict().values()
    )


@pytest.mark.parametrize("limit", [None, 20_000])
def test_tied_names_stand_in_the_metadata_beside_the_tensor_that_is_kept(
    train: Train, tmp_path: Path, limit: int | None
) -> None:
    trained = train(CASES["transformer, tied head"])
    made = export(str(trained.run), tmp_path / "made", max_shard_bytes=limit)
    assert made.proof.weights.tied == {"head.weight": "embed.weight"}
    for path in made.folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            tied = {"head.weight": "embed.weight"} if "embed.weight" in opened.keys() else {}  # noqa: SIM118
            assert opened.metadata() == {"format": "pt", **tied}
    assert any("head.weight is embed.weight" in note for note in made.proof.notes)


def test_the_library_loads_them_into_a_tied_model(train: Train, tmp_path: Path) -> None:
    trained = train(CASES["transformer, tied head"])
    folder = export(str(trained.run), tmp_path / "made").folder
    fresh = language()
    assert load_model(fresh, folder / "model.safetensors") == (set(), [])
    batch = trained.case.batch()
    assert same_bits(fresh.eval()(batch), trained.model(batch))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_cast_is_that_of_torch_and_of_floating_point_alone(train: Train, tmp_path: Path, dtype: str) -> None:
    trained = train(CASES["0-d tensors"])
    made = export(str(trained.run), tmp_path / "made", dtype=dtype)
    found = read(made.folder)
    for key, value in trained.model.state_dict().items():
        wanted = value.to(getattr(torch, dtype)) if value.is_floating_point() else value
        assert same_bits(found[key], wanted), key
    assert found["seen"].dtype is torch.int64
    assert made.proof.weights.cast_to == dtype
    assert any(f"cast to {dtype}" in note for note in made.proof.notes)


def test_the_average_of_weights_has_the_names_of_the_model_that_it_averages(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    model[1].bias = model[1].bias
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


def test_the_checkpoint_s_own_digests_are_the_word(train: Train, tmp_path: Path) -> None:
    trained = train(CASES["MLP"])
    checkpoint = Run(str(trained.run)).latest()
    made = export(checkpoint, tmp_path / "made")
    records = checkpoint.manifest.objects["model"].tensors
    assert {key: each.digest for key, each in made.proof.weights.tensors.items()} == {
        key: each.digest for key, each in records.items()
    }
    source = made.proof.source
    assert (source.run_id, source.checkpoint) == (checkpoint.manifest.run_id, checkpoint.name)
    assert (source.step, source.epoch, source.object) == (checkpoint.step, checkpoint.epoch, "model")


# -- memory -----------------------------------------------------------------------------------------------------------

MIB = 2**20
TENSORS, TENSOR_MIB = 20, 16

PEAK = """
import sys
from resumable.export import export
from resumable.export import exporting, golden, huggingface  # what comes with them is not what is measured

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
    with Trainer({"run": str(run), "every": {"steps": None, "minutes": None}, "keep": {"last": 1}}, model=model):
        pass  # the first save is enough
    return run


@pytest.mark.parametrize(("limit", "dtype", "tensors"), [(None, None, 3), (100 * MIB, "bfloat16", 4)])
def test_no_more_than_a_few_tensors_are_in_memory_at_once(
    large: Path, tmp_path: Path, limit: int | None, dtype: str | None, tensors: int
) -> None:
    command = [sys.executable, "-c", PEAK, str(large), str(tmp_path / "made"), repr(limit), repr(dtype)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(ended.stdout) * 1024 < tensors * TENSOR_MIB * MIB, ended.stdout
