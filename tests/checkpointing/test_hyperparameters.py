"""A program that sets other hyperparameters than its run was begun with gets a WARN, unless the loop changed them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resumable import Run
from resumable.checkpointing.hyperparameters import values_of
from tests.tiny import Crash, Tiny, crashed


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "run was begun with" in record.getMessage()]


def resume(run: Path, *, crash_at: int | None = None, **values: Any) -> Tiny:
    tiny = Tiny(run, crash_at=crash_at)
    tiny.optimizer = torch.optim.SGD(tiny.model.parameters(), **{"lr": 0.02, "momentum": 0.9} | values)
    try:
        tiny.train()
    except Crash:
        assert crash_at is not None
    return tiny


def test_another_rate_is_named_at_every_launch_and_the_checkpoints_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crashed(tmp_path, step=3)
    resume(tmp_path, crash_at=5, lr=0.5, weight_decay=0.1)
    [first] = warnings(caplog)
    assert "optimizer: the program constructs it with lr=0.5, and the run was begun with lr=0.02" in first
    assert "weight_decay=0.1" in first
    assert "momentum" not in first
    tiny = resume(tmp_path, lr=0.5)
    assert [line.count("lr=0.5,") for line in warnings(caplog)] == [1, 1]
    assert tiny.optimizer.param_groups[0]["lr"] == 0.02


def test_the_same_program_gets_no_warning_whatever_changes_its_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = Tiny(tmp_path)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(tiny.optimizer, max_lr=1.0, total_steps=20)
    for epochs in (1, 2):  # the second launch in the same program, as in a notebook
        with tiny.trainer(scheduler=scheduler) as trainer:
            trainer.restore()
            tiny.optimizer.param_groups[0]["dampening"] = 0.5
            for _ in trainer.epochs(epochs):
                for batch in trainer.batches(tiny.loader):
                    tiny.step(batch)
                    scheduler.step()
                    tiny.optimizer.param_groups[0]["weight_decay"] = trainer.step / 10
    assert Run(str(tmp_path)).latest().step == 8
    assert warnings(caplog) == []


def test_values_are_the_plain_numbers_that_an_optimizer_was_constructed_with() -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2))], lr=torch.tensor(0.5), weight_decay=0.25)
    optimizer.param_groups[0]["weight_decay"] = 0.5
    values = values_of(optimizer)
    assert (values["weight_decay"], values["betas"], values["amsgrad"]) == (0.25, [0.9, 0.999], False)
    assert not {"lr", "foreach"} & values.keys()  # a tensor, and None
