"""Saves by a kept plan: the same bytes as those of a fresh one, without a run of the garbage collector."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.store.layout import state_name


class Program:
    """A small training, of which some parameters are frozen, and which any number of runs save."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))
        self.model[2].weight.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.loop = {"seen": 0, "losses": [0.0, -0.0], "best": torch.zeros(3)}

    def step(self) -> None:
        self.model(torch.randn(4, 8)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.param_groups[0]["lr"] *= 0.9
        self.optimizer.zero_grad()
        self.loop["seen"] += 1
        self.loop["losses"].append(0.5)

    def saver(self, run: Path, mode: str) -> Checkpointer:
        config = {"run": str(run), "keep": {"last": 100, "best": None}, "staging": {"mode": mode}, "data_seed": 1}
        return Checkpointer(Config.load(config), {"model": self.model, "optimizer": self.optimizer, "loop": self.loop})


def saved(checkpointer: Checkpointer, run: Path, *, step: int, late: bool = False) -> dict[str, bytes]:
    checkpointer.save(Position(step=step), reason="steps", late=late)
    checkpointer.drain()
    (folder,) = run.glob(f"checkpoints/step-{step:09}.*")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    state = json.loads(files[state_name(0)])
    del state["notes"]  # they differ by when a launch began, and decide nothing
    return files | {state_name(0): json.dumps(state).encode()}


def unfrozen(program: Program) -> None:
    program.model[2].weight.requires_grad_(True)


def grown(program: Program) -> None:
    program.model.append(nn.Linear(2, 2))


def steady(program: Program) -> None:
    program.step()


@pytest.mark.parametrize("mode", ["eager", "overlap"])
@pytest.mark.parametrize("change", [steady, unfrozen, grown])
def test_a_save_by_a_kept_plan_has_the_bytes_of_a_fresh_one(tmp_path: Path, change: Any, mode: str) -> None:
    program = Program()
    kept = program.saver(tmp_path / "kept", mode)
    for step in range(1, 4):
        program.step()
        saved(kept, tmp_path / "kept", step=step, late=True)
    change(program)
    with_plan = saved(kept, tmp_path / "kept", step=4, late=True)
    kept.close()
    fresh = program.saver(tmp_path / "fresh", "eager")
    without_plan = saved(fresh, tmp_path / "fresh", step=4)
    fresh.close()
    assert with_plan == without_plan


def test_no_collection_runs_while_state_is_captured_and_staged(tmp_path: Path) -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(3)])
    checkpointer = Checkpointer(Config.load({"run": str(tmp_path / "run")}), {"model": model})
    seen: list[bool] = []
    model.register_state_dict_post_hook(lambda *_: seen.append(gc.isenabled()))
    checkpointer.save(Position(step=1), reason="steps")
    enabled_after = gc.isenabled()
    checkpointer.close()
    assert seen == [False]
    assert enabled_after


def test_a_state_that_cannot_be_stored_leaves_the_collector_on(tmp_path: Path) -> None:
    checkpointer = Checkpointer(Config.load({"run": str(tmp_path / "run")}), {"loop": {"code": print}})
    with pytest.raises(Exception, match="cannot be stored"):
        checkpointer.save(Position(step=1), reason="steps")
    checkpointer.close()
    assert gc.isenabled()
