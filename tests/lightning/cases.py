"""The matrix as data: for each way of using Lightning a module, its data, a Trainer, and three places of death."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    WeightAveraging,
)
from pytorch_lightning.utilities import CombinedLoader
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.lightning.toys import (
    BATCH,
    Counting,
    Drawing,
    Duel,
    MeasuredTurns,
    Measuring,
    Net,
    Parametrised,
    Reloading,
    Remembering,
    Samples,
    StatefulStream,
    Stream,
    Turns,
    training,
    validation,
)

EPOCHS = 2
SAVE_EVERY = 3

# Nine batches an epoch and a save after every third: the first resumes in mid-epoch, the second from the end of the
# first epoch, the third in mid-epoch again with a validation that had begun.
USUAL = ("on_after_backward:5", "on_train_batch_end:11", "on_validation_batch_end:5")
# The same where validation comes twice an epoch: within it, and right after it.
OFTEN = ("on_validation_batch_end:2", "on_after_backward:6", "on_validation_batch_end:8")


@dataclass(frozen=True)
class Setup:
    """What one launch hands to Lightning, and to `Resume` over the usual config."""

    module: Any = field(default_factory=Net)
    data: dict[str, Any] = field(
        default_factory=lambda: {"train_dataloaders": training(), "val_dataloaders": validation()}
    )
    callbacks: list[Callback] = field(default_factory=list)
    trainer: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    resume_at: int = 0  # among the callbacks


@dataclass(frozen=True)
class Case:
    """How to make a launch, and where launches die: HOOK:N, in the N-th call of the hook, or `...!SIGTERM`."""

    name: str
    make: Callable[[], Setup]
    places: tuple[str, ...]
    needs_cuda: bool = False


CASES: dict[str, Case] = {}


def case(
    *places: str, name: str | None = None, needs_cuda: bool = False
) -> Callable[[Callable[[], Setup]], Callable[[], Setup]]:
    """Register a case under the function's name."""

    def register(make: Callable[[], Setup]) -> Callable[[], Setup]:
        own = name or make.__name__
        assert own not in CASES
        CASES[own] = Case(own, make, places or USUAL, needs_cuda)
        return make

    return register


# ---- optimization


@case(*USUAL, "on_train_end:1", "on_train_epoch_end:1", "on_train_batch_end:4!SIGTERM", "on_validation_start:2!SIGTERM")
def automatic() -> Setup:
    return Setup()


@case("on_train_batch_end:5", "on_after_backward:23", "on_validation_batch_end:5")
def manual() -> Setup:
    return Setup(Duel())


