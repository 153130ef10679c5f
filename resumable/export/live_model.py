"""A live model with a checkpoint's values in it, made by the one function that the user named; knows no format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from resumable.errors import ExportError, RunMismatchError
from resumable.export.model_factory import made_by
from resumable.export.stored_module import Stored
from resumable.state.objects.adapter import listed, unwrapped
from resumable.state.objects.modules import HIDDEN, is_extra, misfits, untied
from resumable.state.tensors.facts import TensorFacts, empty, facts_of, same_place
from resumable.state.tensors.facts import fill as copied
from resumable.utils.messages import quoted


def build(factory: str) -> nn.Module:
    """The model that `package.module:function` makes, out of the wrappers of training; errors as `made_by`.

    `ExportError` where it makes no model.
    """
    made = unwrapped(made_by(factory))
    if not isinstance(made, nn.Module):
        raise ExportError(f"{factory}() made a {type(made).__name__}, expected a torch.nn.Module", "return the model")
    return made.eval()


def fill(model: nn.Module, stored: Stored) -> None:
    """Put every value of the checkpoint into `model`, also of buffers that no `state_dict` has.

    `RunMismatchError` where names, shapes or dtypes are not the very same.
    """
    state = model.state_dict(keep_vars=True)
    live = {name: value for name, value in state.items() if not is_extra(name)}
    _refuse_misfit(type(model).__name__, live, stored)
    if len(live) != len(state):
        _fill_extra(model, stored)
    for name in stored.records:
        copied(live[name].detach(), stored.read(name))
    for key in stored.hidden:
        _place(model, key.removeprefix(HIDDEN), stored.read(key))


def _fill_extra(model: nn.Module, stored: Stored) -> None:
    for name, value in stored.read_extra().items():
        try:
            model.get_submodule(name.rpartition(".")[0]).set_extra_state(value)
        except Exception as error:
            raise RunMismatchError(
                f"{type(model).__name__} does not take back {name}: {type(error).__name__}: {quoted(error)}",
                "the function must build the model as it was trained",
            ) from error


def _refuse_misfit(what: str, live: Mapping[str, Any], stored: Stored) -> None:
    saved = {name: empty(TensorFacts.recorded(record), "meta") for name, record in stored.records.items()}
    saved |= {name: saved[kept] for name, kept in stored.tied.items()}
    reasons = [*misfits(saved, live), *untied(saved, live)] or _torn(stored, live)
    if reasons:
        raise RunMismatchError(
            f"{what} does not fit {stored.source.checkpoint}: {'; '.join(reasons)}",
            "the function must build the model as it was trained: the same names, shapes and dtypes",
        )


def _place(model: nn.Module, name: str, value: Tensor) -> None:
    """Into the buffer, or in its place where the function made another one or none: training may do both."""
    owner, _, attribute = name.rpartition(".")
    try:
        buffers = model.get_submodule(owner)._buffers
        live = buffers[attribute]
    except (AttributeError, KeyError) as error:
        raise RunMismatchError(
            f"{type(model).__name__} has no buffer {name}, which the checkpoint has",
            "the function must build the model as it was trained",
        ) from error
    if live is not None and facts_of(live) == facts_of(value):
        copied(live, value)
    else:
        near = live if live is not None else next(model.parameters(), value)
        buffers[attribute] = value.to(near.device)


def _torn(stored: Stored, live: Mapping[str, Any]) -> list[str]:
    """Names of different tensors in the checkpoint that are one tensor here: the last would be taken for all."""
    first: dict[object, str] = {}
    apart = []
    for name, record in stored.records.items():
        other = first.setdefault(same_place(live[name]) or name, name)
        if stored.records[other].digest != record.digest:
            apart.append(f"{other} and {name}")
    return listed("two tensors in the checkpoint, one here", apart)
