"""A golden input and the live model's outputs for it, to compare an exported model with. Imports no file and no run."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from resumable.errors import ConfigError, StateError
from resumable.prepared.private import plain_forward_of_accelerate
from resumable.state.objects.adapter import unwrapped
from resumable.state.objects.side_effects import without_side_effects
from resumable.state.tensors.facts import copy_bits, empty, facts_of, refusal
from resumable.utils.checks import no_finite_number
from resumable.utils.messages import listed, quoted

_KEYS = {"model", "inputs", "arguments", "outputs"}
_DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "maia", "ipu", "xla", "privateuseone")
_BATCHES = "pass a tensor for model(x), a tuple of tensors for model(*batch), a dict of them for model(**batch)"


@dataclass(frozen=True, eq=False)
class Golden:
    """An input and the live model's outputs for it; tensors on the CPU, contiguous.

    `arguments` are the keyword names of the inputs in order, None where they are positional. `outputs` is empty before
    the model has run.
    """

    inputs: tuple[Tensor, ...]
    arguments: tuple[str, ...] | None
    outputs: tuple[Tensor, ...]

    def tree(self, model: str) -> dict[str, object]:
        """Return the tree to store; `model` is the name of the module that has run."""
        return {
            "model": model,
            "inputs": list(self.inputs),
            "arguments": None if self.arguments is None else list(self.arguments),
            "outputs": list(self.outputs),
        }

    @classmethod
    def from_tree(cls, tree: object) -> Golden:
        """Return the golden input in such a tree; `ValueError` where it holds none."""
        if not isinstance(tree, dict) or tree.keys() != _KEYS or type(tree["model"]) is not str:
            raise ValueError("a golden input: expected model, inputs, arguments and outputs")
        inputs, arguments, outputs = tree["inputs"], tree["arguments"], tree["outputs"]
        if not _are(Tensor, inputs) or not _are(Tensor, outputs) or not inputs:
            raise ValueError("a golden input: expected lists of tensors")
        has_names = arguments is None or (_are(str, arguments) and len(set(arguments)) == len(arguments) == len(inputs))
        if not has_names:
            raise ValueError("a golden input: expected one name for each tensor")
        return cls(tuple(inputs), None if arguments is None else tuple(arguments), tuple(outputs))


@dataclass(frozen=True, eq=False)
class GoldenInput:
    """A golden input with the live module, and the module's name in the run."""

    name: str
    module: nn.Module
    golden: Golden

    def capture(self) -> dict[str, object]:
        """Return the tree to store, with the outputs of the module as it is now."""
        return outputs_of(self.module, self.golden).tree(self.name)


def golden_input(modules: Mapping[str, nn.Module], batch: object, *, model: str | None) -> GoldenInput:
    """Make `batch` a golden input of one of the modules, and run it once.

    Raises `ConfigError` where it is ambiguous which module, `StateError` as `inputs_of` and `outputs_of`, and where the
    outputs hold no finite number. Later outputs may hold none: a training that diverges is not stopped by it.
    """
    golden = inputs_of(batch)
    name = model or _only(modules)
    if name not in modules:
        raise ConfigError(f"golden(..., model={name!r}): no such module", f"the modules are: {_listed(modules)}")
    found = uninformative_tensors(outputs_of(modules[name], golden).outputs)
    if found is not None:
        raise StateError(
            f"golden: the outputs of {type(modules[name]).__name__} hold {found}, so that any model would pass",
            "pass an input for which the model as it is now returns finite numbers; if none does, check its weights",
        )
    return GoldenInput(name, modules[name], golden)


def inputs_of(batch: object) -> Golden:
    """Copy a tensor, a tuple or list of tensors, or a dict of tensors by argument name; without outputs.

    Raises `StateError` with the path of any other value.
    """
    if isinstance(batch, Tensor):
        return Golden((_input(batch, "golden"),), None, ())
    if isinstance(batch, Mapping):
        found = {_argument(key): _input(value, f"golden[{key!r}]") for key, value in batch.items()}
        names: tuple[str, ...] | None = tuple(found)
        inputs = tuple(found.values())
    elif isinstance(batch, tuple | list):
        names, inputs = None, tuple(_input(value, f"golden[{index}]") for index, value in enumerate(batch))
    else:
        raise StateError(f"golden: {type(batch).__name__}, expected tensors", _BATCHES)
    if not inputs:
        raise StateError("golden: holds no tensor", _BATCHES)
    return Golden(inputs, names, ())


