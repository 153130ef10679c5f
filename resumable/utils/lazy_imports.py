"""Import a public name of a package when it is first used, and keep the reason if that fails."""

from __future__ import annotations

import importlib
from collections.abc import Mapping


def attribute(package: str, homes: Mapping[str, str], name: str) -> object:
    """Return a public name from its home, a module of the package, for the package's `__getattr__`.

    Raises:
        AttributeError: The package has no such name.
        ImportError: The import of the home failed. An `AttributeError` would not do: `from package import name`
            replaces it by "cannot import name", without the reason.
    """
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    home = f"{package}.{homes[name]}"
    try:
        return getattr(importlib.import_module(home), name)
    except (AttributeError, ImportError) as error:
        raise ImportError(f"{package}.{name}: {home} cannot be imported: {error}", name=home) from error
