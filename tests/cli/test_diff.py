from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resumable import CorruptCheckpointError, Run, Trainer
from resumable.cli.checkpoint_diff import compare
from tests.cli.conftest import Cli, flip_a_bit, newest
from tests.tiny import Tiny

Make = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Make:
    """A run that holds the objects given, and whose one step does nothing."""
    made = 0

    def make(**objects: Any) -> Path:
        nonlocal made
        made += 1
        torch.manual_seed(0)
        folder = tmp_path / f"run{made}"
        with Trainer({"run": str(folder), "data_seed": 1, "signals": []}, **objects) as trainer:
            for _ in trainer.steps(1):
                pass
        return folder

    return make


def paths(a: Path, b: Path) -> list[str]:
    return [each.path for each in compare(Run(str(a)).latest(), Run(str(b)).latest())]


def linear(value: float = 0.5) -> nn.Linear:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.fill_(value)
        model.bias.fill_(value)
    return model


def test_a_checkpoint_is_bit_exact_with_itself(run: Path, cli: Cli) -> None:
    same = cli("diff", run, f"{run}@8")
    assert same.code == 0
    assert same.lines[-1].startswith("bit-exact: ")
    assert cli("diff", run, run, "--json").json["exact"] is True


def test_a_run_that_crashed_and_resumed_is_bit_exact_with_one_that_did_not(trained: Path, tmp_path: Path) -> None:
    Tiny(tmp_path / "undisturbed").train()  # saves differently, too
    assert paths(trained, tmp_path / "undisturbed") == []


class LeavesGradients(Tiny):
    def step(self, batch: Any) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.backward(batch)
        self.optimizer.step()
        return loss


def test_whether_used_gradients_were_stored_too_is_no_difference(tmp_path: Path) -> None:
    LeavesGradients(tmp_path / "a", gradients="auto").train()
    LeavesGradients(tmp_path / "b", gradients="always").train()
    a, b = (Run(str(tmp_path / name)).latest() for name in "ab")
    assert len(a.records["gradients"]) < len(b.records["gradients"])
    assert compare(a, b) == []


def test_another_step_differs_in_many_ways_and_the_last_line_counts_them(run: Path, cli: Cli) -> None:
    other = cli("diff", f"{run}@2", f"{run}@6", "--json", "--most", 1000)
    assert other.code == 1
    found = [difference["path"] for difference in other.json["differences"]]
    assert {"step", "epoch", "metrics.loss", "model.0.weight", "rng.torch"} <= set(found)
    assert any(path.startswith("notes.") for path in found)
    assert any(path.startswith("position.") for path in found)
    assert other.json["count"] == len(found)
    text = cli("diff", f"{run}@2", f"{run}@6")
    assert text.code == 1
    assert text.lines[-1] == f"{len(found)} differences"


def test_only_the_first_differences_are_shown(run: Path, cli: Cli) -> None:
    cut = cli("diff", f"{run}@2", f"{run}@6", "--most", 2, "--json").json
    assert len(cut["differences"]) == 2 < cut["count"]
    shown = cli("diff", f"{run}@2", f"{run}@6", "--most", 2)
    assert f"and {cut['count'] - 2} more" in shown.lines[-2]


def test_tensors_tell_the_largest_difference_and_how_many_elements_differ(saved: Make) -> None:
    a, b = linear(), linear()
    with torch.no_grad():
        b.weight[0, 0] += 0.25
        b.weight[1, 2] -= 0.125
    [found] = compare(Run(str(saved(model=a))).latest(), Run(str(saved(model=b))).latest())
    assert (found.path, found.max_abs, found.elements, found.of) == ("model.weight", 0.25, 2, 6)
    assert str(found) == "model.weight: 2 of 6 elements differ, by up to 0.25"


