"""Carried variables, as people see them in a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from resumable import Run, Trainer
from tests.cli.conftest import Cli


def train(run: Path, factor: float) -> None:
    x, lr = torch.zeros(40), 0.5
    with Trainer({"run": str(run), "data_seed": 0}, seen=[]) as trainer:
        trainer.carry("x", "lr")
        for _ in trainer.steps(2):
            x, lr = x + factor, lr * factor


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs whose carried variables differ."""
    one, other = tmp_path / "one", tmp_path / "other"
    train(one, 1.0)
    train(other, 2.0)
    return one, other


def test_each_command_reads_them(pair: tuple[Path, Path], cli: Cli) -> None:
    one, other = pair
    assert "carried    carried    x, lr" in cli("show", one).out
    found = cli("diff", one, other)
    assert found.code == 1
    assert "carried.values.lr  0.5  2.0" in found.out
    assert "carried.values.x" in found.out
    assert cli("verify", one).code == 0
    (one / "checkpoints" / Run(str(one)).latest().name / "carried.safetensors").write_bytes(b"damaged")
    damaged = cli("verify", one)
    assert damaged.code == 1
    assert "carried.safetensors" in damaged.out


def test_their_values_are_loaded_by_name(pair: tuple[Path, Path]) -> None:
    values = Run(str(pair[1])).latest().load("carried")
    assert (values["lr"], values["x"].tolist()) == (2.0, [4.0] * 40)


def test_a_checkpoint_names_the_feature_only_where_it_has_them(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert Run(str(pair[0])).latest().manifest.features == ["carried"]
    with Trainer({"run": str(tmp_path / "plain"), "data_seed": 0}, seen=[]) as trainer:
        for _ in trainer.steps(2):
            pass
    assert Run(str(tmp_path / "plain")).latest().manifest.features == []
