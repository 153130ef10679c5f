"""Checkpoints of several ranks, read by one process: every way to divide a state gives the same state back."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from resumable import (
    Checkpoint,
    CorruptCheckpointError,
    NoCheckpointError,
    Run,
    RunMismatchError,
    Trainer,
    load_weights,
)
from resumable.cli import app
from resumable.cli.checkpoint_diff import compare, diff_checkpoints
from resumable.export import export
from resumable.state.objects.choose_adapter import adapt
from resumable.state.tensors.boxes import Box
from resumable.state.tensors.facts import tensor_digest
from tests.harness.folders import quick_folder
from tests.ranks import Divide, Part, RankWriter, along, round_robin, tiling


class Net(nn.Module):
    """Ties, frozen weights, buffers that each rank has for itself, an odd memory format, and sizes of all kinds."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(13, 6)
        self.norm = nn.BatchNorm1d(6)
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.head = nn.Linear(6, 13, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("nothing", torch.empty(0, 5))
        self.register_buffer("flags", torch.rand(7) > 0.5)
        self.conv.bias.requires_grad_(False)
        self.norm.running_mean.uniform_()

    def forward(self, x: Tensor) -> Any:
        return self.head(self.norm(self.embed(x)))


class Replay:
    """A buffer of rows, and plain values."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.rows = torch.randint(0, 256, (50, 4, 3), dtype=torch.uint8)
        self.count = seed

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.count = state["rows"], state["count"]


def objects(seed: int = 1) -> dict[str, Any]:
    net = Net(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    for parameter in net.parameters():
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    return {
        "model": net,
        "optimizer": optimizer,
        "replay": Replay(seed),
        "notes": {"seen": [1, 2.5], "t": torch.ones(30)},
    }


def ddp(world: int) -> Divide:
    """Whole tensors in turn, frozen ones in a file of their own, and statistics of which each rank has its copy."""
    turns = round_robin(world)

    def divide(owner: str, key: str, tensor: Tensor) -> Iterable[Part]:
        if key.startswith("norm.running"):
            return [Part(rank, value=tensor + rank) for rank in range(world)]
        return [part._replace(file="frozen" if key == "conv.bias" else "") for part in turns(owner, key, tensor)]

    return divide


def fsdp(world: int) -> Divide:
    """Rows of everything but what has a memory format, slabs of the replay buffer."""
    rows, turns = along(world), round_robin(world)

    def divide(owner: str, key: str, tensor: Tensor) -> Iterable[Part]:
        if owner == "replay":
            parts = tiling(tensor.shape, {0: [*range(0, len(tensor), 7), len(tensor)]}, [world - 1])
            return [part._replace(file="slabs") for part in parts]
        if key == "norm.running_var":
            return [part._replace(rank=(part.rank + 1) % world) for part in rows(owner, key, tensor)]
        return turns(owner, key, tensor) if "conv.weight" in key else rows(owner, key, tensor)

    return divide


def nested(rows: int, columns: int) -> Divide:
    """Rows over one dimension of a mesh and columns over the other; ragged, and copies of some boxes of rank 0."""

    def divide(_owner: str, key: str, tensor: Tensor) -> Iterable[Part]:
        if tensor.ndim < 2 or "conv" in key or not tensor.numel():
            return [Part(rows * columns - 1)]
        cuts = {d: cut(tensor.shape[d], n) for d, n in ((0, rows), (1, columns))}
        parts = tiling(tensor.shape, cuts, range(rows * columns))
        if key.endswith("exp_avg") and parts[0].box is not None:  # a second replica, which holds other bits
            first = tensor[parts[0].box.slices]
            return [parts[0]._replace(value=first), parts[0]._replace(rank=rows * columns, value=first + 1), *parts[1:]]
        return parts

    return divide


def cut(size: int, count: int) -> list[int]:
    return sorted({0, size, *(max(1, size * n // (count + 1)) for n in range(1, count))})


DIVISIONS: dict[str, tuple[int, Callable[[], Divide]]] = {
    "whole tensors on two ranks": (2, lambda: ddp(2)),
    "whole tensors on five ranks": (5, lambda: ddp(5)),
    "rows on two ranks, and slabs": (2, lambda: fsdp(2)),
    "rows on 64 ranks, of which most hold nothing": (64, lambda: fsdp(64)),
    "columns on three ranks": (3, lambda: by_columns(3)),
    "a mesh of 2 by 3, and a rank of a second replica": (7, lambda: nested(2, 3)),
}


def by_columns(world: int) -> Divide:
    return lambda owner, key, tensor: [Part(world - 1)] if "conv" in key else along(world, 1)(owner, key, tensor)


@pytest.fixture(scope="module", params=DIVISIONS, ids=list(DIVISIONS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    world, divide = DIVISIONS[request.param]
    path = tmp_path_factory.mktemp("ranks") / "run"
    RankWriter(path, world, divide()).save(7, **objects())
    return path


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same state, written by one rank."""
    path = tmp_path_factory.mktemp("single") / "run"
    RankWriter(path, 1, round_robin(1)).save(7, **objects())
    return path


def latest(run: Path) -> Checkpoint:
    return Run(str(run)).latest()


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    with pytest.raises(SystemExit, match=str(code)):
        app([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def assert_same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, Tensor):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert found.stride() == wanted.stride() or not wanted.numel()
        assert torch.equal(found, wanted.detach())
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_same(found[key], wanted[key])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        assert found == wanted


# -- reading ----------------------------------------------------------------------------------------------------------


def test_it_is_listed_shown_and_verified(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latest(run).verify()
    assert said(capsys, "verify", str(run))["ok"]
    [row] = said(capsys, "ls", str(run))["checkpoints"]
    shown = said(capsys, "show", str(run))
    assert row["step"] == shown["step"] == 7
    assert shown["world"] == latest(run).manifest.world
    net = Net(1)
    assert shown["summary"]["model"]["elements"] == sum(
        value.numel() for name, value in net.state_dict().items() if name != "head.weight"
    )
    assert shown["summary"]["replay"]["tensors"] == 1


def test_every_object_is_loaded_as_it_was(run: Path) -> None:
    wanted = objects()
    checkpoint = latest(run)
    assert_same(checkpoint.load("model"), dict(wanted["model"].state_dict()))
    assert_same(checkpoint.load("optimizer"), adapt(wanted)["optimizer"].capture())
    assert_same(checkpoint.load("replay"), wanted["replay"].state_dict())
    assert_same(checkpoint.load("notes"), wanted["notes"])
    model = checkpoint.load("model")
    assert model["head.weight"] is model["embed.weight"]


def test_a_model_is_filled_in_place_by_a_checkpoint_and_by_a_url(run: Path) -> None:
    for fill in (latest(run).load_into, lambda net: load_weights(net, f"{run}@latest")):
        net = Net(2)
        before = net.embed.weight.data_ptr()
        fill(net)
        assert net.embed.weight.data_ptr() == before
        assert_same(dict(net.state_dict()), dict(Net.state_dict(objects()["model"])))


def test_any_box_of_any_tensor_is_read(run: Path) -> None:
    checkpoint = latest(run)
    generator = torch.Generator().manual_seed(5)
    for name in ("model", "optimizer", "replay"):
        for key, value in checkpoint.tensors(name).items():
            starts = [int(torch.randint(0, size + 1, (), generator=generator)) for size in value.shape]
            sizes = [
                int(torch.randint(0, size - start + 1, (), generator=generator))
                for start, size in zip(starts, value.shape, strict=True)
            ]
            found = checkpoint.read_box(name, key, starts, sizes)
            assert torch.equal(found, value[Box(tuple(starts), tuple(sizes)).slices]), (name, key, starts, sizes)


def test_it_differs_in_nothing_from_the_same_state_of_one_rank(run: Path, single: Path) -> None:
    assert [str(found) for found in compare(latest(run), latest(single))] == []
    assert [str(found) for found in compare(latest(single), latest(run))] == []


def test_a_flipped_byte_in_a_file_is_found_by_verify(run: Path) -> None:
    checkpoint = latest(run)
    blobs = sorted(checkpoint.manifest.blobs.items())
    for name, blob in blobs[:: max(1, len(blobs) // 8)]:
        file = run / blob.path
        data = file.read_bytes()
        flipped = bytearray(data)
        flipped[-1] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(CorruptCheckpointError, match=name):
            latest(run).verify()
        file.write_bytes(data)
    latest(run).verify()


# -- what only some divisions have ------------------------------------------------------------------------------------


def test_one_other_element_in_one_shard_is_found_by_diff(tmp_path: Path, single: Path) -> None:
    changed = objects()
    with torch.no_grad():
        changed["model"].embed.weight[12, 5] += 1
    RankWriter(tmp_path / "run", 2, fsdp(2)).save(7, **changed)
    found = [str(each) for each in compare(latest(tmp_path / "run"), latest(single))]
    assert found == [f"model.{key}.weight: 1 of 78 elements differ, by up to 1" for key in ("embed", "head")]


def test_what_a_rank_has_for_itself_is_compared_where_both_have_as_many_ranks(tmp_path: Path) -> None:
    def divide(owner: str, key: str, tensor: Tensor, *, more: float = 0.0) -> Iterable[Part]:
        if key == "1.running_mean":
            return [Part(rank, value=tensor + rank * (1 + more)) for rank in range(3)]
        return [Part(0)]

    def drawn(rank: int, state: dict[str, Any]) -> None:
        if rank == 2:
            state["rng"]["other"] = 1
            state["position"]["passes"] = 4

    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    RankWriter(tmp_path / "a", 3, divide).save(1, model=net)
    RankWriter(tmp_path / "b", 3, functools.partial(divide, more=1.0), change=drawn).save(1, model=net)
    RankWriter(tmp_path / "c", 2, round_robin(2)).save(1, model=net)
    found = [each.path for each in compare(latest(tmp_path / "a"), latest(tmp_path / "b"))]
    assert found == [
        "rank 1: model.1.running_mean",
        "rank 2: rng.other",
        "rank 2: position.passes",
        "rank 2: model.1.running_mean",
    ]
    assert compare(latest(tmp_path / "a"), latest(tmp_path / "c")) == []
    [note] = diff_checkpoints(latest(tmp_path / "a"), latest(tmp_path / "c")).notes
    assert (note.path, note.a, note.b) == ("world", "3", "2")


def test_tensors_that_are_cut_otherwise_into_equal_parts_differ(tmp_path: Path) -> None:
    """The bytes of the two row blocks of one are those of the two column blocks of the other."""
    rows = torch.rand(6, 6)
    columns = torch.cat([part.reshape(6, 3) for part in rows.split(3)], dim=1)
    RankWriter(tmp_path / "a", 2, along(2, 0)).save(1, notes={"t": rows})
    RankWriter(tmp_path / "b", 2, along(2, 1)).save(1, notes={"t": columns})
    a, b = latest(tmp_path / "a"), latest(tmp_path / "b")
    digests = [[piece.digest for piece in side.records["notes"]["t"].pieces] for side in (a, b)]
    assert digests[0] == digests[1]
    [found] = compare(a, b)
    assert (found.path, found.elements) == ("notes.t", int((rows != columns).sum()))


def test_one_process_takes_the_copy_of_the_lowest_rank_that_has_one(tmp_path: Path) -> None:
    value = torch.rand(30)

    def divide(_owner: str, _key: str, tensor: Tensor) -> Iterable[Part]:
        return [Part(rank, value=tensor + rank) for rank in (3, 1, 2)]

    RankWriter(tmp_path / "run", 4, divide).save(1, notes={"t": value})
    assert torch.equal(latest(tmp_path / "run").load("notes")["t"], value + 1)


def test_a_tensor_that_is_one_slab_has_no_box(tmp_path: Path) -> None:
    replay = Replay(1)
    RankWriter(tmp_path / "run", 1, lambda owner, key, tensor: [Part(0, file="slabs")]).save(1, replay=replay)
    checkpoint = latest(tmp_path / "run")
    checkpoint.verify()
    assert checkpoint.records["replay"]["rows"].boxes is None
    assert_same(checkpoint.load("replay"), replay.state_dict())


def test_the_document_of_an_object_is_that_of_the_lowest_rank_that_has_one(tmp_path: Path) -> None:
    def take_away(rank: int, state: dict[str, Any]) -> None:
        if rank == 0:
            state["objects"].pop("notes")
        else:
            state["objects"]["notes"] = {"of": rank}

    RankWriter(tmp_path / "run", 3, round_robin(3), change=take_away).save(1, notes={"of": 0}, model=Net(1))
    assert latest(tmp_path / "run").load("notes") == {"of": 1}


def test_older_slabs_that_were_replaced_stay_in_their_file_and_are_ignored(tmp_path: Path) -> None:
    """Of one file of slabs the records name some only."""
    replay = Replay(1)

    def leave_out(rank: int, state: dict[str, Any]) -> None:
        columns = state["tensors"]["replay"]
        pieces = columns["pieces"]
        [gone] = [
            index for index, offsets in enumerate(pieces["offsets"]) if offsets[0] == 0 and pieces["blob"][index] == 0
        ]
        for name in ("key", "blob", "begin", "offsets", "shape"):
            del pieces[name][gone]
        pieces["digest"] = pieces["digest"][: 32 * gone] + pieces["digest"][32 * (gone + 1) :]

    def divide(_owner: str, _key: str, tensor: Tensor) -> Iterable[Part]:
        boxes = [Box((0, 0, 0), (25, 4, 3)), Box((25, 0, 0), (25, 4, 3))]
        newer = [Part(0, boxes[0], tensor[:25], "")]
        return [Part(0, boxes[0], tensor[:25] + 1, "slabs"), Part(0, boxes[1], None, "slabs"), *newer]

    def no_copies(rank: int, state: dict[str, Any]) -> None:
        state["tensors"]["replay"]["pieces"]["own"] = []
        leave_out(rank, state)

    RankWriter(tmp_path / "run", 1, divide, change=no_copies).save(1, replay=replay)
    checkpoint = latest(tmp_path / "run")
    checkpoint.verify()
    assert_same(checkpoint.load("replay"), replay.state_dict())


def test_weights_in_shards_are_exported_with_the_digests_of_whole_tensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    RankWriter(tmp_path / "run", 4, fsdp(4)).save(7, **objects())
    made = export(f"{tmp_path / 'run'}@latest", tmp_path / "out", object="model")
    wanted = objects()["model"].state_dict()
    found = load_file(made.folder / "model.safetensors")
    assert {name: value for name, value in wanted.items() if name != "head.weight"}.keys() <= found.keys()
    for name, value in found.items():
        assert torch.equal(value, wanted[name]), name
        assert made.proof.weights.tensors[name].digest == tensor_digest(wanted[name]), name


def test_a_trainer_with_one_process_refuses_it_and_claims_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    RankWriter(run, 2, ddp(2)).save(7, model=nn.Linear(2, 2))
    before = contents(run)
    with pytest.raises(RunMismatchError, match="saved by 2 processes, expected 1") as caught:
        Trainer({"run": str(run)}, model=nn.Linear(2, 2))
    assert "load_weights" in str(caught.value.hint)
    assert {path: data for path, data in contents(run).items() if path != str(run / "lock")} == before


def contents(run: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(run.rglob("*"))}


# -- large files and other programs -----------------------------------------------------------------------------------


def test_a_part_of_a_large_tensor_is_proved_by_the_ranges_of_its_file_alone(tmp_path: Path) -> None:
    rows = torch.arange(3 * 2**21, dtype=torch.int64).reshape(-1, 1024)  # 48 MiB: a header and three ranges
    RankWriter(tmp_path / "run", 2, lambda owner, key, tensor: [Part(1)]).save(1, notes={"rows": rows})
    checkpoint = latest(tmp_path / "run")
    assert torch.equal(checkpoint.read_box("notes", "rows", [2040, 1000], [20, 24]), rows[2040:2060, 1000:])
    file = tmp_path / "run" / checkpoint.manifest.blobs["notes.rank00001.safetensors"].path
    with file.open("r+b") as opened:
        opened.seek(checkpoint.records["notes"]["rows"].pieces[0].begin + 8 * 1024 * 5000)
        opened.write(b"\xff")
    assert torch.equal(checkpoint.read_box("notes", "rows", [0, 0], [100, 1]), rows[:100, :1])
    with pytest.raises(CorruptCheckpointError, match=r"^step\S+: notes\.rank00001\.safetensors: range 2: digest"):
        checkpoint.read_box("notes", "rows", [5000, 0], [1, 1])


@pytest.mark.parametrize(
    ("key", "offsets", "shape"), [("rows", [0], [6]), ("rows", [0, 0], [1, 6]), ("rows", [-1, 0], [1, 1])]
)
def test_a_box_that_is_none_is_a_mistake_of_the_caller(
    tmp_path: Path, key: str, offsets: list[int], shape: list[int]
) -> None:
    RankWriter(tmp_path / "run", 1, round_robin(1)).save(1, notes={"rows": torch.rand(5, 5)})
    with pytest.raises(ValueError, match=r"not within shape \[5, 5\]"):
        latest(tmp_path / "run").read_box("notes", key, offsets, shape)
    with pytest.raises(NoCheckpointError, match="notes: no tensor 'other'"):
        latest(tmp_path / "run").read_box("notes", "other", [0, 0], [1, 1])


def test_torch_joins_the_shards_and_safetensors_reads_each(tmp_path: Path) -> None:
    """Sharded weights stay readable without this package."""
    from safetensors.torch import load_file
    from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files

    net = nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.Linear(7, 3, bias=False))
    divide = nested(2, 2)
    name = RankWriter(tmp_path / "run", 4, divide).save(1, model=net)
    shards, joined = tmp_path / "shards", tmp_path / "joined"
    shards.mkdir()
    joined.mkdir()
    for file in (tmp_path / "run" / "checkpoints" / str(name)).glob("model.*"):
        (shards / file.name).write_bytes(file.read_bytes())
        assert load_file(file).keys() <= net.state_dict().keys()
    state = net.state_dict()
    consolidate_safetensors_files(str(shards), str(joined), fqn_to_index_mapping=dict.fromkeys(state, 1))
    [made] = joined.glob("*.safetensors")
    found = load_file(made)
    assert found.keys() == state.keys()
    assert [key for key, value in state.items() if not torch.equal(found[key], value)] == []


# -- at random --------------------------------------------------------------------------------------------------------


@st.composite
def divisions(draw: st.DrawFn) -> tuple[int, dict[str, list[Part]]]:
    """The number of ranks, and for each of a few tensors any grid, dealt out to the ranks at random."""
    world = draw(st.integers(2, 7))
    ranks = st.integers(0, world - 1)
    parts: dict[str, list[Part]] = {}
    for key, tensor in SHAPES.items():
        cuts = {
            dimension: sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))})
            for dimension, size in enumerate(tensor.shape)
            if size
        }
        boxes = tiling(tensor.shape, cuts, [0]) if tensor.numel() else [Part(0)]
        # A file holds one piece of a tensor at most, so no two boxes of one tensor are of one rank and one file.
        places = draw(st.permutations([(rank, file) for rank in range(world) for file in ("", "frozen")]))
        if len(boxes) > len(places):
            boxes = [Part(draw(ranks))]
        parts[key] = [part._replace(rank=rank, file=file) for part, (rank, file) in zip(boxes, places, strict=False)]
    return world, parts


