"""Track which gradients are unused at a boundary, by hooks on the optimizers, and capture or restore them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from resumable.errors import StateError
from resumable.state.codec import Tree
from resumable.state.objects.adapter import Adapter, mismatch, mismatch_on_error
from resumable.state.objects.modules import ModuleAdapter
from resumable.state.tensors.facts import copy_of
from resumable.state.tensors.module_walk import holds_gradient, named_parameters
from resumable.utils.messages import listed


class Gradients:
    """The `.grad`s of every parameter of the registered modules and optimizers.

    A gradient is *used* from the step of an optimizer until something writes to it again, and while it is zero. Hooks
    on the optimizers report the steps; `close()` removes them.
    """

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        self.ever_stepped = False
        self._used: dict[int, tuple[weakref.ref[Tensor], int]] = {}  # by parameter: its gradient then, and its version
        self._hooks: list[RemovableHandle] = []
        self.follow(adapters)

    def follow(self, adapters: Mapping[str, Adapter]) -> None:
        """Track these modules and optimizers from now on; used gradients stay used."""
        self.close()
        self._modules = [adapter for adapter in adapters.values() if isinstance(adapter, ModuleAdapter)]
        targets = {name: getattr(adapter, "target", None) for name, adapter in adapters.items()}
        self._optimizers = {name: target for name, target in targets.items() if isinstance(target, Optimizer)}
        for target in targets.values():
            for optimizer in _with_inner(target):
                self._hooks.append(optimizer.register_step_post_hook(self._on_step))

    @property
    def settled(self) -> bool:
        """True once an optimizer has stepped, and so has its state, or if there is no optimizer."""
        return self.ever_stepped or not self._optimizers

    def clean(self) -> bool:
        """Return whether every gradient is used; reads values, and so waits for the device, only if necessary."""
        return not any(self._waits(parameter) for parameter in self._holding().values())

    def close(self) -> None:
        """Remove the hooks; safe to call twice."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def capture(self, *, everything: bool = False) -> dict[str, Tree]:
        """Return the names of parameters with a gradient, and the unused gradients; with `everything`, all of them.

        A used gradient is only recorded as present. It is restored as zeros, which makes no difference to a loop that
        zeroes before it accumulates.
        """
        holding = self._holding()
        grads: dict[str, Tree] = {}
        for name, parameter in holding.items():
            assert parameter.grad is not None
            if everything or self._waits(parameter):
                grads[name] = _encodable(name, parameter.grad)
            elif parameter.grad.is_sparse:  # zeros would be dense
                grads[name] = _encodable(name, torch.zeros_like(parameter.grad))
        return {"present": sorted(holding), "grads": grads}

    def restore(self, tree: dict[str, Tree]) -> None:
        """Restore the gradient of every parameter: its value, zeros if it was used, None if there was none."""
        with mismatch_on_error("gradients"):
            self._restore(tree)

    def _restore(self, tree: dict[str, Any]) -> None:
        parameters = dict(self._parameters())
        absent = sorted(set(tree["present"]) - parameters.keys())
        if absent:
            raise mismatch("gradients", [f"no such parameters here: {listed(absent, most=20)}"])
        self._used.clear()
        for name, parameter in parameters.items():
            if name in tree["grads"]:
                parameter.grad = _gradient(tree["grads"][name], parameter)
            elif name in tree["present"]:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad = None

    def _on_step(self, optimizer: Optimizer, *_: object) -> None:
        self.ever_stepped = True
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                grad = parameter.grad
                if grad is not None:
                    self._used[id(parameter)] = weakref.ref(grad), grad._version

    def _waits(self, parameter: nn.Parameter) -> bool:
        grad = parameter.grad
        if grad is None:
            return False
        used, version = self._used.get(id(parameter), (_no_gradient, 0))
        if used() is grad and grad._version == version:
            return False
        return bool((grad._values() if grad.is_sparse else grad).any())

    def _holding(self) -> dict[str, nn.Parameter]:
        """Return the parameters that have a gradient, by name."""
        groups = [group["params"] for optimizer in self._optimizers.values() for group in optimizer.param_groups]
        if not any(holds_gradient(adapter.target) for adapter in self._modules) and not any(
            parameter.grad is not None for parameter in chain.from_iterable(groups)
        ):
            return {}  # after `zero_grad()`, so at most boundaries
        return {name: parameter for name, parameter in self._parameters() if parameter.grad is not None}

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        seen: set[int] = set()
        for adapter in self._modules:
            for name, parameter in named_parameters(adapter.target):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{adapter.name}.{name}", parameter
        for owner, optimizer in self._optimizers.items():
            for number, group in enumerate(optimizer.param_groups):
                for place, parameter in enumerate(group["params"]):
                    if id(parameter) not in seen:
                        seen.add(id(parameter))
                        yield f"{owner}.group{number}.{place}", parameter


def _no_gradient() -> None:
    return None


def _with_inner(target: object) -> Iterator[Optimizer]:
    # A wrapping optimizer (lookahead, sharpness-aware) steps through the inner one, whose hooks then fire.
    seen: set[int] = set()
    while target is not None and id(target) not in seen:
        seen.add(id(target))
        if isinstance(target, Optimizer) and "_optimizer_step_post_hooks" in vars(target):
            yield target
        inner = (
            vars(target).get("optimizer", vars(target).get("base_optimizer")) if hasattr(target, "__dict__") else None
        )
        target = inner if isinstance(inner, Optimizer) else None


def _encodable(name: str, grad: Tensor) -> Tree:
    if not grad.is_sparse:
        return grad.detach()
    if grad.layout is not torch.sparse_coo:
        raise StateError(f"gradients.{name}: a {grad.layout} gradient cannot be stored", "use dense or COO gradients")
    return {
        "indices": grad._indices(),
        "values": grad._values(),
        "shape": list(grad.shape),
        "coalesced": grad.is_coalesced(),
    }


def _gradient(saved: Any, parameter: nn.Parameter) -> Tensor:
    if isinstance(saved, Tensor):
        return copy_of(saved, parameter.device)
    return torch.sparse_coo_tensor(
        copy_of(saved["indices"], parameter.device),
        copy_of(saved["values"], parameter.device),
        saved["shape"],
        is_coalesced=saved["coalesced"],
        check_invariants=True,
    )
