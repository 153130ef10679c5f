"""A launch that is built otherwise than the one before is reported, and used where the config overrules."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from resumable import ConfigError, Run, Trainer
from resumable.checkpointing.built_with.settings import settings_of
from tests.tiny import Crash, Tiny, assert_equal_ends

Schedule = Callable[[torch.optim.Optimizer], Any]


class Built(Tiny):
    """A launch whose settings are arguments, as in a script that somebody edits."""

    def __init__(
        self, run: Path, *, p: float = 0.25, schedule: Schedule | None = None, values: Any = None, **more: Any
    ) -> None:
        super().__init__(run, **more)
        self.model[2].p = p
        self.optimizer = torch.optim.SGD(self.model.parameters(), **({"lr": 0.02, "momentum": 0.9} | (values or {})))
        self.schedule = schedule(self.optimizer) if schedule else None
        self.rates: list[float] = []
        self.after: Callable[[], object] = lambda: None

    def trainer(self, **more: Any) -> Trainer:
        return super().trainer(**({"schedule": self.schedule} if self.schedule else {}), **more)

    def step(self, batch: Any) -> torch.Tensor:
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        loss = super().step(batch)
        if self.schedule:
            self.schedule.step()
        self.after()
        return loss

    def end(self, epochs: int = 2) -> None:
        """Train to the end, or to the crash at `crash_at`."""
        try:
            self.train(epochs)
        except Crash:
            assert self.crash_at is not None


def launch(run: Path, *, epochs: int = 2, **options: Any) -> Built:
    """Make a launch, and train."""
    built = Built(run, **options)
    built.end(epochs)
    return built


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The CHANGED lines since the last call."""

    def since() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return [line.removeprefix("CHANGED ") for line in found if line.startswith("CHANGED")]

    return since


def test_what_is_built_otherwise_is_named_once_and_the_checkpoints_is_used(tmp_path: Path, lines: Any) -> None:
    cosine = lambda length: lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, length)  # noqa: E731
    launch(tmp_path, crash_at=3, schedule=cosine(24))
    assert lines() == []
    other = {"values": {"lr": 0.5, "weight_decay": 0.1}, "schedule": cosine(36)}
    built = launch(tmp_path, crash_at=5, **other)
    [line] = lines()
    assert line == (
        "optimizer.lr 0.02->0.5, optimizer.weight_decay 0->0.1, schedule.T_max 24->36 "
        "note=\"the checkpoint's are used; to use this launch's: "
        'overrule: [optimizer.lr, optimizer.weight_decay, schedule.T_max]"'
    )
    assert (built.schedule.T_max, built.optimizer.param_groups[0]["weight_decay"]) == (24, 0)
    assert max(built.rates) < 0.02
    launch(tmp_path, **other)
    assert lines() == []


def test_what_the_checkpoint_does_not_restore_is_named_as_this_launchs(tmp_path: Path, lines: Any) -> None:
    launch(tmp_path, crash_at=3)
    built = launch(tmp_path, crash_at=5, p=0.5)
    assert lines() == ['model.2.p 0.25->0.5 note="this launch\'s are used from here on"']
    assert built.model[2].p == 0.5
    launch(tmp_path, p=0.5)
    assert lines() == []


def test_overruled_values_are_those_of_this_launch_once_and_nothing_else_differs(tmp_path: Path, lines: Any) -> None:
    launch(tmp_path / "a", crash_at=3)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    new = {"values": {"lr": 0.5, "weight_decay": 0.1}, "overrule": ["optimizer.lr"]}
    launch(tmp_path / "a", crash_at=4, saves=(), **new)  # killed before its first save
    [kept, used] = lines()
    assert "optimizer.weight_decay 0->0.1 note=\"the checkpoint's are used" in kept
    assert used == 'optimizer.lr 0.02->0.5 note="this launch\'s are used from here on"'
    launch(tmp_path / "a", crash_at=7, **new)
    assert len(lines()) == 2
    launch(tmp_path / "a", **new)
    assert lines() == []
    by_hand = Built(tmp_path / "b")
    with by_hand.trainer() as trainer:
        trainer.restore()
        for _ in trainer.epochs(2):
            for batch in trainer.batches(by_hand.loader):
                by_hand.optimizer.param_groups[0]["lr"] = 0.5
                trainer.log(loss=by_hand.step(batch))
    assert_equal_ends(tmp_path / "a", tmp_path / "b")


def test_what_the_loop_sets_after_it_was_overruled_is_not_undone(tmp_path: Path) -> None:
    launch(tmp_path, crash_at=3)
    new = {"values": {"lr": 0.5}, "overrule": ["optimizer.lr"]}
    changing = Built(tmp_path, crash_at=6, **new)
    changing.after = lambda: changing.optimizer.param_groups[0].update(lr=0.25)
    changing.end()
    assert set(launch(tmp_path, **new).rates) == {0.25}


def test_a_name_that_is_overruled_later_still_takes_effect(tmp_path: Path, lines: Any) -> None:
    launch(tmp_path, crash_at=3)
    launch(tmp_path, crash_at=5, values={"lr": 0.5})
    launch(tmp_path, crash_at=6, values={"lr": 0.5})
    assert len(lines()) == 1
    built = launch(tmp_path, values={"lr": 0.5}, overrule=["optimizer.lr"])
    assert lines() == ['optimizer.lr 0.02->0.5 note="this launch\'s are used from here on"']
    assert set(built.rates) == {0.5}


