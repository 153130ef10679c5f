"""Further cases: optimizers and schedulers that callbacks and modules change while they train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    Callback,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelPruning,
    StochasticWeightAveraging,
)
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch import Tensor, nn
from torch.optim import lr_scheduler

from tests.lightning.cases import CASES, Case, Setup, case
from tests.lightning.toys import BATCH, CLASSES, FEATURES, Duel, Net, Sample

# ---- averaging: four epochs of nine batches, averaged from the second on, and a pass for BatchNorm behind them

BEFORE, WHILE, AT_THE_EDGE = "on_train_batch_end:5", "on_after_backward:14", "on_train_batch_end:18"
LAST_PASS = ("on_train_batch_end:38", "on_train_batch_end:41", "on_train_epoch_end:5", "on_train_end:1")
AVERAGED = (BEFORE, WHILE, AT_THE_EDGE, "on_train_epoch_start:4", *LAST_PASS)
AVERAGED_WITHOUT = (BEFORE, WHILE, AT_THE_EDGE, "on_train_batch_end:34", "on_train_end:1")


class Flat(Net):
    """Without BatchNorm."""

    def __init__(self, *arguments: Any, **log: Any) -> None:
        super().__init__(*arguments, **log)
        self.body[1] = nn.Identity()


def _averaging(module: pl.LightningModule, *others: Callback, start: int | float = 2, **options: Any) -> Setup:
    averaging = StochasticWeightAveraging(0.02, swa_epoch_start=start, **{"annealing_epochs": 3} | options)
    return Setup(module, callbacks=[averaging, *others], trainer={"max_epochs": 4})


def _by_epoch(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"scheduler": lr_scheduler.StepLR(optimizer, 1, 0.5)}


def _by_step(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"scheduler": lr_scheduler.OneCycleLR(optimizer, 0.1, 60), "interval": "step"}


def _by_metric(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.3, factor=0.5)
    return {"scheduler": plateau, "monitor": "val_loss", "strict": False}


def _half_way(average: Tensor, new: Tensor, number: Tensor) -> Tensor:
    return (average + new) / 2


@case(*AVERAGED)
def averaging() -> Setup:
    return _averaging(Net())


@case(*AVERAGED)
def averaging_behind_resume_and_a_schedule_per_step() -> Setup:
    return _averaging(Net(_by_step), LearningRateMonitor())


@case(*AVERAGED)
def averaging_before_resume() -> Setup:
    setup = _averaging(Net(_by_epoch), start=0.5, annealing_strategy="linear", device=None)
    return Setup(setup.module, callbacks=setup.callbacks, trainer=setup.trainer, resume_at=1)


@case(*AVERAGED_WITHOUT)
def averaging_without_batch_norm() -> Setup:
    return _averaging(Flat(_by_metric), avg_fn=_half_way, annealing_epochs=1)


@case(*AVERAGED_WITHOUT)
def averaging_without_batch_norm_and_schedule() -> Setup:
    return _averaging(Flat(), start=0.3, device=None)


@case(*AVERAGED)
def averaging_while_accumulating() -> Setup:
    setup = _averaging(Net(_by_epoch))
    return Setup(
        setup.module,
        callbacks=setup.callbacks,
        trainer=setup.trainer | {"accumulate_grad_batches": 2},
        config={"every": {"steps": 2, "minutes": None}, "gradients": "always"},
    )


@case(*AVERAGED)
def averaging_while_a_schedule_accumulates() -> Setup:
    return _averaging(Net(), GradientAccumulationScheduler({0: 2, 3: 3}))


@case(*AVERAGED)
def averaging_with_loaders_of_every_epoch() -> Setup:
    setup = _averaging(Net())
    return Setup(
        setup.module, callbacks=setup.callbacks, trainer=setup.trainer | {"reload_dataloaders_every_n_epochs": 1}
    )


# Without the pass for BatchNorm: these programs wait for saves by themselves, and such a one ends with the next step.
@case(*AVERAGED_WITHOUT)
def averaging_with_overlapping_saves() -> Setup:
    setup = _averaging(Flat(_by_step))
    return Setup(
        setup.module, callbacks=setup.callbacks, trainer=setup.trainer, config={"staging": {"mode": "overlap"}}
    )


# ---- three epochs of nine batches, and something is other from the second on

CHANGED = (
    "on_train_batch_end:5",
    "on_train_batch_end:11",
    "on_train_batch_end:16",
    "on_after_backward:23",
    "on_train_end:1",
)


class Backbone(Net):
    """Trains a head on a part that is trained too, later."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.neck = nn.Linear(8, 8)
        self.body = nn.Sequential(self.backbone, self.neck, nn.Linear(8, CLASSES))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.02)
        return {"optimizer": optimizer, "lr_scheduler": lr_scheduler.ExponentialLR(optimizer, 0.9)}


