"""Bounds checks that torch and NumPy leave out: a corrupt RNG or optimizer state would make them read out of bounds.

A checkpoint is untrusted, and torch and NumPy use these of its numbers as indexes into memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import torch
from torch import Tensor

from resumable.utils.checks import is_count

# The head of torch's CPU generator: seed, words left, whether it was seeded, next word; then the words.
_TORCH_HEAD = struct.Struct("<QiiQ")
_TORCH_WORDS = 624
# The highest index into the block of words, by the name under which NumPy stores it.
_NUMPY_PLACES = {"pos": 624, "buffer_pos": 4}
_MAX_POOL_WORDS = 1024  # mixing a seed takes time quadratic in them; NumPy's own default is 4

# State of which fused optimizer kernels read and write as many elements as the parameter has.
_FUSED_STATE = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "sum")


def check_torch_stream(state: Tensor) -> None:
    """Raise `ValueError` for the state of a CPU generator that would read beyond its words."""
    if state.dtype is not torch.uint8 or state.ndim != 1 or len(state) < _TORCH_HEAD.size:
        raise ValueError(f"{state.dtype}{list(state.shape)} is not the state of a generator")
    _, left, _, following = _TORCH_HEAD.unpack(bytes(state[: _TORCH_HEAD.size].tolist()))
    if not 1 <= left <= _TORCH_WORDS or following > _TORCH_WORDS or left + following > _TORCH_WORDS + 1:
        raise ValueError(f"a generator with {left} words left after word {following} of {_TORCH_WORDS}")


def check_numpy_stream(state: object) -> None:
    """Raise `ValueError` for the state of a NumPy bit generator whose index is out of bounds."""
    if not isinstance(state, dict):
        raise ValueError(f"a {type(state).__name__} is not the state of a NumPy generator")
    for part in (state, state.get("state")):
        if not isinstance(part, dict):
            continue  # the bit generator is not one of NumPy's
        for name, most in _NUMPY_PLACES.items():
            if name in part and (type(part[name]) is not int or not 0 <= part[name] <= most):
                raise ValueError(f"a NumPy generator whose {name} is {part[name]!r}, expected 0 to {most}")


def check_numpy_seed(seed: object) -> None:
    """Raise `ValueError` unless `seed` is the state of a seed sequence with a pool of bounded size."""
    if not isinstance(seed, dict) or seed.keys() != {"entropy", "spawn_key", "pool_size", "n_children_spawned"}:
        raise ValueError("not the seed of a NumPy generator")
    entropy = seed["entropy"] if isinstance(seed["entropy"], list) else [seed["entropy"] or 0]
    if type(seed["spawn_key"]) is not tuple or not all(map(is_count, (*entropy, *seed["spawn_key"]))):
        raise ValueError("the seed of a NumPy generator holds values other than whole numbers")
    if not 1 <= seed["pool_size"] <= _MAX_POOL_WORDS or not 0 <= seed["n_children_spawned"] < 2**32:
        raise ValueError(f"the seed of a NumPy generator has a pool of {seed['pool_size']!r} words")


def misshapen(parameter: Tensor, state: Mapping[str, object]) -> list[str]:
    """Return the names of optimizer state tensors whose shape differs from the parameter's, which no kernel checks."""
    shapes = {name: value.shape for name in _FUSED_STATE if isinstance(value := state.get(name), Tensor)}
    return [f"{name} (checkpoint {tuple(shape)})" for name, shape in shapes.items() if shape != parameter.shape]
