"""Small tensors stand in the document: what is in the files, and that readers find them where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import resumable
from resumable import Run, Trainer, load_weights
from resumable.cli.checkpoint_diff import compare, diff_checkpoints
from tests.ranks import RankWriter, round_robin


def objects(*, steps: int = 2) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        model(torch.rand(4, 20)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"model": model, "optimizer": optimizer, "kept": {"bias": torch.rand(2), "weight": torch.rand(2, 20)}}


def trained(run: Path) -> dict[str, Any]:
    given = objects()
    with Trainer({"run": str(run), "data_seed": 1, "signals": []}, **given) as trainer:
        for _ in trainer.steps(1):
            pass
    return given


def test_the_files_hold_all_weights_of_a_module_and_no_small_tensor_of_another_object(tmp_path: Path) -> None:
    given = trained(tmp_path / "run")
    checkpoint = Run(str(tmp_path / "run")).latest()
    folder = tmp_path / "run" / "checkpoints" / str(checkpoint.name)
    assert load_file(folder / "model.safetensors").keys() == given["model"].state_dict().keys()
    assert load_file(folder / "optimizer.safetensors").keys() == {"model.0.weight.exp_avg", "model.0.weight.exp_avg_sq"}
    assert load_file(folder / "kept.safetensors").keys() == {"weight"}
    assert "$inline" in checkpoint.document["objects"]["optimizer"]["state"]["model.0.weight"]["step"]
    assert len(checkpoint.inline_records("optimizer").records) == 4 * 3 - 2


def test_a_single_file_holds_small_tensors_too(tmp_path: Path) -> None:
    resumable.save({"step": torch.tensor(1.0)}, str(tmp_path / "a.safetensors"))
    assert load_file(tmp_path / "a.safetensors").keys() == {"step"}


def test_weights_are_loaded_out_of_the_document_and_the_file_of_an_object(tmp_path: Path) -> None:
    given = trained(tmp_path / "run")["kept"]
    layer = nn.Linear(20, 2)
    load_weights(layer, str(tmp_path / "run"), name="kept")
    assert torch.equal(layer.weight, given["weight"])
    assert torch.equal(layer.bias, given["bias"])


def written(run: Path, given: dict[str, Any], *, inline: bool) -> Any:
    RankWriter(run, 1, round_robin(1), inline=inline).save(7, **given)
    return Run(str(run)).latest()


@pytest.mark.parametrize("inline", [(False, True), (True, False), (True, True)])
def test_a_tensor_in_a_file_and_one_in_a_document_are_compared_by_their_bits(
    tmp_path: Path, inline: tuple[bool, bool]
) -> None:
    given = objects()
    a = written(tmp_path / "a", given, inline=inline[0])
    b = written(tmp_path / "b", given, inline=inline[1])
    same = diff_checkpoints(a, b)
    assert same.exact
    assert same.tensors == diff_checkpoints(b, a).tensors
    assert same.values == diff_checkpoints(b, a).values
    given["optimizer"].state[given["model"][0].weight]["step"] += 2
    given["kept"]["bias"] = torch.cat([given["kept"]["bias"][:1], torch.tensor([9.0])])
    step, bias = compare(a, written(tmp_path / "c", given, inline=inline[1]))
    assert (step.path, step.max_abs, step.elements, step.of) == ("optimizer.model.0.weight.step", 2.0, 1, 1)
    assert (bias.path, bias.elements, bias.of) == ("kept.bias", 1, 2)
