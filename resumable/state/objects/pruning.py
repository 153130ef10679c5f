"""Prune modules again as a checkpoint was, so that its tensors have their names. Independent of optimizers.

Pruning of torch renames a parameter: `weight` becomes `weight_orig` and gets a buffer `weight_mask`. Both are in the
checkpoint, and a module that its program has just built has neither. The masks are restored, so any pruning does.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

_PARAMETER, _MASK = "_orig", "_mask"


def prune_again(module: nn.Module, names: Collection[str]) -> None:
    """Prune what was pruned where a `state_dict` has these names, and is not here; the masks let everything pass."""
    modules = dict(module.named_modules())
    for name in pruned_names(names):
        owner, _, parameter = name.rpartition(".")
        inside = modules.get(owner)
        if inside is not None and inside._parameters.get(parameter) is not None:
            from torch.nn.utils import prune  # late, because few programs prune

            prune.identity(inside, parameter)  # type: ignore[no-untyped-call]


def pruned_names(names: Collection[str]) -> list[str]:
    """Return the names of the parameters that are pruned in a `state_dict` with these names."""
    found = (name.removesuffix(_PARAMETER) for name in names if name.endswith(_PARAMETER))
    return [name for name in found if mask_of(name) in names]


def mask_of(name: str) -> str:
    """Return the name of the mask of a pruned parameter."""
    return name + _MASK


def before_pruning(name: str) -> str:
    """Return the name that a parameter had before it was pruned; other names are returned as they are."""
    return name.removesuffix(_PARAMETER)