def test_a_program_that_is_put_back_gets_no_line(tmp_path: Path, lines: Any) -> None:
    launch(tmp_path, crash_at=3)
    launch(tmp_path, crash_at=5, values={"lr": 0.5})
    lines()
    launch(tmp_path)
    assert lines() == []


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 16),
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [lr_scheduler.ConstantLR(optimizer, 0.5, 2), lr_scheduler.ExponentialLR(optimizer, 0.5)],
            milestones=[4],
        ),
    ],
)
def test_a_schedule_goes_on_with_an_overruled_rate(schedule: Schedule, tmp_path: Path) -> None:
    launch(tmp_path / "a", crash_at=5, schedule=schedule)
    other = {"values": {"lr": 0.04}, "schedule": schedule}
    built = launch(tmp_path / "a", overrule=["optimizer.lr"], **other)
    assert built.rates == launch(tmp_path / "b", **other).rates[-len(built.rates) :]
    assert built.optimizer.param_groups[0]["initial_lr"] == 0.04


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (lambda optimizer, length: lr_scheduler.CosineAnnealingLR(optimizer, length), "T_max"),
        (lambda optimizer, length: lr_scheduler.StepLR(optimizer, length // 4, gamma=0.5), "step_size"),
        (lambda optimizer, length: lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=length), "total_steps"),
    ],
)
def test_a_longer_schedule_goes_on_as_if_it_had_been_built_so(schedule: Any, name: str, tmp_path: Path) -> None:
    def built(length: int) -> Schedule:
        return lambda optimizer: schedule(optimizer, length)

    launch(tmp_path / "a", schedule=built(9))  # to its end, where the rate of a cosine is 0 in the next step
    found = launch(tmp_path / "a", epochs=4, schedule=built(16), overrule=[f"schedule.{name}"])
    whole = launch(tmp_path / "b", epochs=4, schedule=built(16))
    assert len(found.rates) == 8
    assert found.rates[1:] == pytest.approx(whole.rates[9:], rel=1e-9)


@pytest.mark.parametrize("name", ["optimizer.rl", "optimiser.lr", "model.2.q"])
def test_a_name_that_nothing_has_is_refused_before_the_run_is_touched(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"overrule: expected the name of a setting.*the nearest is") as refused:
        launch(tmp_path / "run", overrule=[name])
    assert name in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_the_same_program_gets_no_line_whatever_changes_its_values(tmp_path: Path, lines: Any) -> None:
    tiny = Tiny(tmp_path)
    scheduler = lr_scheduler.OneCycleLR(tiny.optimizer, max_lr=1.0, total_steps=20)
    for epochs in (1, 2, 3):  # the very objects of the launch before, as in the cell of a notebook
        with tiny.trainer(scheduler=scheduler) as trainer:
            trainer.restore()
            tiny.optimizer.param_groups[0]["dampening"] = 0.5
            for _ in trainer.epochs(epochs):
                for batch in trainer.batches(tiny.loader):
                    tiny.step(batch)
                    scheduler.step()
                    tiny.model[2].p *= 0.9
                    tiny.optimizer.param_groups[0]["weight_decay"] = trainer.step / 10
    assert Run(str(tmp_path)).latest().step == 12
    assert lines() == []


def test_groups_that_are_added_before_or_while_training_give_no_line(tmp_path: Path, lines: Any) -> None:
    def optimizer(model: nn.Sequential, *, groups: int) -> torch.optim.Optimizer:
        made = torch.optim.SGD(model[0].parameters(), lr=0.02, momentum=0.9)
        if groups == 2:
            made.add_param_group({"params": list(model[3].parameters()), "lr": 0.01})
        return made

    first = Built(tmp_path, crash_at=3)
    first.optimizer = optimizer(first.model, groups=1)
    group = {"params": list(first.model[3].parameters()), "lr": 0.01}
    first.after = lambda: len(first.optimizer.param_groups) == 2 or first.optimizer.add_param_group(group)
    first.end()
    second = Built(tmp_path)
    second.optimizer = optimizer(second.model, groups=2)
    second.train()
    assert lines() == []


def test_settings_are_plain_values_with_one_name_each() -> None:
    layer = nn.Linear(2, 2)
    layer.token = "secret"  # type: ignore[assignment]
    model = nn.Sequential(layer, nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.2), layer))
    settings = settings_of("model", model)
    assert settings["model.*.*.p"].paths == ("model.1.0.p", "model.1.1.p")
    assert settings["model.*.in_features"].paths == ("model.0.in_features",)
    assert not [key for key in settings if "token" in key or "training" in key or "weight" in key]
    groups = [{"params": [nn.Parameter(torch.zeros(2))], "lr": torch.tensor(0.5)}, {"params": [layer.weight]}]
    optimizer = torch.optim.AdamW(groups, lr=0.25, weight_decay=0.125)
    found = settings_of("o", optimizer)
    assert (found["o.lr"].paths, found["o.lr"].values) == (("o.0.lr", "o.1.lr"), (0.5, 0.25))
    assert found["o.betas"].values == ((0.9, 0.999),) * 2
    assert not settings_of("note", {"lr": 1})
    assert not settings_of("g", torch.Generator())


def test_notes_are_bounded_and_settings_in_them_come_from_anybody(tmp_path: Path) -> None:
    built = Built(tmp_path, crash_at=3)
    for number in range(2000):
        setattr(built.model[0], f"one{number:05}", number)
    built.end()
    noted = Run(str(tmp_path)).latest().notes["built_with"]["settings"]
    assert len(noted) == 512
    assert noted["optimizer.lr"] == [[0.02, 1]]