class Unfreezing(BaseFinetuning):
    """One part an epoch."""

    def freeze_before_training(self, pl_module: pl.LightningModule) -> None:
        self.freeze([pl_module.backbone, pl_module.neck], train_bn=False)

    def finetune_function(self, pl_module: pl.LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.neck, optimizer, lr=0.01)
        if epoch == 2:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)


class Sgd(Backbone):
    """Without a schedule, which would want to know every group."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


def _three(module: pl.LightningModule, *callbacks: Callback, resume_at: int = 0, **trainer: Any) -> Setup:
    return Setup(module, callbacks=list(callbacks), trainer={"max_epochs": 3} | trainer, resume_at=resume_at)


@case(*CHANGED)
def finetuning_a_backbone() -> Setup:
    return _three(Sgd(), BackboneFinetuning(1, lambda epoch: 1.5, backbone_initial_ratio_lr=0.1))


@case(*CHANGED)
def finetuning_a_backbone_before_resume() -> Setup:
    return _three(Sgd(), BackboneFinetuning(1, lambda epoch: 1.5, train_bn=False), resume_at=1)


@case(*CHANGED)
def finetuning_part_by_part() -> Setup:
    return _three(Sgd(), Unfreezing())


@case(*CHANGED)
def finetuning_part_by_part_before_resume() -> Setup:
    return _three(Sgd(), Unfreezing(), resume_at=1)


@case(*CHANGED)
def pruning() -> Setup:
    return _three(Net(), ModelPruning("l1_unstructured", amount=0.3))


@case(*CHANGED)
def pruning_of_single_layers_with_lottery_tickets_before_resume() -> Setup:
    single = ModelPruning("random_unstructured", amount=0.2, use_global_unstructured=False, resample_parameters=True)
    return _three(Sgd(), single, resume_at=1)


class Doing(Callback):
    """Calls a function in one hook, while a condition holds that it looks up in the trainer."""

    def __init__(self, hook: str, when: Callable[[pl.Trainer], bool], what: Callable[[pl.Trainer], None]) -> None:
        def act(trainer: pl.Trainer, *_: Any) -> None:
            if not trainer.sanity_checking and when(trainer):
                what(trainer)

        setattr(self, hook, act)


def _other_optimizer(trainer: pl.Trainer) -> None:
    trainer.optimizers = [torch.optim.SGD(trainer.lightning_module.parameters(), lr=0.05, momentum=0.9)]


def _other_optimizer_with_a_schedule(trainer: pl.Trainer) -> None:
    _other_optimizer(trainer)
    schedule = lr_scheduler.CosineAnnealingLR(trainer.optimizers[0], 13)
    trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(schedule, interval="step")]


def _other_schedule(trainer: pl.Trainer) -> None:
    rate = trainer.optimizers[0].param_groups[0]["lr"]
    schedule = lr_scheduler.LambdaLR(trainer.optimizers[0], lambda step: 1 / (1 + step + rate))
    trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(schedule, interval="step", frequency=2)]


def _one_schedule_more(trainer: pl.Trainer) -> None:
    schedule = lr_scheduler.ExponentialLR(trainer.optimizers[0], 0.7)
    trainer.lr_scheduler_configs.append(LRSchedulerConfig(schedule, interval="step"))


def _no_schedule(trainer: pl.Trainer) -> None:
    trainer.lr_scheduler_configs.clear()


def _group_of_its_own(trainer: pl.Trainer) -> None:
    parameter = nn.Parameter(torch.ones(3))
    trainer.lightning_module.register_parameter("late", parameter)
    trainer.optimizers[0].add_param_group({"params": [parameter], "lr": 0.5})


def _at_epoch(number: int) -> Callable[[pl.Trainer], bool]:
    return lambda trainer: trainer.current_epoch == number


@case(*CHANGED)
def optimizer_replaced() -> Setup:
    return _three(Net(_by_epoch), Doing("on_train_epoch_start", _at_epoch(1), _other_optimizer_with_a_schedule))


@case(*CHANGED)
def optimizer_replaced_and_saved_beside_the_training() -> Setup:
    setup = _three(Net(), Doing("on_train_epoch_start", _at_epoch(1), _other_optimizer), resume_at=1)
    return Setup(
        setup.module,
        callbacks=setup.callbacks,
        trainer=setup.trainer,
        config={"staging": {"mode": "overlap"}, "every": {"steps": 2, "minutes": None}},
        resume_at=1,
    )


@case(*CHANGED)
def optimizer_replaced_each_epoch() -> Setup:
    return _three(Net(), Doing("on_train_epoch_start", lambda trainer: True, _other_optimizer_with_a_schedule))


@case(*CHANGED)
def schedule_replaced() -> Setup:
    return _three(Net(_by_step), Doing("on_train_epoch_start", _at_epoch(1), _other_schedule))


@case(*CHANGED)
def schedule_added() -> Setup:
    return _three(Net(), Doing("on_train_epoch_start", _at_epoch(1), _one_schedule_more))


@case(*CHANGED)
def schedule_added_to_another() -> Setup:
    return _three(Net(_by_epoch), Doing("on_train_epoch_end", _at_epoch(0), _one_schedule_more), resume_at=1)


@case(*CHANGED)
def schedule_removed() -> Setup:
    return _three(Net(_by_step), Doing("on_validation_end", _at_epoch(0), _no_schedule))


@case(*CHANGED)
def schedule_replaced_in_mid_epoch() -> Setup:
    return _three(Net(), Doing("on_train_batch_end", lambda trainer: trainer.global_step == 7, _one_schedule_more))


@case(*CHANGED)
def schedule_replaced_at_the_start_of_a_batch() -> Setup:
    at = Doing("on_train_batch_start", lambda trainer: trainer.global_step == 12, _other_schedule)
    return _three(Net(_by_epoch), at)


def _is_low(trainer: pl.Trainer) -> bool:
    loss = trainer.callback_metrics.get("val_loss")
    return len(trainer.lr_scheduler_configs) == 0 and loss is not None and float(loss) > 0


@case(*CHANGED)
def schedule_added_on_a_metric() -> Setup:
    return _three(Net(), Doing("on_train_epoch_start", _is_low, _one_schedule_more))


@case(*CHANGED)
def schedule_of_every_launch() -> Setup:
    return _three(Net(), Doing("on_train_start", lambda trainer: True, _one_schedule_more))


class Changing(Net):
    """Takes other optimizers by itself, and draws for it."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            rate = float(torch.rand(())) / 10
            optimizer = torch.optim.SGD(self.parameters(), lr=rate, momentum=0.9)
            self.trainer.optimizers = [optimizer]
            self.trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(lr_scheduler.StepLR(optimizer, 1, 0.5))]


