"""Imports a public name of a package when it is first used, and keeps the reason where that fails."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def attribute(package: str, homes: Mapping[str, str], name: str) -> Any:
    """Return what a package's `__getattr__` must: the name from its home, which is a module of the package.

    Raises:
        AttributeError: The package has no such name.
        ImportError: The import of the home failed. `from package import name` would replace an `AttributeError` of
            it by "cannot import name", and the reason would be lost.
    """
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    home = f"{package}.{homes[name]}"
    try:
        return getattr(importlib.import_module(home), name)
    except (AttributeError, ImportError) as error:
        raise ImportError(f"{package}.{name}: {home} cannot be imported: {error}", name=home) from error
