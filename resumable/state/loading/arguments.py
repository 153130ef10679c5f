"""Validate the arguments of `load_weights`, with errors that name what was expected. Reads no weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from torch import nn

from resumable.errors import ConfigError
from resumable.state.objects.adapter import unwrapped
from resumable.utils.location import location
from resumable.utils.messages import quoted


def check_location(url: object, model: object) -> None:
    """Raise `ConfigError` unless `url` is a path or URL; also if `model` and `url` were swapped."""
    if isinstance(model, str | os.PathLike):
        shown = quoted(repr(location(model)))
        raise ConfigError(
            f"model: expected a module, found {type(model).__name__} {shown}",
            f"the model comes first: load_weights(model, {shown})",
        )
    if not isinstance(url, str | os.PathLike):
        raise ConfigError(
            f"url: expected a path or a URL, found {type(url).__name__}",
            "pass the location of the weights: load_weights(model, 'runs/cnn')",
        )


def check_model(model: object) -> None:
    """Raise `ConfigError` unless `model` is a module."""
    if not isinstance(unwrapped(model), nn.Module):
        raise ConfigError(
            f"model: expected a module, found {type(model).__name__}",
            "pass the model itself, which is filled in place, and not its class, state or parameters",
        )


def check_rename(rename: object) -> None:
    """Raise `ConfigError` unless `rename` maps key prefixes to key prefixes."""
    hint = "map prefixes of stored keys to prefixes of names: rename={'old.': 'new.'}"
    if rename is not None and not isinstance(rename, Mapping):
        raise ConfigError(f"rename: expected a dict of strings, found {type(rename).__name__}", hint)
    for old, new in (rename or {}).items():
        if not isinstance(old, str) or not isinstance(new, str):
            raise ConfigError(f"rename: expected a dict of strings, found {quoted(f'{old!r}: {new!r}')}", hint)


def skip_patterns(skip: object) -> tuple[str, ...]:
    """Return the patterns of names as a tuple; raise `ConfigError` unless all are strings."""
    hint = "pass names of the model, or patterns of them: skip=['head.*']"
    if not isinstance(skip, Iterable):
        raise ConfigError(f"skip: expected a list of strings, found {type(skip).__name__}", hint)
    patterns = (skip,) if isinstance(skip, str) else tuple(skip)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ConfigError(f"skip: expected a list of strings, found {quoted(repr(pattern))}", hint)
    return patterns
