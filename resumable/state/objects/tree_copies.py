"""Copy a decoded tree so that an object may keep it, or hand it over as it is. Independent of kinds of objects."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from resumable.state.codec.named_tuples import LivingTypes
from resumable.state.codec.tree import Array, NamedValues
from resumable.state.tensors.facts import copy_of

T = TypeVar("T")


class Own(Protocol):
    """`fresh` or `moved`: turn a tree into one that its receiver may keep."""

    def __call__(self, tree: T, like: object = None) -> T: ...


def fresh(tree: T, like: object = None) -> T:
    """Return a deep copy whose tensors are new, one per distinct tensor, on the devices that `like` has at their paths.

    Fresh memory matters for bits too: kernels may add in another order in memory that torch did not align.
    """
    copy: T = _Copying(_fresh_tensor, lambda array: array.copy(order="K")).copy(tree, like)
    return copy


def moved(tree: T, like: object = None) -> T:
    """Copy like `fresh`, but keep tensors that are on the right device; nobody else may use the tree."""
    copy: T = _Copying(_moved_tensor, lambda array: array).copy(tree, like)
    return copy


def with_tensors(tree: T, change: Callable[[Tensor], Tensor]) -> T:
    """Return a tree whose containers are new, with `change` of each distinct tensor; arrays stay the same."""
    copy: T = _Copying(lambda tensor, like: change(tensor), lambda array: array).copy(tree, None)
    return copy


class _Copying:
    def __init__(self, tensor: Callable[[Tensor, object], Tensor], array: Callable[[Array], Array]) -> None:
        self._tensor = tensor
        self._array = array
        self._copies: dict[int, Tensor] = {}
        self._living = LivingTypes()

    def copy(self, tree: Any, like: object) -> Any:
        if isinstance(tree, Tensor):
            if id(tree) not in self._copies:
                self._copies[id(tree)] = self._tensor(tree, like)
            return self._copies[id(tree)]
        if isinstance(tree, np.ndarray):
            return self._array(tree)
        if type(tree) in (dict, collections.OrderedDict, collections.Counter):
            return type(tree)(self._pairs(tree, like))
        if type(tree) is collections.defaultdict:
            return collections.defaultdict(tree.default_factory, self._pairs(tree, like))
        if type(tree) is NamedValues:
            items = (self.copy(value, at(like, index)) for index, value in enumerate(tree))
            return self._living.restored(tree, items, like)
        if type(tree) is collections.deque:
            return collections.deque((self.copy(value, at(like, n)) for n, value in enumerate(tree)), tree.maxlen)
        if type(tree) in (list, tuple):
            return type(tree)(self.copy(value, at(like, index)) for index, value in enumerate(tree))
        if type(tree) in (set, frozenset):
            return type(tree)(map(self._living.restored_key, tree))
        return tree

    def _pairs(self, tree: dict[Any, Any], like: object) -> dict[Any, Any]:
        return {self._living.restored_key(key): self.copy(value, at(like, key)) for key, value in tree.items()}


def at(tree: object, key: Any) -> Any:
    """Return the value under `key` in a dict or sequence, or None."""
    if isinstance(tree, dict):
        return tree.get(key)
    if isinstance(tree, list | tuple | collections.deque):
        return tree[key] if key < len(tree) else None
    return None


def _moved_tensor(tensor: Tensor, like: object) -> Tensor:
    stays = not isinstance(like, Tensor) or like.device == tensor.device
    return tensor if stays else _fresh_tensor(tensor, like)


def _fresh_tensor(tensor: Tensor, like: object) -> Tensor:
    copy = copy_of(tensor, like.device if isinstance(like, Tensor) else None)
    if type(tensor) is torch.nn.Parameter:
        return torch.nn.Parameter(copy, requires_grad=tensor.requires_grad)
    return copy.requires_grad_() if tensor.requires_grad else copy
