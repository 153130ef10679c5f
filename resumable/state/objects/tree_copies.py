"""Decoded trees as an object may keep them: copies, or what was handed over; knows only the codec's types."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resumable.state.tensors.facts import copy_of

Own = Callable[[Any, Any], Any]
"""A tree that the caller may keep, made of one and of what stands in its place; `fresh` or `moved`."""


def fresh(tree: Any, like: Any = None) -> Any:
    """A deep copy with tensors of their own (one per distinct tensor), on the devices that `like` has at their paths.

    Fresh memory matters for bits too: kernels may add in another order where memory is not aligned as torch aligns it.
    """
    return _Copying(_fresh_tensor, lambda array: array.copy(order="K")).copy(tree, like)


def moved(tree: Any, like: Any = None) -> Any:
    """As `fresh`, of a tree whose tensors nobody else keeps: they stay as they are if on the same device."""
    return _Copying(_moved_tensor, lambda array: array).copy(tree, like)


class _Copying:
    def __init__(
        self, tensor: Callable[[Tensor, Any], Tensor], array: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
    ) -> None:
        self._tensor = tensor
        self._array = array
        self._copies: dict[int, Tensor] = {}

    def copy(self, tree: Any, like: Any) -> Any:
        if isinstance(tree, Tensor):
            if id(tree) not in self._copies:
                self._copies[id(tree)] = self._tensor(tree, like)
            return self._copies[id(tree)]
        if isinstance(tree, np.ndarray):
            return self._array(tree)
        if type(tree) in (dict, collections.OrderedDict):
            return type(tree)((key, self.copy(value, at(like, key))) for key, value in tree.items())
        if type(tree) is collections.Counter:
            return tree.copy()
        if type(tree) in (list, tuple):
            return type(tree)(self.copy(value, at(like, index)) for index, value in enumerate(tree))
        if type(tree) is set:
            return set(tree)
        return tree


def at(tree: Any, key: Any) -> Any:
    """What stands under `key` in a dict or sequence; None where nothing does."""
    if isinstance(tree, dict):
        return tree.get(key)
    if isinstance(tree, list | tuple):
        return tree[key] if key < len(tree) else None
    return None


def _moved_tensor(tensor: Tensor, like: Any) -> Tensor:
    stays = not isinstance(like, Tensor) or like.device == tensor.device
    return tensor if stays else _fresh_tensor(tensor, like)


def _fresh_tensor(tensor: Tensor, like: Any) -> Tensor:
    copy = copy_of(tensor, like.device if isinstance(like, Tensor) else None)
    if type(tensor) is torch.nn.Parameter:
        return torch.nn.Parameter(copy, requires_grad=tensor.requires_grad)
    return copy.requires_grad_() if tensor.requires_grad else copy
