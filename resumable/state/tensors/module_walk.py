"""The modules and parameters inside a module, in a fraction of the time that torch takes. Independent of adapters.

Every save walks over all of them several times.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from torch import nn


def named_modules(module: nn.Module, *, remove_duplicate: bool = True) -> list[tuple[str, nn.Module]]:
    """Return what the module's own `named_modules` yields; it is called where it is not that of torch."""
    found: list[tuple[str, nn.Module]] = []
    _walk(module, "", found, set() if remove_duplicate else None)
    return found


def _walk(module: nn.Module, name: str, found: list[tuple[str, nn.Module]], seen: set[nn.Module] | None) -> None:
    # No generators within generators, through each of which every item would pass.
    if seen is not None and module in seen:
        return
    if type(module).named_modules is not nn.Module.named_modules:
        found.extend(module.named_modules(seen, name, remove_duplicate=seen is not None))
        return
    if seen is not None:
        seen.add(module)
    found.append((name, module))
    before = f"{name}." if name else ""
    for child_name, child in module._modules.items():
        if child is not None:
            _walk(child, before + child_name, found, seen)


def named_parameters(module: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield what the module's own `named_parameters` yields; it is called where it is not that of torch."""
    if not _is_torchs(module):
        yield from module.named_parameters(remove_duplicate=remove_duplicate)
        return
    seen: set[int] = set()
    for prefix, child in named_modules(module, remove_duplicate=remove_duplicate):
        before = f"{prefix}." if prefix else ""
        for name, parameter in child._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            if remove_duplicate:
                seen.add(id(parameter))
            yield before + name, parameter


def holds_gradient(module: nn.Module) -> bool:
    """Return whether a parameter of the module has a gradient."""
    if not _is_torchs(module):
        return any(parameter.grad is not None for parameter in module.parameters())
    tables = (child._parameters.values() for _, child in named_modules(module))
    return any(each is not None and each.grad is not None for each in chain.from_iterable(tables))


def _is_torchs(module: nn.Module) -> bool:
    return getattr(module.named_parameters, "__func__", None) is nn.Module.named_parameters
