"""`save` and `load`: any tree through one safetensors file, in whole or in part, here and on other storages."""

from __future__ import annotations

import collections
import io
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from safetensors import safe_open
from torch import nn

import resumable
from resumable import CheckpointError, ConfigError, CorruptCheckpointError, NoCheckpointError, StateError
from resumable.convert import convert
from resumable.state.files import tree_file
from resumable.state.tensors.facts import DTYPES, raw
from tests.faults.servers import botocore_session, shared_moto, shared_sftp
from tests.state.exactness import exactly, trees_of_tensors

URL = "memory://tests-files/tree.safetensors"


class Holding(NamedTuple):
    weights: Any


def through(tree: Any, url: str | Path = URL) -> Any:
    resumable.save(tree, url)
    return resumable.load(url)


class Tied(nn.Module):
    """A head that is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


# -- whole trees ------------------------------------------------------------------------------------------------------


@given(trees_of_tensors)
def test_every_tree_comes_back_exactly_and_the_library_opens_its_file(tree: Any) -> None:
    file = tree_file.file_of(tree, where="obj")
    data = b"".join(map(bytes, file))
    assert file.size == len(data)
    assert safetensors.torch.load(data).keys() == file.tensors.keys()
    assert exactly(through(tree), tree)


@pytest.mark.filterwarnings("ignore:.*support is experimental:UserWarning")  # ComplexHalf, and another in torch 2.14
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype_comes_back_with_all_its_bits(dtype: torch.dtype) -> None:
    tensor = (torch.arange(64, dtype=torch.uint8) * (1 if dtype is not torch.bool else 0)).view(dtype)
    found = through([tensor, tensor[:0], tensor[0]])
    assert [each.dtype for each in found] == [dtype] * 3
    assert [each.shape for each in found] == [tensor.shape, (0,), ()]
    assert torch.equal(raw(found[0]), raw(tensor))


def test_a_bare_tensor_has_a_name_for_other_programs(tmp_path: Path) -> None:
    tensor = torch.rand(3, 4)
    assert torch.equal(through(tensor, tmp_path / "x.safetensors"), tensor)
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert opened.metadata()["format"] == "pt"
        assert torch.equal(opened.get_tensor("tensor"), tensor)


def test_the_library_gives_the_same_tensors_under_dotted_keys(tmp_path: Path) -> None:
    model, momentum = nn.Linear(3, 2), torch.rand(2, 3).t()
    tree = {"model": model.state_dict(), "optimizer": {"state": {0: {"momentum": momentum}}}, "epoch": 3}
    resumable.save(tree, tmp_path / "x.safetensors")
    found = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert set(found) == {"model.weight", "model.bias", "optimizer.state.0.momentum"}
    assert torch.equal(found["model.weight"], model.weight)
    assert torch.equal(found["optimizer.state.0.momentum"], momentum)


def test_a_tensor_in_two_places_is_stored_once_and_is_one_afterwards(tmp_path: Path) -> None:
    tree = through(Tied().state_dict(), tmp_path / "x.safetensors")
    assert tree["head.weight"] is tree["embed.weight"]
    assert "head.weight" not in safetensors.torch.load_file(tmp_path / "x.safetensors")


def test_parameters_flags_and_memory_formats_come_back() -> None:
    image = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tree = through({"image": image, "weight": nn.Parameter(torch.rand(2)), "leaf": torch.rand(2, requires_grad=True)})
    assert tree["image"].is_contiguous(memory_format=torch.channels_last)
    assert type(tree["weight"]) is nn.Parameter
    assert type(tree["leaf"]) is torch.Tensor
    assert tree["leaf"].requires_grad


def test_a_state_dict_keeps_what_torch_has_beside_its_keys(tmp_path: Path) -> None:
    model = Tied()
    tree = {"models": [None, ("x", model.state_dict())], 5: collections.OrderedDict(a=1)}
    found = through(tree, tmp_path / "x.safetensors")
    assert found["models"][1][1]._metadata == model.state_dict()._metadata
    assert not hasattr(found[5], "_metadata")
    part = resumable.load(tmp_path / "x.safetensors", only="models.1.1")
    assert part._metadata == model.state_dict()._metadata
    assert not hasattr(resumable.load(tmp_path / "x.safetensors", only="5"), "_metadata")
    Tied().load_state_dict(part)


def test_what_was_loaded_belongs_to_whoever_loaded_it(tmp_path: Path) -> None:
    resumable.save({"x": torch.zeros(1000), "y": np.zeros(1000)}, tmp_path / "x.safetensors")
    first = resumable.load(tmp_path / "x.safetensors")
    first["x"].add_(1)
    first["y"] += 1
    assert not resumable.load(tmp_path / "x.safetensors")["x"].any()
    assert not resumable.load(tmp_path / "x.safetensors")["y"].any()


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved.safetensors"
    tree = {
        "model": collections.OrderedDict({"encoder.0.weight": torch.ones(2), "encoder.0.bias": torch.zeros(2)}),
        "optimizer": {"state": {0: {"step": torch.tensor(7.0)}, 1: {"step": torch.tensor(8.0)}}},
        "history": [0.5, (1, "two"), np.arange(300)],
        (1, "x"): "by its text",
        "epoch": 3,
    }
    resumable.save(tree, path)
    return path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("epoch", 3),
        ("history.1", (1, "two")),
        ("history.1.1", "two"),
        ("history.2", np.arange(300)),
        ("(1, 'x')", "by its text"),
        ("optimizer.state.1.step", torch.tensor(8.0)),
        ("optimizer.state.0", {"step": torch.tensor(7.0)}),
        ("optimizer.state", {0: {"step": torch.tensor(7.0)}, 1: {"step": torch.tensor(8.0)}}),
        ("model.encoder.0.weight", torch.ones(2)),
        ("model.encoder.0", collections.OrderedDict(weight=torch.ones(2), bias=torch.zeros(2))),
        ("model.encoder", collections.OrderedDict({"0.weight": torch.ones(2), "0.bias": torch.zeros(2)})),
    ],
    ids=str,
)
def test_a_path_leads_to_what_stands_there(saved: Path, path: str, expected: Any) -> None:
    assert exactly(resumable.load(saved, only=path), expected)


def test_tensors_whose_paths_read_alike_are_reached_by_their_keys(tmp_path: Path) -> None:
    resumable.save({"a.b": torch.tensor(1), "a": {"b": torch.tensor(2)}}, tmp_path / "x.safetensors")
    assert int(resumable.load(tmp_path / "x.safetensors", only="a.b")) == 1
    assert int(resumable.load(tmp_path / "x.safetensors", only="a.b~")) == 2


def test_a_bare_tensor_is_reached_by_its_key() -> None:
    resumable.save(torch.arange(3), URL)
    assert resumable.load(URL, only="tensor").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "path", ["model.encoder.0.wieght", "encoder", "model.", "", "epoch.x", "model.encoder.0.weight.x"]
)
def test_a_path_that_leads_nowhere_is_told_with_the_nearest_names(saved: Path, path: str) -> None:
    with pytest.raises(NoCheckpointError, match="nothing at only=") as caught:
        resumable.load(saved, only=path)
    assert str(saved) in caught.value.message
    assert path != "model.encoder.0.wieght" or "model.encoder.0.weight" in str(caught.value.hint)


def test_only_the_header_and_the_bytes_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    resumable.save({str(number): torch.full((2**18,), number) for number in range(16)}, path)
    got: list[int] = []
    preadv = os.preadv

    def counted(*arguments: Any) -> int:
        got.append(preadv(*arguments))
        return got[-1]

    monkeypatch.setattr(os, "preadv", counted)
    assert resumable.load(path, only="9").eq(9).all()
    assert 2**21 <= sum(got) <= 2**21 + 2**16


# -- files of others --------------------------------------------------------------------------------------------------


def test_a_file_of_the_library_comes_as_a_dict_of_its_tensors(tmp_path: Path) -> None:
    tensors = {
        "layer.weight": torch.rand(2, 3),
        "layer.scale": torch.rand(3).to(torch.float8_e5m2),
        "$tensor": torch.tensor(3),
        "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
        "wave": torch.rand(2, dtype=torch.complex64),
    }
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "who": "somebody"})
    found = resumable.load(tmp_path / "x.safetensors")
    assert type(found) is dict
    assert all(exactly(found[key], tensor) for key, tensor in tensors.items())
    assert found.keys() == tensors.keys()
    assert exactly(
        resumable.load(tmp_path / "x.safetensors", only="layer"),
        dict(list(found.items())[:0])
        | {key.removeprefix("layer."): found[key] for key in found if key.startswith("layer.")},
    )


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_of_torch_save_is_not_opened_and_the_hint_names_the_converter(tmp_path: Path, new_format: bool) -> None:
    torch.save({"a": torch.rand(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"a pickle of torch\.save") as caught:
        resumable.load(tmp_path / "x.pt")
    assert f"resumable convert {tmp_path / 'x.pt'}" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"", b"{", b"no safetensors at all", bytes(100), b"\xff" * 100])
def test_what_is_no_such_file_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=str(tmp_path / "x")):
        resumable.load(tmp_path / "x")


def test_a_sparse_file_larger_than_the_memory_is_refused_unread(tmp_path: Path) -> None:
    nbytes = 2**43
    text = b'{"x":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (nbytes, nbytes)
    with open(tmp_path / "x", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        try:
            file.truncate(8 + len(text) + nbytes)
        except OSError:
            pytest.skip("needs a file system with such large files")
    with pytest.raises(CheckpointError, match="more than the memory of this machine"):
        resumable.load(tmp_path / "x")


def test_a_file_of_a_newer_version_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_file, "VERSION", 3)
    monkeypatch.setattr(tree_file._Content, "__init__", _newer)
    resumable.save(torch.rand(2), tmp_path / "x")
    monkeypatch.undo()
    with pytest.raises(resumable.FormatVersionError, match="version 3 of the format"):
        resumable.load(tmp_path / "x")


def _newer(self: Any, **facts: Any) -> None:
    super(tree_file._Content, self).__init__(**facts | {"version": 3})


def test_a_file_is_of_the_second_version_only_where_earlier_programs_cannot_read_it(tmp_path: Path) -> None:
    for tree, version in (({"a": [1]}, 1), ({"a": collections.deque([1], 3)}, 2)):
        resumable.save(tree, tmp_path / "x")
        assert f'"version\\":{version},' in (tmp_path / "x").read_bytes().decode("latin1").replace(" ", "")
        assert resumable.load(tmp_path / "x") == tree


def test_metadata_of_a_state_dict_is_found_inside_of_deques_and_named_tuples(tmp_path: Path) -> None:
    tree = collections.deque([Holding(torch.nn.BatchNorm1d(2).state_dict())])
    resumable.save(tree, tmp_path / "x")
    assert resumable.load(tmp_path / "x")[0][0]._metadata == tree[0].weights._metadata


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason", "hint"),
    [
        (lambda: 0, "function cannot be stored", "code is not state"),
        (nn.Linear(1, 1), "Linear cannot be stored", "keep its .state_dict()"),
        (object(), "object cannot be stored", "keep plain values"),
        (torch.ones(2, requires_grad=True) * 2, "part of an autograd graph", "keep .detach()"),
        (torch.ones(2).to_sparse(), "sparse_coo tensor", "keep .to_dense()"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_come_back_is_told_with_its_path_before_a_byte_is_written(
    tmp_path: Path, value: Any, reason: str, hint: str
) -> None:
    with pytest.raises(StateError, match=reason) as caught:
        resumable.save({"deep": [1, {"in": value}], "big": torch.rand(1000)}, tmp_path / "new" / "x.safetensors")
    assert caught.value.message.startswith("obj.deep.1.in: ")
    assert hint in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def test_a_bool_that_is_none_would_not_be_read_and_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"obj\.mask: a bool that is neither 0 nor 1"):
        resumable.save({"mask": torch.tensor([0, 1, 7], dtype=torch.uint8).view(torch.bool)}, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_an_expanded_tensor_larger_than_the_memory_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"obj\.x: .* larger than the memory"):
        resumable.save({"x": torch.zeros(1).expand(2**44)}, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", [lambda url: resumable.save(1, url), resumable.load], ids=["save", "load"])
@pytest.mark.parametrize(
    "url",
    [io.BytesIO(), 7, b"x", "", "folder/", "memory://x/", "a\nb", "a\\b"],
    ids=lambda url: type(url).__name__ if isinstance(url, io.BytesIO) else repr(url),
)
def test_what_names_no_file_is_a_config_error(call: Callable[[Any], Any], url: Any) -> None:
    with pytest.raises(ConfigError):
        call(url)


def test_a_path_into_the_file_must_be_a_text(saved: Path) -> None:
    with pytest.raises(ConfigError, match="only: expected a dotted path, found int"):
        resumable.load(saved, only=3)  # type: ignore[arg-type]


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(NoCheckpointError, match="no such file"):
        resumable.load(tmp_path / "x.safetensors")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(NoCheckpointError, match="a folder, expected a file") as caught:
        resumable.load(tmp_path / "run")
    assert "resumable.Run" in str(caught.value.hint)
    with pytest.raises(NoCheckpointError):
        resumable.load("memory://nowhere/x.safetensors")


# -- places -----------------------------------------------------------------------------------------------------------


def test_folders_are_made_and_a_home_and_file_urls_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    resumable.save([1], "~/a/b/x.safetensors")
    resumable.save([2], "bare")
    resumable.save([3], f"file://{tmp_path}/c/y")
    assert resumable.load(tmp_path / "a/b/x.safetensors") == [1]
    assert resumable.load(tmp_path / "bare") == [2]
    assert resumable.load(tmp_path / "c/y") == [3]


def test_a_link_that_the_user_names_is_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    resumable.save([1], tmp_path / "blobs" / "abc")
    (tmp_path / "x.safetensors").symlink_to("blobs/abc")
    assert resumable.load(tmp_path / "x.safetensors") == [1]
    resumable.save([2], tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").is_symlink()
    assert resumable.load(tmp_path / "blobs" / "abc") == [2]


def test_a_file_that_is_replaced_keeps_its_permissions_also_behind_a_link(tmp_path: Path) -> None:
    resumable.save([1], tmp_path / "blob")
    (tmp_path / "blob").chmod(0o604)
    (tmp_path / "link").symlink_to("blob")
    for place in (tmp_path / "blob", tmp_path / "link", f"file://{tmp_path}/blob"):
        resumable.save([2], place)
        assert (tmp_path / "blob").stat().st_mode & 0o777 == 0o604
    torch.save([3], tmp_path / "x.pt")
    convert(tmp_path / "x.pt", tmp_path / "blob")
    assert resumable.load(tmp_path / "blob") == [3]
    assert (tmp_path / "blob").stat().st_mode & 0o777 == 0o604


def test_a_chain_of_urls_is_one_place(tmp_path: Path) -> None:
    import zipfile

    resumable.save({"a": torch.arange(3)}, tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "x", "inner/x")
    assert resumable.load(f"zip://inner/x::file://{tmp_path}/x.zip", only="a").tolist() == [0, 1, 2]


@pytest.mark.parametrize("place", ["s3", "sftp"])
def test_it_works_on_a_real_server(place: str, tmp_path: Path) -> None:
    if place == "s3":
        server = shared_moto()
        url, options = f"s3://{server.new_bucket()}/{secrets.token_hex(4)}.safetensors", server.options()
        options |= {"session": botocore_session()}
    else:
        url, options = shared_sftp().url(tmp_path / "new" / "x.safetensors"), shared_sftp().options
    tree = {"model": Tied().state_dict(), "big": torch.rand(2**20), "epoch": 3}
    resumable.save({"older": torch.rand(9)}, url, storage_options=options)
    resumable.save(tree, url, storage_options=options)
    assert exactly(resumable.load(url, storage_options=options), tree)
    assert exactly(resumable.load(url, only="big", storage_options=options), tree["big"])


def test_a_missing_bucket_is_a_storage_error_with_a_hint_about_buckets() -> None:
    options = shared_moto().options() | {"session": botocore_session()}
    with pytest.raises(resumable.StorageError) as caught:
        resumable.save([1], "s3://no-such-bucket-here/x", storage_options=options)
    assert "bucket" in str(caught.value.hint)


def test_saving_a_large_tensor_takes_no_copy_of_it(tmp_path: Path) -> None:
    script = """
import resource, sys, torch, resumable
from resumable.serialization import save
big = torch.zeros(2**28, dtype=torch.uint8).add_(1)
resumable.save(torch.rand(9), sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resumable.save({"big": big}, sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 * 2**10  # in KiB; the tensor has 256 MiB
