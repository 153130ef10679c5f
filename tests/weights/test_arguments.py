"""What `load_weights` is given, where it is something else: said in words, before anything is changed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from resumable import CheckpointError, ConfigError, NoCheckpointError, Run, load_weights
from tests.nets import Net, file, run


def test_a_place_before_the_model_is_turned_around_in_the_hint() -> None:
    load: Any = load_weights
    for place in ("runs/cnn", Path("runs/cnn")):
        with pytest.raises(ConfigError, match=r"expected a module, found \w+ '?.*runs/cnn") as caught:
            load(place, Net(1))
        assert caught.value.hint == "the model comes first: load_weights(model, 'runs/cnn')"


@pytest.mark.parametrize("model", [Net(1).state_dict(), {"weight": 1}, Net, None, [*Net(1).parameters()]])
def test_what_is_no_module_is_told_by_its_type(tmp_path: Path, model: Any) -> None:
    path = file(tmp_path / "a.safetensors", Net(1).state_dict())
    with pytest.raises(ConfigError, match=f"model: expected a module, found {type(model).__name__}") as caught:
        load_weights(model, path)
    assert "the model itself" in str(caught.value.hint)


@pytest.mark.parametrize("url", [Net(1), None, 3, b"runs/cnn", Net(1).state_dict()])
def test_what_is_no_place_is_told_by_its_type(url: Any) -> None:
    with pytest.raises(ConfigError, match=f"url: expected a path or a URL, found {type(url).__name__}") as caught:
        load_weights(Net(1), url)
    assert "load_weights(model, 'runs/cnn')" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("asked", "said", "hint"),
    [
        ({"rename": [("a", "b")]}, "rename: expected a dict of strings, found list", "rename={'old.': 'new.'}"),
        ({"rename": "a"}, "rename: expected a dict of strings, found str", "rename={'old.': 'new.'}"),
        ({"rename": {"a": None}}, "rename: expected a dict of strings, found 'a': None", "rename={'old.': 'new.'}"),
        ({"rename": {1: "b"}}, "rename: expected a dict of strings, found 1: 'b'", "rename={'old.': 'new.'}"),
        ({"skip": 3}, "skip: expected a list of strings, found int", "skip=['head.*']"),
        ({"skip": ["a", 3]}, "skip: expected a list of strings, found 3", "skip=['head.*']"),
        ({"skip": None}, "skip: expected a list of strings, found NoneType", "skip=['head.*']"),
    ],
)
def test_rules_and_patterns_of_another_kind_are_told(
    tmp_path: Path, asked: dict[str, Any], said: str, hint: str
) -> None:
    net, folder = Net(1), run(tmp_path / "run", model=Net(1))
    for load in (lambda: load_weights(net, folder, **asked), lambda: Run(folder).latest().load_into(net, **asked)):
        with pytest.raises(ConfigError) as caught:
            load()
        assert caught.value.message == said
        assert hint in str(caught.value.hint)


def test_patterns_that_can_be_read_only_once_are_all_asked(tmp_path: Path) -> None:
    net = Net(2, classes=7)
    path = file(tmp_path / "a.safetensors", Net(1).state_dict())
    assert load_weights(net, path, skip=(name for name in ("head.weight", "head.bias"))).skipped == (
        "head.bias",
        "head.weight",
    )


def test_a_place_with_a_line_break_is_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NoCheckpointError, match="no weights here"):
        load_weights(Net(2), tmp_path / "a\nb.safetensors")


# -- programs ---------------------------------------------------------------------------------------------------------


def test_a_program_is_told_from_a_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch" * 20)
    for name in ("model.pt2", "model.aoti.pt2"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("model/byteorder", "little")
    for name in ("model.onnx", "model.pt2", "model.aoti.pt2"):
        with pytest.raises(CheckpointError) as caught:
            load_weights(nn.Linear(2, 2), tmp_path / name)
        assert caught.value.message == f"{tmp_path}/{name}: a program, expected a safetensors file"
        assert "--format safetensors" in str(caught.value.hint)
        assert "convert" not in str(caught.value.hint)


def test_weights_under_the_name_of_a_program_are_weights(tmp_path: Path) -> None:
    assert load_weights(Net(2), file(tmp_path / "model.onnx", Net(1).state_dict())).tensors == 9
