"""What loading of weights is asked for, refused in words where it is of another kind; knows no stored weight."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from resumable.errors import ConfigError
from resumable.state.objects.adapter import unwrapped
from resumable.utils.location import location
from resumable.utils.messages import quoted


def refuse_other_place(url: Any, model: Any) -> None:
    """`ConfigError` for what is no place, also where it and the model are in each other's stead."""
    if isinstance(model, str | os.PathLike):
        shown = quoted(repr(location(model)))
        raise ConfigError(
            f"model: expected a module, found {type(model).__name__} {shown}",
            f"the model comes first: load_weights(model, {shown})",
        )
    if not isinstance(url, str | os.PathLike):
        raise ConfigError(
            f"url: expected a path or a URL, found {type(url).__name__}",
            "say where the weights lie: load_weights(model, 'runs/cnn')",
        )


def refuse_other_model(model: Any) -> None:
    """`ConfigError` for what is no module."""
    if not isinstance(unwrapped(model), nn.Module):
        raise ConfigError(
            f"model: expected a module, found {type(model).__name__}",
            "pass the model itself, which is filled in place, and not its class, its state or its parameters",
        )


def refuse_other_rules(rename: Any) -> None:
    """`ConfigError` unless these are beginnings of names by beginnings of names."""
    hint = "write beginnings of stored keys with what they become: rename={'old.': 'new.'}"
    if rename is not None and not isinstance(rename, Mapping):
        raise ConfigError(f"rename: expected a dict of texts, found {type(rename).__name__}", hint)
    for old, new in (rename or {}).items():
        if not isinstance(old, str) or not isinstance(new, str):
            raise ConfigError(f"rename: expected a dict of texts, found {quoted(f'{old!r}: {new!r}')}", hint)


def patterns(skip: Any) -> tuple[str, ...]:
    """The patterns of names, read once; `ConfigError` for what is none."""
    hint = "write names of the model, or patterns of them: skip=['head.*']"
    if not isinstance(skip, Iterable):
        raise ConfigError(f"skip: expected a list of texts, found {type(skip).__name__}", hint)
    given = (skip,) if isinstance(skip, str) else tuple(skip)
    for pattern in given:
        if not isinstance(pattern, str):
            raise ConfigError(f"skip: expected a list of texts, found {quoted(repr(pattern))}", hint)
    return given
