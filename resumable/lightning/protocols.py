"""Protocols for the parts of Lightning's objects that this package uses; Lightning's own types change by version.

Names with a leading underscore are private to Lightning: only `private` and `private_results` use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

import torch

from resumable.drivers.state import SavedState, State

Hook: TypeAlias = Callable[..., Any]
"""A hook of a callback or a module; each has arguments of its own."""

Profile: TypeAlias = Callable[[str], AbstractContextManager[object]]


# -- progress ---------------------------------------------------------------------------------------------------------


class Count(Protocol):
    """One row of Lightning's progress counters."""

    ready: int
    completed: int
    processed: int


class Progress(Protocol):
    """Counters of the whole run (`total`) and of the epoch in progress (`current`)."""

    total: Count
    current: Count


# -- loaders ----------------------------------------------------------------------------------------------------------


class CombinedIterator(Protocol):
    """The iterator of a `CombinedLoader`, for one of its modes."""

    iterators: list[Iterator[object]]
    _idx: int
    _consumed: list[bool]  # absent in some modes


class CombinedLoader(Protocol):
    """Lightning's union of the loaders of one loop."""

    _iterator: CombinedIterator | None

    def reset(self) -> None: ...


class DataFetcher(Protocol):
    """The iterator over batches of a loop."""

    fetched: int
    length: int | None


# -- loops ------------------------------------------------------------------------------------------------------------


class Loop(Protocol):
    """A loop that can be restarted."""

    _restarting: bool
    _loaded_from_state_dict: bool
    _resuming_from_checkpoint: bool


class LoadingLoop(Loop, Protocol):
    """A loop that requests loaders from the user's code."""

    _combined_loader: CombinedLoader | None

    def setup_data(self) -> None: ...


class OptimizationLoop(Loop, Protocol):
    """The loop around one optimizer step."""

    _skip_backward: bool


class EvaluationLoop(LoadingLoop, Protocol):
    """The loop over the batches of a validation."""

    _should_reload_val_dl: bool
    _last_val_dl_reload_epoch: float
    _has_run: bool
    _seen_batches_per_dataloader: MutableMapping[int, int]
    _results: ResultCollection


class EpochLoop(Loop, Protocol):
    """The loop over the batches of a training epoch."""

    batch_idx: int
    batch_progress: Progress
    val_loop: EvaluationLoop
    automatic_optimization: OptimizationLoop
    manual_optimization: Loop
    _results: ResultCollection


class FitLoop(LoadingLoop, Protocol):
    """The loop over epochs."""

    epoch_loop: EpochLoop
    epoch_progress: Progress
    max_batches: float
    _data_fetcher: DataFetcher
    _should_reload_train_dl: bool
    _last_train_dl_reload_epoch: float

    def state_dict(self) -> State: ...
    def load_state_dict(self, state: SavedState) -> None: ...


# -- logged values ----------------------------------------------------------------------------------------------------


class MetricCache(Protocol):
    """The cached updates of a torchmetrics object, or of a logged value."""

    _update_count: int
    _computed: object
    _forward_cache: object


class Metric(MetricCache, Protocol):
    """A torchmetrics object."""

    _defaults: Mapping[str, object]

    @property
    def device(self) -> torch.device: ...


class ResultMetric(MetricCache, Protocol):
    """One value that was logged with `on_epoch=True`."""

    is_tensor: bool
    has_reset: bool
    meta: Any  # a dataclass of Lightning's, read by the names of its fields
    value: object


class ResultCollection(Protocol):
    """The values of one loop that were logged with `on_epoch=True`."""

    def clear(self) -> None: ...
    def items(self) -> Iterable[tuple[str, ResultMetric]]: ...
    def __setitem__(self, key: str, entry: ResultMetric, /) -> None: ...


class LoggerConnector(Protocol):
    """The part of a trainer that collects what is logged."""

    _callback_metrics: Mapping[str, object]
    _logged_metrics: Mapping[str, object]
    _progress_bar_metrics: Mapping[str, object]
    _current_fx: str | None
    _first_loop_iter: bool | None


class Logger(Protocol):
    """A `CSVLogger` or a `TensorBoardLogger`."""

    log_dir: str
    save_dir: str
    version: int | str
    experiment: Any  # of the logger's kind: a writer of rows, or of events
    _version: int | str | None
    _experiment: object
    _default_hp_metric: bool

    def save(self) -> None: ...


# -- the trainer ------------------------------------------------------------------------------------------------------


class Callback(Protocol):
    """A callback of Lightning's."""

    state_key: str

    def load_state_dict(self, state: State) -> None: ...
    def on_load_checkpoint(self, trainer: Trainer, module: Module, checkpoint: State) -> None: ...


class CheckpointCallback(Callback, Protocol):
    """A `ModelCheckpoint`."""

    dirpath: str | None

    def file_exists(self, path: str, trainer: Trainer) -> bool: ...


class Module(Protocol):
    """A `LightningModule`."""

    _current_fx_name: str | None

    def state_dict(self) -> Mapping[str, torch.Tensor]: ...
    def named_modules(self) -> Iterable[tuple[str, torch.nn.Module]]: ...
    def get_submodule(self, target: str) -> torch.nn.Module: ...
    def on_load_checkpoint(self, checkpoint: State) -> None: ...


class SchedulerConfig(Protocol):
    """A scheduler with the settings of its use."""

    scheduler: Any  # of any class with `step` and `state_dict`


class Strategy(Protocol):
    """The strategy of a trainer: one device, in this package."""

    reduce: Callable[..., object]

    def process_dataloader(self, loader: object) -> Iterable[object]: ...
    def on_train_end(self) -> None: ...


class Profiler(Protocol):
    """The profiler of a trainer, which opens a record around every hook."""

    def profile(self, action: str) -> AbstractContextManager[object]: ...


class TrainerStatus(Protocol):
    """The status of a trainer."""

    fn: str | None
    stage: object

    @property
    def stopped(self) -> bool: ...


class CheckpointConnector(Protocol):
    """The part of a trainer that builds checkpoints."""

    def dump_checkpoint(self, *, weights_only: bool) -> State: ...


class Trainer(Protocol):
    """A Lightning trainer."""

    accumulate_grad_batches: int
    callbacks: Sequence[Callback]
    checkpoint_callbacks: Sequence[CheckpointCallback]
    current_epoch: int
    datamodule: Any  # of the user's class, with a state if that has one
    fast_dev_run: bool | int
    fit_loop: FitLoop
    lightning_module: Module
    loggers: Sequence[Logger]
    lr_scheduler_configs: Sequence[SchedulerConfig]
    max_epochs: int | None
    max_steps: int
    optimizers: Sequence[torch.optim.Optimizer]
    precision_plugin: Any  # of any class, with a state if that has one
    profiler: Profiler
    sanity_checking: bool
    should_stop: bool
    state: TrainerStatus
    strategy: Strategy
    world_size: int
    _checkpoint_connector: CheckpointConnector
    _logger_connector: LoggerConnector
    _teardown: Callable[[], None]
