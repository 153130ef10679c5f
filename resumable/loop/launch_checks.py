"""Refuse a launch that cannot be exact or was not meant: several processes, or code that is run to build a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from resumable.config.config import Config
from resumable.errors import ConfigError

_BUILDING: ContextVar[str | None] = ContextVar("building", default=None)


def refuse_several_processes() -> None:
    """Raise `ConfigError` where this process is one of several that train together."""
    declared = os.environ.get("WORLD_SIZE", "").strip() or "1"
    if not declared.isdigit():
        raise ConfigError(
            f"WORLD_SIZE={declared!r} in the environment: expected a whole number", "unset it for a single process"
        )
    world = int(declared)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
    if world > 1:
        raise ConfigError(
            f"the world has {world} processes; this version trains in one",
            "run one process per run folder; distributed training is refused until it is exact",
        )


def refuse_config_keys(objects: Iterable[str]) -> None:
    """Raise `ConfigError` for an object named as a key of the configuration, which belongs into the first argument.

    `progress` may be both: programs of earlier versions keep their own values in a dict of that name.
    """
    keys = [name for name in objects if name in Config.model_fields and name != "progress"]
    if keys:
        raise ConfigError(
            f"Trainer(...): {keys[0]!r} is a key of the configuration, and was passed as an object of the training",
            f"put it into the configuration: Trainer({{'run': ..., {keys[0]!r}: ...}}, model=model, ...)",
        )


@contextmanager
def building(factory: str) -> Iterator[None]:
    """Refuse every launch while the user's code runs for the model that `factory` builds."""
    token = _BUILDING.set(factory)
    try:
        yield
    finally:
        _BUILDING.reset(token)


def refuse_while_building() -> None:
    """Raise `ConfigError` where this code runs because an export or its proof needs a model.

    The run that it would resume may be the very one that is exported: it would claim it, train and prune.
    """
    factory = _BUILDING.get()
    if factory is not None:
        raise ConfigError(
            f"{factory} was named as the function that builds the model, and began to train",
            "what trains belongs behind `if __name__ == '__main__':`",
        )
