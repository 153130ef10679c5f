"""What torch and NumPy take from a stored state without a look, and would later follow out of bounds; refused here.

Knows no object. A checkpoint may come from anybody, and these places are where its numbers become addresses.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resumable.utils.checks import is_count

# The head of torch's CPU generator: seed, words left, whether it was seeded, next word; then the words.
_TORCH_HEAD = struct.Struct("<QiiQ")
_TORCH_WORDS = 624
# How many words of its block the bit generator may have used up, by the name that NumPy stores it under.
_NUMPY_PLACES = {"pos": 624, "buffer_pos": 4}
_MAX_POOL_WORDS = 1024  # mixing a seed takes time quadratic in them; NumPy's own default is 4

# What the fused kernels of torch's optimizers read and write as many elements of as the parameter has.
_FUSED_STATE = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "sum")


def check_torch_stream(state: Tensor) -> None:
    """`ValueError` for the state of a CPU generator that would read behind its words."""
    if state.dtype is not torch.uint8 or state.ndim != 1 or len(state) < _TORCH_HEAD.size:
        raise ValueError(f"{state.dtype}{list(state.shape)} is no state of a generator")
    _, left, _, following = _TORCH_HEAD.unpack(bytes(state[: _TORCH_HEAD.size].tolist()))
    if not 1 <= left <= _TORCH_WORDS or following > _TORCH_WORDS or left + following > _TORCH_WORDS + 1:
        raise ValueError(f"a generator with {left} words left behind word {following} of {_TORCH_WORDS}")


def check_numpy_stream(state: Any) -> None:
    """`ValueError` for the state of a NumPy bit generator whose place lies outside of its words."""
    if not isinstance(state, dict):
        raise ValueError(f"a {type(state).__name__} is no state of a NumPy generator")
    for part in (state, state.get("state")):
        if not isinstance(part, dict):
            continue  # of a bit generator that is not NumPy's own
        for name, most in _NUMPY_PLACES.items():
            if name in part and (type(part[name]) is not int or not 0 <= part[name] <= most):
                raise ValueError(f"a NumPy generator whose {name} is {part[name]!r}, expected 0 to {most}")


def check_numpy_seed(seed: Any) -> None:
    """`ValueError` for what is no seed sequence, or one whose pool would take for ever to mix."""
    if not isinstance(seed, dict) or seed.keys() != {"entropy", "spawn_key", "pool_size", "n_children_spawned"}:
        raise ValueError("not the seed of a NumPy generator")
    entropy = seed["entropy"] if isinstance(seed["entropy"], list) else [seed["entropy"] or 0]
    if type(seed["spawn_key"]) is not tuple or not all(map(is_count, (*entropy, *seed["spawn_key"]))):
        raise ValueError("the seed of a NumPy generator is made of other things than whole numbers")
    if not 1 <= seed["pool_size"] <= _MAX_POOL_WORDS or not 0 <= seed["n_children_spawned"] < 2**32:
        raise ValueError(f"the seed of a NumPy generator has a pool of {seed['pool_size']!r} words")


def misshapen(parameter: Tensor, state: Mapping[str, Any]) -> list[str]:
    """The names of an optimizer's state tensors that do not have the shape of `parameter`, where no kernel looks."""
    shapes = {name: state[name].shape for name in _FUSED_STATE if isinstance(state.get(name), Tensor)}
    return [f"{name} (checkpoint {tuple(shape)})" for name, shape in shapes.items() if shape != parameter.shape]
