"""Hints for values that the codec refuses to store."""

from __future__ import annotations

import collections
import dataclasses
import enum
import os
import random
import types
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Advice = Callable[[object], str]
"""Returns the hint for a value that cannot be stored."""


def advice(value: object) -> str:
    """Return what to store in place of a value that the codec refuses."""
    if isinstance(value, Tensor) and torch.nn.parameter.is_lazy(value):
        return "pass one batch through the model before the training loop, so that its lazy layers have shapes"
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType | type):
        return "code is not state: leave it out, or keep the values that it is made from"
    if callable(getattr(value, "state_dict", None)):
        return "keep its .state_dict()"
    if isinstance(value, torch.Generator | np.random.RandomState):
        return "keep its .get_state()"
    if isinstance(value, np.random.Generator):
        return "keep its .bit_generator.state"
    if isinstance(value, random.Random):
        return "keep its .getstate()"
    if isinstance(value, enum.Enum):
        return "keep its .value"
    if isinstance(value, os.PathLike):
        return "keep str(path)"
    if isinstance(value, Tensor):
        return "keep a plain tensor, for example .as_subclass(torch.Tensor)"
    if isinstance(value, dict):
        return "keep dict(...) of it"
    if isinstance(value, tuple):
        return "keep tuple(...) of it"
    if isinstance(value, list | collections.deque):
        return "keep list(...) of it"
    if dataclasses.is_dataclass(value):
        return "keep dataclasses.asdict(...) of it"
    return "keep plain values, containers of them, tensors or NumPy arrays; leave anything else out of the state"