@case(*CHANGED)
def module_that_replaces_its_optimizer() -> Setup:
    return _three(Changing(_by_step))


class Growing(Duel):
    """A third optimizer comes with the second epoch."""

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        first, *others = self.optimizers()
        first.zero_grad()
        loss = self.loss(batch)
        self.manual_backward(loss)
        first.step()
        for other in others:
            other.zero_grad()
            distance = (self.other(batch["x"]) - self.body(batch["x"]).detach()).square().mean()
            self.manual_backward(distance)
            other.step()
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=BATCH)

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            third = torch.optim.SGD(self.other.parameters(), lr=0.01, momentum=0.5)
            self.trainer.optimizers = [*self.trainer.optimizers, third]


@case(*CHANGED)
def several_optimizers_and_one_more() -> Setup:
    return _three(Growing())


class Stepwise(Callback):
    """Has a state, and changes by it."""

    def __init__(self) -> None:
        self.epochs = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch >= 1 and not trainer.lr_scheduler_configs:
            _one_schedule_more(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]


@case(*CHANGED)
def several_callbacks_that_change() -> Setup:
    replacing = Doing("on_train_epoch_start", _at_epoch(1), _other_optimizer)
    return _three(Net(), replacing, Doing("on_train_epoch_start", _at_epoch(2), _other_optimizer), Stepwise())


ALL: Mapping[str, Case] = CASES
"""Those of `cases`, and these."""
