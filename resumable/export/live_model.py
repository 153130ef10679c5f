"""Build a live model and fill it with a checkpoint's values. Independent of formats."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from resumable.errors import ExportError, RunMismatchError
from resumable.export.checkpoint_module import CheckpointModule
from resumable.export.model_factory import call_factory
from resumable.state.objects.adapter import listed, unwrapped
from resumable.state.objects.modules import HIDDEN, fill_buffer, is_extra, misfits, untied
from resumable.state.tensors.facts import TensorFacts, copy_bits, empty, same_place
from resumable.utils.messages import quoted

_AS_TRAINED = "the function must build the model as it was trained"


def build_model(factory: str) -> nn.Module:
    """Call `package.module:function` and return its model in eval mode, without the wrappers of training.

    Raises the errors of `call_factory`, and `ExportError` where the function does not return a module.
    """
    made = unwrapped(call_factory(factory))
    if not isinstance(made, nn.Module):
        raise ExportError(
            f"{factory}() returned a {type(made).__name__}, expected a torch.nn.Module", "return the model"
        )
    return made.eval()


def fill_model(model: nn.Module, stored: CheckpointModule) -> None:
    """Copy every value of the checkpoint into `model`, also into buffers that no `state_dict` contains.

    Raises `RunMismatchError` where names, shapes or dtypes differ.
    """
    state = model.state_dict(keep_vars=True)
    live = {name: value for name, value in state.items() if not is_extra(name)}
    _refuse_misfit(type(model).__name__, live, stored)
    if len(live) != len(state):
        _fill_extra(model, stored)
    for name in stored.records:
        copy_bits(live[name].detach(), stored.read(name))
    for key in stored.hidden:
        _fill_buffer(model, key.removeprefix(HIDDEN), stored.read(key))


def _fill_extra(model: nn.Module, stored: CheckpointModule) -> None:
    for name, value in stored.read_extra().items():
        try:
            model.get_submodule(name.rpartition(".")[0]).set_extra_state(value)
        except Exception as error:
            raise RunMismatchError(
                f"{type(model).__name__} does not load {name}: {type(error).__name__}: {quoted(error)}", _AS_TRAINED
            ) from error


def _refuse_misfit(what: str, live: Mapping[str, Tensor], stored: CheckpointModule) -> None:
    saved = {name: empty(TensorFacts.recorded(record), "meta") for name, record in stored.records.items()}
    saved |= {name: saved[kept] for name, kept in stored.tied.items()}
    reasons = [*misfits(saved, live), *untied(saved, live)] or _wrongly_tied(stored, live)
    if reasons:
        raise RunMismatchError(
            f"{what} does not match {stored.source.checkpoint}: {'; '.join(reasons)}",
            f"{_AS_TRAINED}: the same names, shapes and dtypes",
        )


def _fill_buffer(model: nn.Module, name: str, value: Tensor) -> None:
    """Fill the buffer, or replace it if the function created another one or none: training may do both."""
    owner, _, attribute = name.rpartition(".")
    try:
        fill_buffer(model.get_submodule(owner), attribute, value, next(model.parameters(), value).device)
    except (AttributeError, KeyError) as error:
        raise RunMismatchError(
            f"{type(model).__name__} has no buffer {name}, which the checkpoint has", _AS_TRAINED
        ) from error


def _wrongly_tied(stored: CheckpointModule, live: Mapping[str, Tensor]) -> list[str]:
    """List different tensors of the checkpoint that are one tensor here: the last value would overwrite the others."""
    first: dict[object, str] = {}
    apart = []
    for name in stored.records:
        other = first.setdefault(same_place(live[name]) or name, name)
        if stored.digest_of(other) != stored.digest_of(name):
            apart.append(f"{other} and {name}")
    return listed("two tensors in the checkpoint, one here", apart)
