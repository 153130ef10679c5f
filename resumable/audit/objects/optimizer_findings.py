"""Optimizers that step and were not given or were built again, and parameters that are not saved."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch.optim import Optimizer

from resumable.audit.objects.findings import Finding, Weight, saved_as
from resumable.audit.objects.given_objects import given_ids, module_parts
from resumable.audit.objects.plain_reads import is_a

MIN_LOOKS = 2  # at which an optimizer must have stepped: one that is built anew in each turn keeps no state


def forgotten_optimizers(
    given: Mapping[str, object],
    ids: Collection[int],
    steps: Mapping[Optimizer, int],
    names: Mapping[int, str],
) -> Iterator[tuple[int, Finding]]:
    """Yield the id and the finding of each optimizer that steps and was not given.

    `ids` are those of everything given, `steps` how often each optimizer was seen to step, `names` the paths that the
    loop has for objects.
    """
    for optimizer, looks in steps.items():
        if id(optimizer) not in ids and looks >= MIN_LOOKS:
            found = _forgotten(optimizer, given, steps, names.get(id(optimizer)))
            if found is not None:
                yield id(optimizer), found


def _forgotten(
    optimizer: Optimizer, given: Mapping[str, object], steps: Mapping[Optimizer, int], name: str | None
) -> Finding | None:
    kind = type(optimizer).__name__
    parameters = {id(each) for each in _parameters(optimizer)}
    replaced = _replaced(given, steps, parameters)
    if replaced is not None:
        what = f"never steps, while another optimizer ({kind}) that is in no checkpoint steps its parameters"
        return Finding(replaced, what, "build it once, before Trainer(...)", Weight.STRONG)
    owner = _owner(given, parameters)
    if owner is None and name is None:  # it may be of another training in this program
        return None
    what = f"steps {f'the parameters of {owner}' if owner else 'parameters'} and is in no checkpoint"
    advice, adopts = saved_as(name or "optimizer", name or "optimizer")
    return Finding(name or f"an optimizer ({kind})", what, advice, Weight.STRONG, adopts)


def forgotten_parameters(
    given: Mapping[str, object], steps: Mapping[Optimizer, int], owners: Mapping[str, object]
) -> Iterator[tuple[int, Finding]]:
    """Yield the id and the finding of what has parameters that given optimizers step, and was not given.

    `owners` are the modules and tensors that the loop names, by their paths.
    """
    held = given_ids({name: each for name, each in given.items() if not is_a(each, Optimizer)})
    for name, optimizer in _optimizers(given):
        if optimizer not in steps:
            continue
        lost = {id(each) for each in _parameters(optimizer) if each.requires_grad and id(each) not in held}
        for path, owner in owners.items():
            inside = {id(each) for each in _tensors_of(owner)} & lost
            if inside:
                what = f"has {len(inside)} parameters that {name} steps, and is in no checkpoint"
                advice, adopts = saved_as(path, path)
                yield id(owner), Finding(path, what, advice, Weight.STRONG, adopts)
            lost -= inside
        if lost:
            what = f"steps {len(lost)} parameters that are in no checkpoint"
            yield id(optimizer), Finding(name, what, "pass what has them to Trainer(...)", Weight.STRONG)


def _optimizers(given: Mapping[str, object]) -> Iterator[tuple[str, Optimizer]]:
    return ((name, each) for name, each in given.items() if isinstance(each, Optimizer))


def _tensors_of(value: object) -> Iterator[object]:
    return module_parts(value) if isinstance(value, torch.nn.Module) else iter((value,))


def _parameters(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    return (each for group in optimizer.param_groups for each in group["params"])


def _owner(given: Mapping[str, object], parameters: Collection[int]) -> str | None:
    for name, each in given.items():
        if is_a(each, torch.nn.Module) and any(id(part) in parameters for part in _tensors_of(each)):
            return name
    return None


def _replaced(given: Mapping[str, object], steps: Mapping[Optimizer, int], parameters: Collection[int]) -> str | None:
    """Return the name of a given optimizer that never steps, and has the parameters of another one that does."""
    for name, each in _optimizers(given):
        if each not in steps and any(id(parameter) in parameters for parameter in _parameters(each)):
            return name
    return None