def _accumulating() -> dict[str, Any]:
    schedule = Net(lambda optimizer: {"scheduler": lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step"})
    return {"module": schedule, "trainer": {"accumulate_grad_batches": 3}}


@case("on_train_batch_end:5", "on_after_backward:14", "on_train_batch_end:16!SIGTERM")
def accumulation() -> Setup:
    return Setup(**_accumulating(), config={"every": {"steps": 2, "minutes": None}})


@case("on_train_batch_end:5", "on_after_backward:15", "on_validation_batch_end:5")
def accumulation_saved_inside_the_window() -> Setup:
    return Setup(**_accumulating(), config={"every": {"steps": 2, "minutes": None}, "gradients": "always"})


@case()
def accumulation_by_schedule() -> Setup:
    return Setup(callbacks=[GradientAccumulationScheduler({0: 2, 1: 4})])


@case()
def clipping_by_norm() -> Setup:
    return Setup(trainer={"gradient_clip_val": 0.1})


@case()
def clipping_by_value() -> Setup:
    return Setup(trainer={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"})


@case()
def bf16() -> Setup:
    return Setup(trainer={"precision": "bf16-mixed"})


@case(needs_cuda=True)
def fp16() -> Setup:
    return Setup(trainer={"precision": "16-mixed", "accelerator": "gpu"})


@case()
def overlapping_saves() -> Setup:
    return Setup(config={"staging": {"mode": "overlap"}})


# ---- schedulers


@case()
def schedule_per_step() -> Setup:
    return Setup(Net(lambda optimizer: {"scheduler": lr_scheduler.OneCycleLR(optimizer, 0.1, 20), "interval": "step"}))


@case()
def schedule_per_epoch() -> Setup:
    return Setup(
        Net(lambda optimizer: {"scheduler": lr_scheduler.StepLR(optimizer, 1, 0.5)}), trainer={"max_epochs": 3}
    )


def _plateau(monitor: str, **options: Any) -> Net:
    def schedule(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.3, factor=0.5)
        return {"scheduler": plateau, "monitor": monitor, "strict": False} | options

    return Net(schedule)


@case()
def plateau_per_epoch() -> Setup:
    return Setup(_plateau("val_loss"), trainer={"max_epochs": 3})


@case(*USUAL, "on_train_batch_end:13")
def plateau_per_step_on_the_last_validation() -> Setup:
    return Setup(_plateau("val_loss", interval="step", frequency=2), trainer={"max_epochs": 3})


@case()
def plateau_per_step_on_the_epoch_before() -> Setup:
    return Setup(_plateau("loss_epoch", interval="step"), trainer={"max_epochs": 3})


# ---- validation


@case(*OFTEN)
def validation_twice_an_epoch() -> Setup:
    return Setup(trainer={"val_check_interval": 0.5})


@case(
    "on_validation_batch_end:4",
    "on_after_backward:8",
    "on_validation_batch_end:8",
    "on_validation_end:2",
    "on_train_end:1",
)
def validation_every_third_batch_where_saves_fall() -> Setup:
    return Setup(trainer={"val_check_interval": 3, "limit_val_batches": 2})


@case("on_validation_batch_end:2", "on_train_batch_end:16", "on_after_backward:23")
def validation_every_seven_batches_over_epochs() -> Setup:
    return Setup(trainer={"val_check_interval": 7, "check_val_every_n_epoch": None, "max_epochs": 3})


@case("on_after_backward:5", "on_validation_batch_end:2", "on_train_batch_end:22")
def validation_every_other_epoch() -> Setup:
    return Setup(trainer={"check_val_every_n_epoch": 2, "max_epochs": 3, "num_sanity_val_steps": 0})


@case()
def several_validation_loaders() -> Setup:
    loaders = {"train_dataloaders": training(), "val_dataloaders": [validation(), validation(2000)]}
    return Setup(data=loaders, trainer={"limit_val_batches": 2})


@case("on_after_backward:5", "on_train_batch_end:11", "on_train_epoch_end:2")
def no_validation() -> Setup:
    return Setup(data={"train_dataloaders": training()})


# ---- loaders


def _combined(mode: Any) -> Callable[[], Setup]:
    def make() -> Setup:
        long = DataLoader(Samples(TRAIN, 500), BATCH, shuffle=True)
        short = DataLoader(Samples(5 * BATCH), BATCH, shuffle=True)
        return Setup(
            data={
                "train_dataloaders": CombinedLoader({"long": long, "short": short}, mode),
                "val_dataloaders": validation(),
            },
            trainer={"max_epochs": 3 if mode == "min_size" else 2},
        )

    return make


TRAIN = 9 * BATCH
case("on_after_backward:8", "on_train_batch_end:11", "on_validation_batch_end:5", name="combined_max_size_cycle")(
    _combined("max_size_cycle")
)
case("on_after_backward:4", "on_train_batch_end:9", "on_validation_batch_end:5", name="combined_min_size")(
    _combined("min_size")
)
case("on_after_backward:8", "on_train_batch_end:11", "on_validation_batch_end:5", name="combined_max_size")(
    _combined("max_size")
)


def _with(loader: Callable[[], Any], val: Callable[[], Any] = validation) -> Callable[[], Setup]:
    return lambda: Setup(data={"train_dataloaders": loader(), "val_dataloaders": val()})


WORKERS = {"num_workers": 2, "persistent_workers": True}
case(name="stream")(_with(lambda: DataLoader(Stream(), BATCH)))
case(name="stream_in_workers")(_with(lambda: DataLoader(Stream(), BATCH, num_workers=2)))
case(name="stream_with_state")(_with(lambda: DataLoader(StatefulStream(), BATCH)))
case(name="stateful_loader")(_with(lambda: StatefulDataLoader(Samples(), BATCH, shuffle=True)))
case(name="stateful_loader_of_a_stream")(_with(lambda: StatefulDataLoader(StatefulStream(), BATCH)))
case(name="persistent_workers")(_with(lambda: training(**WORKERS), lambda: validation(**WORKERS)))
case(name="sampler_with_state")(_with(lambda: DataLoader(Samples(), BATCH, sampler=MeasuredTurns(), num_workers=2)))
case(name="sampler_with_state_and_no_length")(_with(lambda: DataLoader(Samples(), BATCH, sampler=Turns())))
case(name="workers")(_with(lambda: training(num_workers=2), lambda: validation(num_workers=1)))


@case()
def part_of_the_loader() -> Setup:
    return Setup(trainer={"limit_train_batches": 6, "max_epochs": 3})


@case("on_after_backward:5", "on_train_batch_end:9", "on_train_batch_end:20")
def loaders_made_anew_every_epoch() -> Setup:
    return Setup(Reloading(), data={}, trainer={"reload_dataloaders_every_n_epochs": 1, "max_epochs": 3})


@case("on_after_backward:5", "on_train_batch_end:12", "on_train_batch_end:20")
def loaders_made_anew_every_other_epoch() -> Setup:
    return Setup(Reloading(), data={}, trainer={"reload_dataloaders_every_n_epochs": 2, "max_epochs": 3})


@case()
def datamodule_with_state() -> Setup:
    return Setup(data={"datamodule": Counting()})


# ---- callbacks, hooks, metrics


@case()
def moving_average() -> Setup:
    return Setup(callbacks=[EMAWeightAveraging(decay=0.9)])


@case()
def averaged_weights_and_buffers() -> Setup:
    return Setup(callbacks=[WeightAveraging(use_buffers=True)])


@case("on_after_backward:5", "on_train_batch_end:11", "on_validation_batch_end:5", "on_train_end:1")
def early_stopping() -> Setup:
    return Setup(callbacks=[EarlyStopping("val_loss", min_delta=0.5, patience=1)], trainer={"max_epochs": 6})


@case("on_after_backward:5", "on_train_batch_end:7", "on_train_batch_end:11")
def early_stopping_in_mid_epoch() -> Setup:
    stopping = EarlyStopping("val_loss", min_delta=0.5, patience=2)
    return Setup(callbacks=[stopping], trainer={"max_epochs": 6, "val_check_interval": 4})


@case()
def learning_rate_monitor() -> Setup:
    setup = schedule_per_step()
    return Setup(setup.module, callbacks=[LearningRateMonitor("step", log_momentum=True)])


@case()
def checkpoints_of_lightning_beside() -> Setup:
    # A file that a killed launch left behind would get a "-v1" with the counter on.
    beside = ModelCheckpoint(
        monitor="val_loss", every_n_train_steps=4, save_top_k=2, save_last=True, enable_version_counter=False
    )
    return Setup(callbacks=[beside], trainer={"enable_checkpointing": True})


@case("on_train_batch_end:5", "on_train_batch_end:11", "on_validation_batch_end:5", "on_train_epoch_end:1")
def hooks_that_draw() -> Setup:
    return Setup(Drawing())


@case(*USUAL, "on_train_batch_end:17")
def metrics_of_the_epoch() -> Setup:
    return Setup(Measuring())


@case(*OFTEN)
def metrics_of_the_epoch_with_validation_within() -> Setup:
    return Setup(Measuring(), trainer={"val_check_interval": 0.5, "log_every_n_steps": 3})


@case()
def additions_to_the_checkpoint() -> Setup:
    return Setup(Remembering())


@case()
def nested_hyper_parameters() -> Setup:
    model = {"widths": [6, 8], "dropout": None, "names": ("a", {"b": 1.5})}
    return Setup(Parametrised(model, {"lr": 0.1, "momentum": 0.9}))


@case("on_after_backward:5", "on_train_batch_end:11", "on_train_batch_end:13")
def steps_instead_of_epochs() -> Setup:
    return Setup(trainer={"max_epochs": -1, "max_steps": 14})