@pytest.mark.parametrize(
    ("a", "b", "largest"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0]), 0.0),
        (torch.tensor([1.0]), torch.tensor([math.nan]), math.nan),
        (torch.tensor([1 + 1j]), torch.tensor([4 + 5j]), 5.0),
        (torch.tensor(True), torch.tensor(False), 1.0),
        (torch.tensor([1, 2], dtype=torch.int64), torch.tensor([1, 9], dtype=torch.int64), 7.0),
        (torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([2.0], dtype=torch.bfloat16), 1.0),
        (torch.tensor([1.0]).to(torch.float8_e4m3fn), torch.tensor([2.0]).to(torch.float8_e4m3fn), 1.0),
        (torch.tensor([7], dtype=torch.uint64), torch.tensor([9], dtype=torch.uint64), 2.0),
    ],
)
def test_every_sort_of_tensor_is_measured(saved: Make, a: torch.Tensor, b: torch.Tensor, largest: float) -> None:
    [found] = compare(Run(str(saved(kept={"x": a}))).latest(), Run(str(saved(kept={"x": b}))).latest())
    assert found.elements == 1
    assert found.max_abs == pytest.approx(largest, nan_ok=True)


def test_another_dtype_shape_or_memory_format_is_told(saved: Make) -> None:
    ones = torch.ones(1, 2, 2, 2)
    start = saved(kept={"x": ones})
    for other in (ones.double(), torch.ones(2), torch.full_like(ones, 1).to(memory_format=torch.channels_last)):
        [found] = compare(Run(str(start)).latest(), Run(str(saved(kept={"x": other}))).latest())
        assert found.path == "kept.x"
        assert found.elements is None


def test_an_object_or_tensor_that_is_in_one_only_is_told(saved: Make) -> None:
    bare = nn.Linear(3, 2, bias=False)
    bare.weight.data.fill_(0.5)
    assert "model.bias" in paths(saved(model=linear()), saved(model=bare))
    assert paths(saved(model=linear(), more={"n": 1}), saved(model=linear())) == ["more"]


def test_plain_values_of_objects_are_compared_with_their_path(saved: Make) -> None:
    a, b = saved(progress={"best": 0.5, "seen": [1, 2]}), saved(progress={"best": 0.5, "seen": [1, 3]})
    assert paths(a, b) == ["progress.seen.1"]


def test_a_stream_of_random_numbers_that_ran_on_is_one_difference(tmp_path: Path) -> None:
    for name, draws in (("a", 0), ("b", 1)):
        torch.manual_seed(0)
        with Trainer({"run": str(tmp_path / name), "data_seed": 1, "signals": []}, n={"x": 1}) as trainer:
            for _ in trainer.steps(1):
                torch.rand(draws)
    assert paths(tmp_path / "a", tmp_path / "b") == ["rng.torch"]


def test_notes_that_explain_the_differences_come_before_them(tmp_path: Path, cli: Cli) -> None:
    for seed in (1, 2):
        Tiny(tmp_path / str(seed), data_seed=seed).train()
    other = cli("diff", tmp_path / "1", tmp_path / "2")
    assert other.code == 1
    note = "note: config.data_seed differs: 1 / 2: the order of the data and its augmentation follow from it"
    assert other.lines[:3][-1] == note


def test_another_config_is_noted_and_is_no_difference(tmp_path: Path, cli: Cli) -> None:
    for name, last in (("a", 2), ("b", 3)):
        Tiny(tmp_path / name, keep={"last": last}).train()
    same = cli("diff", tmp_path / "a", tmp_path / "b")
    assert same.code == 0
    assert "note: config.keep.last differs: 2 / 3" in same.lines
    assert cli("diff", tmp_path / "a", tmp_path / "b", "--json").json["notes"] == [
        {"path": "config.keep.last", "a": "2", "b": "3"}
    ]


def test_damage_met_on_the_way_is_an_error_and_no_difference(run: Path, cli: Cli) -> None:
    flip_a_bit(newest(run) / "state.rank00000.json")
    with pytest.raises(CorruptCheckpointError):
        paths(run, run)
    failed = cli("diff", run, run)
    assert failed.code == 1
    assert "state.rank00000.json: digest differs" in failed.err
