"""What `load_weights` may be pointed at: everything is told by what is there, and said where it cannot be."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from resumable import (
    CheckpointError,
    ConfigError,
    CorruptCheckpointError,
    NoCheckpointError,
    Run,
    RunMismatchError,
    load_weights,
)
from tests.hugging import INDEX, index, shards
from tests.run.test_run import trained


def made(seed: int = 1) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 4)


def loads(url: Any, **options: Any) -> bool:
    """Whether the weights of `made()` come from there."""
    net = made(2)
    load_weights(net, url, **options)
    return torch.equal(net.weight, made().weight) and torch.equal(net.bias, made().bias)


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://weights"
    fsspec.filesystem("memory").rm("/weights", recursive=True)


def put(url: str, data: bytes) -> str:
    with fsspec.open(url, "wb") as file:
        file.write(data)
    return url


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "step"),
    [("", 12), ("@latest", 12), ("@best", 8), ("@finite", 12), ("@4", 4), ("@step-000000008.e0002.a0001", 8)],
)
def test_a_run_and_a_selector(tmp_path: Path, selector: str, step: int) -> None:
    tiny = trained(str(tmp_path / "run"))
    load_weights(tiny.model, f"{tmp_path}/run{selector}")
    wanted = Run(str(tmp_path / "run")).at(step).load("model")
    assert all(torch.equal(value, wanted[name]) for name, value in tiny.model.state_dict().items())


@pytest.mark.parametrize("end", ["", "/"])
def test_a_folder_of_a_checkpoint(tmp_path: Path, memory: str, end: str) -> None:
    for run in (str(tmp_path / "run"), memory + "/run"):
        tiny = trained(run)
        load_weights(tiny.model, f"{run}/checkpoints/step-000000004.e0001.a0001{end}")
        wanted = Run(run).at(4).load("model")
        assert all(torch.equal(value, wanted[name]) for name, value in tiny.model.state_dict().items())


def test_a_checkpoint_is_found_through_a_link_and_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = trained(str(tmp_path / "run"))
    folder = tmp_path / "run" / "checkpoints" / "step-000000004.e0001.a0001"
    (tmp_path / "newest").symlink_to(folder)
    assert load_weights(tiny.model, tmp_path / "newest").tensors == 9
    monkeypatch.chdir(folder)
    assert load_weights(tiny.model, ".").tensors == 9


def test_a_checkpoint_that_was_taken_out_of_its_run_is_refused(tmp_path: Path) -> None:
    tiny = trained(str(tmp_path / "run"))
    folder = (tmp_path / "run" / "checkpoints" / "step-000000004.e0001.a0001").rename(tmp_path / "alone")
    with pytest.raises(CheckpointError, match="alone: a checkpoint outside of its run"):
        load_weights(tiny.model, folder)
    assert load_weights(tiny.model, folder / "model.safetensors").tensors == 9
    folder = folder.rename(tmp_path / "step-000000004.e0001.a0001")
    with pytest.raises(CheckpointError, match=r"a0001: a checkpoint outside of its run"):
        load_weights(tiny.model, folder)


def test_a_step_that_is_not_there_says_which_are(tmp_path: Path) -> None:
    tiny = trained(str(tmp_path / "run"))
    with pytest.raises(NoCheckpointError, match="no checkpoint at step 5"):
        load_weights(tiny.model, f"{tmp_path}/run@5")


# -- files ------------------------------------------------------------------------------------------------------------


def test_one_file_of_any_name(tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = save(made().state_dict())
    for url in (f"{tmp_path}/a.safetensors", f"{tmp_path}/weights", f"file://{tmp_path}/b.safetensors"):
        assert loads(put(url, data))
    assert loads(put(f"{memory}/a.safetensors", data))
    assert loads(put(f"{memory}/weights", data))
    put(f"{tmp_path}/model@2", data)
    assert loads(tmp_path / "model@2"), "no selector, for there is no such run"
    monkeypatch.chdir(tmp_path)
    assert loads("a.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert loads("~/a.safetensors")


def test_a_file_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("deep/model.safetensors", save(made().state_dict()))
    assert loads(f"zip://deep/model.safetensors::file://{tmp_path}/a.zip")
    assert loads(f"zip://deep::file://{tmp_path}/a.zip")
    for url in ("zip://deep/model.safetensors", "zip://deep"):
        assert loads(url, storage_options={"fo": str(tmp_path / "a.zip")})


def test_a_protocol_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        loads("nosuch://bucket/model")


def test_a_folder_of_one_file_and_one_of_shards(tmp_path: Path, memory: str) -> None:
    (tmp_path / "one").mkdir()
    save_file(made().state_dict(), tmp_path / "one" / "model.safetensors")
    (tmp_path / "one" / "config.json").write_text("{}")
    folder = shards(tmp_path / "many", made().state_dict(), count=2)
    assert loads(tmp_path / "one")
    assert loads(folder)
    assert loads(folder / INDEX)
    for path in (tmp_path / "one" / "model.safetensors", *folder.iterdir()):
        put(f"{memory}/{path.parent.name}/{path.name}", path.read_bytes())
    assert loads(memory + "/one")
    assert loads(memory + "/many/")


def test_a_cache_that_is_made_of_links(tmp_path: Path) -> None:
    folder = shards(tmp_path / "blobs", made().state_dict(), count=2)
    (tmp_path / "snapshots").mkdir()
    for path in folder.iterdir():
        (tmp_path / "snapshots" / path.name).symlink_to(Path("..") / "blobs" / path.name)
    assert loads(tmp_path / "snapshots")


def test_a_tensor_that_the_index_does_not_name_is_taken_too(tmp_path: Path) -> None:
    folder = shards(tmp_path, made().state_dict(), count=1)
    index(folder, {"weight_map": {"weight": "model-00001-of-00001.safetensors"}})
    assert loads(folder)


def test_a_file_has_no_objects_to_choose_from(tmp_path: Path) -> None:
    save_file(made().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(RunMismatchError, match=r"name: 'ema', but .* holds the weights of one model"):
        load_weights(made(), tmp_path / "a.safetensors", name="ema")


# -- what is not there ------------------------------------------------------------------------------------------------


def test_an_unknown_place_says_what_was_looked_for_and_what_was_found(tmp_path: Path, memory: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    put(f"{memory}/notes.txt", b"x")
    for url in (str(tmp_path), memory):
        with pytest.raises(NoCheckpointError, match=r"no weights here; expected a run \(run\.json") as caught:
            load_weights(made(), url)
        message = caught.value.message
        assert all(name in message for name in ("manifest.json", "model.safetensors", INDEX, ".safetensors file"))
        assert message.endswith("found notes.txt")
    with pytest.raises(NoCheckpointError, match=r"nowhere: no weights here.*found nothing"):
        load_weights(made(), tmp_path / "nowhere")


def test_a_file_of_another_name_is_pointed_at(tmp_path: Path) -> None:
    save_file(made().state_dict(), tmp_path / "adapter.safetensors")
    with pytest.raises(NoCheckpointError) as caught:
        load_weights(made(), tmp_path)
    assert caught.value.hint == f"name one of the files: {tmp_path}/adapter.safetensors"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "last.ckpt", "model.pt", "renamed.safetensors"])
def test_a_pickle_is_never_read_and_the_hint_says_how_to_convert_it(tmp_path: Path, name: str) -> None:
    torch.save(made().state_dict(), tmp_path / name)
    places = [tmp_path / name] if name == "renamed.safetensors" else [tmp_path, tmp_path / name]
    for place in places:
        with pytest.raises(CheckpointError, match=f"{name}: a pickle of torch.save, which may run any code") as caught:
            load_weights(made(), place)
        assert "resumable convert" in str(caught.value.hint)


# -- damage -----------------------------------------------------------------------------------------------------------


def test_a_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    data = save(made().state_dict())
    path = tmp_path / "a.safetensors"
    for end in (0, 5, 60, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(CorruptCheckpointError, match=r"a\.safetensors: ") as caught:
            load_weights(made(), path)
        assert "is the copy complete?" in str(caught.value.hint)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(made().state_dict()))
    net = made()
    net.register_state_dict_pre_hook(lambda *_: path.write_bytes(path.read_bytes()[:-1]))
    with pytest.raises(CorruptCheckpointError, match=r"a\.safetensors: \d+ bytes, expected \d+"):
        load_weights(net, path)


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    table = {"weight": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]}}
    text = json.dumps({**table, "bias": {"dtype": "F32", "shape": [4], "data_offsets": [32, 48]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(48))
    with pytest.raises(CorruptCheckpointError, match=r"tensor 'weight': begins at byte|tensor 'bias': begins at byte"):
        load_weights(made(), tmp_path / "a.safetensors")


def test_a_bool_that_is_none_is_refused(tmp_path: Path) -> None:
    def masked() -> nn.Module:
        module = nn.Module()
        module.register_buffer("mask", torch.ones(4, dtype=torch.bool))
        return module

    path = tmp_path / "a.safetensors"
    path.write_bytes(save(masked().state_dict())[:-1] + b"\x07")
    with pytest.raises(CorruptCheckpointError, match=r"a\.safetensors: tensor 'mask': a bool that is neither 0 nor 1"):
        load_weights(masked(), path)


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "/etc/secret.safetensors", "a/../../secret.safetensors", "a\\b", ""]
)
def test_a_shard_outside_of_the_folder_is_refused(tmp_path: Path, shard: str) -> None:
    save_file(made().state_dict(), tmp_path / "secret.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    index(folder, {"weight_map": {"weight": shard, "bias": shard}})
    with pytest.raises(CorruptCheckpointError, match="which is no file inside of this folder"):
        load_weights(made(), folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "valid dictionary"),
        ("{", "not valid JSON"),
        ('{"metadata": {}}', "weight_map: Field required"),
        ('{"weight_map": {"weight": 1}}', r"weight_map\.weight: Input should be a valid string"),
        ('{"weight_map": {"a": "x", "a": "x"}}', "duplicate key 'a'"),
        ("[" * 100 + "]" * 100, "nested deeper"),
        ('{"weight_map": {"weight": "gone.safetensors"}}', r"names 'gone\.safetensors', which is missing"),
        ('{"weight_map": {"more": "model-00001-of-00002.safetensors"}}', "tensor 'more': not in 'model-00001-of-00002"),
    ],
)
def test_a_malformed_index_is_refused(tmp_path: Path, content: str, message: str) -> None:
    folder = shards(tmp_path, made().state_dict(), count=2)
    (folder / INDEX).write_text(content)
    with pytest.raises(CorruptCheckpointError, match=message):
        load_weights(made(), folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = shards(tmp_path, made().state_dict(), count=2)
    save_file(made().state_dict(), folder / "model-00002-of-00002.safetensors")
    with pytest.raises(CorruptCheckpointError, match=r"tensor 'weight': in .*00001-of-00002.* and in .*00002-of-00002"):
        load_weights(made(), folder)


def test_a_shard_that_is_a_pickle_is_named(tmp_path: Path) -> None:
    folder = shards(tmp_path, made().state_dict(), count=2)
    torch.save(made().state_dict(), folder / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors: a pickle"):
        load_weights(made(), folder)
