"""Changed attributes of a subclass of the trainer are restored, and its arguments are those of the launch."""

from __future__ import annotations

import collections
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Trainer

from resumable import Run
from resumable.transformers import Resume
from tests.huggingface.programs import Crashing, Net, Points, arguments
from tests.tiny import Crash


class Keeping(Trainer):
    """Its loss depends on counters, averages and containers that it keeps, and on an argument."""

    def __init__(self, *args: Any, strength: float, **kwargs: Any) -> None:
        self.strength = strength
        self.average, self.count, self.worst, self.first = 0.0, 0, None, None
        self.draws = random.Random(3)
        self.recent: collections.deque[float] = collections.deque(maxlen=3)
        self.by_kind: dict[str, Any] = {"train": collections.defaultdict(list)}
        self.centre = self.table = torch.zeros(2)
        self.holder = SimpleNamespace(centre=self.centre)
        super().__init__(*args, **kwargs)
        self.smooth = torch.optim.swa_utils.AveragedModel(self.model)
        self.head = torch.nn.Linear(1, 1)

    def create_optimizer(self, model: Any = None) -> Any:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*([model] if model is not None else []))
        if is_new:
            optimizer.add_param_group({"params": list(self.head.parameters())})
        return optimizer

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not model.training:
            return loss
        self._keep(loss.detach())
        scale = self.average + len(self.by_kind["train"]["losses"]) / 100 + sum(self.recent) + self.holder.centre.sum()
        smooth = sum(parameter.sum() for parameter in self.smooth.parameters())
        return loss * (1 + self.strength * (scale + smooth.detach())) + self.head.weight.square().sum()

    def _keep(self, loss: torch.Tensor) -> None:
        loss = loss * (1 + self.draws.random() / 10)
        self.average, self.count = 0.9 * self.average + 0.1 * loss.item(), self.count + 1
        self.first = self.first or loss.item()
        self.worst = loss if self.worst is None else torch.maximum(self.worst, loss)
        self.recent.append(loss.item())
        self.by_kind["train"]["losses"].append(loss.item())
        self.centre += loss
        self.smooth.update_parameters(self.model)


def made(run: Path, *, crash_after: int = 0, strength: float = 0.01, **options: Any) -> Any:
    torch.manual_seed(0)
    config = {"run": str(run), "data_seed": 7, "every": {"steps": 2, "minutes": None}, "progress": "never"}
    return Keeping(
        strength=strength,
        model=Net(),
        args=arguments(output_dir=str(run.parent / "hf"), learning_rate=1e-3, **options),
        train_dataset=Points(),
        eval_dataset=torch.utils.data.Subset(Points(), range(12)),
        callbacks=[Resume(config), Crashing(crash_after)],
    )


def train(run: Path, **options: Any) -> Any:
    trainer = made(run, **options)
    trainer.train()
    return trainer


def kept(trainer: Any) -> list[Any]:
    names = ("average", "count", "first", "recent", "by_kind")
    weights = [
        each for module in (trainer.model, trainer.smooth, trainer.head) for each in module.state_dict().values()
    ]
    tensors = [trainer.worst, trainer.centre, *weights]
    return [*(getattr(trainer, name) for name in names), *(tensor.tolist() for tensor in tensors)]


def test_what_training_changes_is_restored(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    for after in (5, 8):
        with pytest.raises(Crash):
            train(tmp_path / "run", crash_after=after)
    ended = train(tmp_path / "run")
    assert kept(ended) == kept(whole)
    assert type(ended.recent) is collections.deque
    assert ended.recent.maxlen == 3
    assert type(ended.by_kind["train"]) is collections.defaultdict


def test_what_training_does_not_change_stays_that_of_the_launch(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(tmp_path / "run", crash_after=5)
    assert train(tmp_path / "run", strength=0.02).strength == 0.02
    stored = Run(str(tmp_path / "run")).latest().tree("huggingface")["attributes"]["values"]
    assert stored.keys() == {"average", "count", "first", "worst", "recent", "by_kind", "centre", "table"}


def test_what_the_first_of_two_trainings_changed_is_in_the_checkpoints_of_the_second(tmp_path: Path) -> None:
    trainer = made(tmp_path / "run", crash_after=8, max_steps=4)
    trainer.train()
    trainer.args.max_steps = 10
    with pytest.raises(Crash):
        trainer.train()
    ended = train(tmp_path / "run", max_steps=10)
    assert ended.first == trainer.first
