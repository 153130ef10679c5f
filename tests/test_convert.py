"""Other people's files of torch.save: what they hold comes over with all its bits, and nothing of them is run."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import resumable
from resumable import CheckpointError, ConfigError, CorruptCheckpointError, NoCheckpointError, StateError
from resumable import convert as converting
from resumable.convert import convert
from tests.state.exactness import exactly


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        model(torch.rand(8, 3)).sum().backward()
        optimizer.step()
    return model, optimizer


def lightning() -> dict[str, Any]:
    """What the file of a Lightning trainer holds."""
    model, optimizer = trained()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    return {
        "epoch": 2,
        "global_step": 30,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": model.state_dict(),
        "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 3, "completed": 2}}, "state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "kth": float("inf")}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "hyper_parameters": collections.OrderedDict(lr=1e-3, layers=(4, 1), dtype=torch.bfloat16),
        "big": 2**200,
    }


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "x.safetensors"


@pytest.mark.parametrize("new_format", [True, False])
def test_a_lightning_file_comes_over_exactly(tmp_path: Path, target: Path, new_format: bool) -> None:
    tree = lightning()
    torch.save(tree, tmp_path / "last.ckpt", _use_new_zipfile_serialization=new_format)
    written = convert(tmp_path / "last.ckpt", target)
    found = resumable.load(target)
    assert exactly(found, tree)
    assert found["state_dict"]._metadata == tree["state_dict"]._metadata
    assert (written.tensors, written.size_bytes) == (28, target.stat().st_size)
    model, optimizer = trained()
    model.load_state_dict(found["state_dict"])
    optimizer.load_state_dict(found["optimizer_states"][0])
    step = resumable.load(target, only="optimizer_states.0.state.0.step")
    assert step == 3


def test_tied_weights_of_a_hugging_face_file_stay_tied(tmp_path: Path, target: Path) -> None:
    embed = torch.rand(5, 3)
    tree = collections.OrderedDict({"embed.weight": embed, "head.weight": embed, "view": torch.rand(4, 6)[1:3, ::2]})
    torch.save(tree, tmp_path / "pytorch_model.bin")
    assert convert(tmp_path / "pytorch_model.bin", target).elements == 15 + 6
    found = resumable.load(target)
    assert found["head.weight"] is found["embed.weight"]
    assert torch.equal(found["view"], tree["view"])


def test_a_bare_tensor_and_tensors_that_require_grad_come_over(tmp_path: Path, target: Path) -> None:
    for tree in (torch.rand(3), nn.Parameter(torch.rand(2)), [torch.rand(2, requires_grad=True), {1, 2}, b"x", None]):
        torch.save(tree, tmp_path / "x.pt")
        convert(tmp_path / "x.pt", target)
        assert exactly(resumable.load(target), tree)


def test_urls_are_fetched_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setattr(converting, "FETCH_PIECE_BYTES", 100)
    torch.save({"a": torch.arange(99.0)}, tmp_path / "x.pt")
    with fsspec.open("memory://tests-convert/x.pt", "wb") as file:
        file.write((tmp_path / "x.pt").read_bytes())
    convert("memory://tests-convert/x.pt", "memory://tests-convert/x.safetensors")
    assert torch.equal(resumable.load("memory://tests-convert/x.safetensors", only="a"), torch.arange(99.0))


def repacked(source: Path, method: int) -> None:
    """The same archive, as another program packs it."""
    with zipfile.ZipFile(source) as old:
        entries = [(entry.filename, old.read(entry)) for entry in old.infolist()]
    with zipfile.ZipFile(source, "w", method) as new:
        for name, data in entries:
            new.writestr(name, data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_that_another_program_packed_comes_over_exactly(tmp_path: Path, target: Path, method: int) -> None:
    """Mapped into memory, what is compressed would be taken for values."""
    torch.save({"a": torch.arange(99.0)}, tmp_path / "x.pt")
    repacked(tmp_path / "x.pt", method)
    convert(tmp_path / "x.pt", target)
    assert torch.equal(resumable.load(target, only="a"), torch.arange(99.0))


def test_a_bomb_of_a_file_is_refused(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(torch.zeros(2**20), tmp_path / "x.pt")
    repacked(tmp_path / "x.pt", zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(converting, "memory_bytes", lambda: 2**22)  # of a machine that this would fill
    with pytest.raises(CheckpointError, match=r"4\.0MiB unpacked, more than the memory of this machine"):
        convert(tmp_path / "x.pt", target)
    assert not target.exists()


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_file_is_named_and_not_run(tmp_path: Path, target: Path, new_format: bool) -> None:
    made, path = tmp_path / "made", tmp_path / "x.ckpt"
    torch.save(lightning() | {"hostile": Runs(made)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"refused for posix\.mkdir: .* nothing was run") as caught:
        convert(path, target)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert not made.exists()
    assert not target.parent.exists()
    with pytest.raises(CheckpointError, match="convert"):
        resumable.load(path)
    assert not made.exists()
    torch.load(path, weights_only=False)  # which shows that it would have run
    assert made.exists()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
        (argparse.Namespace(lr=1), r"argparse\.Namespace"),
        (collections.defaultdict(list), r"collections\.defaultdict"),
        (eval, "eval"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_neither_tensor_nor_plain_value_is_named(tmp_path: Path, target: Path, value: Any, named: str) -> None:
    torch.save({"x": value}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=f"refused for {named}: only tensors"):
        convert(tmp_path / "x.pt", target)
    assert not target.parent.exists()


def test_what_no_file_of_ours_can_hold_is_told_with_its_path(tmp_path: Path, target: Path) -> None:
    torch.save({"rows": [torch.eye(2).to_sparse()]}, tmp_path / "x.pt")
    with pytest.raises(StateError, match=r"obj\.rows\.0: a sparse_coo tensor cannot be stored"):
        convert(tmp_path / "x.pt", target)
    assert not target.parent.exists()


@pytest.mark.filterwarnings("ignore:`torch.jit")  # a DeprecationWarning; a FutureWarning in torch 2.14
def test_a_torchscript_program_is_named(tmp_path: Path, target: Path) -> None:
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "x.pt"))
    with pytest.raises(CheckpointError, match="refused for a TorchScript program"):
        convert(tmp_path / "x.pt", target)


def test_a_file_cut_short_anywhere_is_told(tmp_path: Path, target: Path) -> None:
    torch.save({"a": torch.rand(3)}, tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "x.pt").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=str(tmp_path / "x.pt")):
            convert(tmp_path / "x.pt", target)
    assert not target.parent.exists()


def test_another_pickle_and_other_files_are_told(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(Runs(tmp_path / "made")))
    with pytest.raises(CorruptCheckpointError, match=r"torch\.load cannot read it"):
        convert(path, target)
    path.write_bytes(pickle.dumps(Runs(tmp_path / "made"), protocol=2))
    with pytest.raises(CheckpointError, match=str(path)):
        convert(path, target)
    assert not (tmp_path / "made").exists()
    resumable.save([1], tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match=r"expected a file of torch\.save") as caught:
        convert(tmp_path / "y.safetensors", target)
    assert "resumable.load" in str(caught.value.hint)
    with pytest.raises(NoCheckpointError, match="no such file"):
        convert(tmp_path / "missing", target)
    assert not target.parent.exists()


def test_a_file_of_torch_save_by_the_name_of_another_format_is_read_as_what_it_is(tmp_path: Path, target: Path) -> None:
    torch.save({"a": torch.arange(3)}, tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", target)
    assert resumable.load(target, only="a").tolist() == [0, 1, 2]


def test_the_source_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torch.arange(3), "x.pt")
    (tmp_path / "link").symlink_to("x.pt")
    for target in ("x.pt", tmp_path / "x.pt", "link", f"file://{tmp_path}/x.pt"):
        with pytest.raises(ConfigError, match="source and target are the same file"):
            convert("x.pt", target)
    assert torch.load("x.pt", weights_only=True).tolist() == [0, 1, 2]