def outputs_of(module: nn.Module, golden: Golden) -> Golden:
    """Run `module` on the golden input in eval mode, without gradients and autocast, and return it with the outputs.

    Nested outputs are flattened in order; None is left out. The module and the program stay unchanged, except for
    effects of the user's hooks, and inside of other objects. Raises `StateError` where the forward fails, where an
    output is no tensor, and where there is none.
    """
    module = unwrapped(module)
    _refuse_lazy(module)
    with without_side_effects(module), _as_served(module):
        leaves, _ = pytree.tree_flatten(_forward(module, golden))
        outputs = tuple(_output(leaf, number) for number, leaf in enumerate(leaves) if leaf is not None)
    if not outputs:
        raise StateError("golden: the model returned no tensor", "return from its forward what is to be compared")
    return dataclasses.replace(golden, outputs=outputs)


def uninformative_tensors(outputs: Sequence[Tensor]) -> str | None:
    """Return in words why any model would pass by these outputs, or None if they hold a finite number."""
    return no_finite_number([tensor.numel() for tensor in outputs], map(_has_finite, outputs))


def _has_finite(tensor: Tensor) -> bool:
    name = str(tensor.dtype).removeprefix("torch.")
    if not name.startswith(("float", "bfloat", "complex")) or name.startswith("float4"):  # these have no NaN
        return tensor.numel() > 0
    narrow = name.startswith("float8")  # torch has no such test for them
    return bool(torch.isfinite(tensor.float() if narrow else tensor).any())


def _forward(module: nn.Module, golden: Golden) -> object:
    device = _device(module)
    inputs = [_copy(tensor, device) for tensor in golden.inputs]  # a forward may write to its inputs
    try:
        if golden.arguments is None:
            return module(*inputs)
        return module(**dict(zip(golden.arguments, inputs, strict=True)))
    except Exception as error:
        raise StateError(
            f"golden: {type(module).__name__} failed on the input {_described(golden)}: "
            f"{type(error).__name__}: {quoted(error)}",
            f"{_BATCHES}, without what its forward does not accept, such as labels",
        ) from error


@contextmanager
def _as_served(module: nn.Module) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # its tensors could not be stored
        stack.enter_context(torch.no_grad())
        for kind in filter(torch.is_autocast_enabled, _DEVICES):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules:  # compiled submodules would be compiled again for eval mode
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for part in module.modules():
            part.training = False  # not by eval(), which adapters override to merge weights
            plain = plain_forward_of_accelerate(part)
            if plain is not None:
                part.forward = plain
        yield


def _input(value: object, path: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise StateError(f"{path}: {type(value).__name__}, expected a tensor", _BATCHES)
    return _stored(value.detach(), path)


def _output(value: object, number: int) -> Tensor:
    path = f"golden: output {number} of the model"
    if not isinstance(value, Tensor):
        raise StateError(
            f"{path}: {type(value).__name__}, expected a tensor", "return tensors, tuples and dicts of them"
        )
    return _stored(value.detach(), path)


def _stored(value: Tensor, path: str) -> Tensor:
    reason = refusal(value)
    if reason is not None:
        raise StateError(f"{path}: {reason[0]}", reason[1])
    with torch.inference_mode(False):
        return _copy(value, torch.device("cpu"))


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor bit by bit into a plain one, in row-major order."""
    copy = empty(dataclasses.replace(facts_of(tensor), strides=None), device)
    copy_bits(copy, tensor)
    return copy


def _argument(key: object) -> str:
    if type(key) is not str:
        raise StateError(f"golden[{key!r}]: expected the name of an argument", _BATCHES)
    return key


def _refuse_lazy(module: nn.Module) -> None:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    lazy = [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise StateError(
            f"golden: {listed(lazy, most=20)} has no shape yet", "pass one batch through the model before golden(...)"
        )


def _device(module: nn.Module) -> torch.device:
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def _only(modules: Mapping[str, nn.Module]) -> str:
    if len(modules) != 1:
        raise ConfigError(
            f"golden(...): expected one module, found {len(modules)} ({_listed(modules)})",
            "name one: golden(batch, model=...)",
        )
    return next(iter(modules))


def _listed(modules: Mapping[str, nn.Module]) -> str:
    return ", ".join(modules) or "none"


def _described(golden: Golden) -> str:
    shown = [f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}" for tensor in golden.inputs]
    if golden.arguments is not None:
        shown = [f"{name}={text}" for name, text in zip(golden.arguments, shown, strict=True)]
    return f"({', '.join(shown)})"


def _are(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)