SHAPES = {
    "cube": torch.arange(3 * 5 * 4).reshape(3, 5, 4),
    "matrix": torch.rand(11, 7, dtype=torch.float64),
    "vector": torch.rand(9).to(torch.bfloat16),
    "number": torch.rand(()),
    "nothing": torch.rand(4, 0),
}


def holder() -> nn.Module:
    """A module, whose tensors are never written into its document."""
    module = nn.Module()
    for key, tensor in SHAPES.items():
        module.register_buffer(key, tensor)
    return module


@settings(max_examples=20)
@given(divisions(), st.integers(1, 5))
def test_what_n_ranks_wrote_is_what_m_ranks_read(division: tuple[int, dict[str, list[Part]]], readers: int) -> None:
    world, parts = division
    with quick_folder() as folder:
        RankWriter(folder / "run", world, lambda _owner, key, _tensor: parts[key]).save(1, model=holder())
        checkpoint = latest(folder / "run")
        checkpoint.verify()
        assert_same(checkpoint.load("model"), SHAPES)
        for key, tensor in SHAPES.items():
            rows = along(readers)("model", key, tensor)
            for box in (part.box for part in rows if part.box is not None):
                found = checkpoint.read_box("model", key, box.offsets, box.shape)
                assert torch.equal(found, tensor[box.slices])
