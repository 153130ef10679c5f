"""Private random generators of torch, NumPy and Python as trees. Independent of the global streams."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from resumable.state.codec.tree import Tree
from resumable.state.objects.adapter import BaseAdapter
from resumable.state.objects.bounds_checks import check_numpy_seed, check_numpy_stream, check_torch_stream
from resumable.state.objects.tree_copies import Own

GENERATOR_TYPES = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


class GeneratorAdapter(BaseAdapter):
    """A `torch.Generator`, `numpy.random.Generator`, `numpy.random.RandomState` or `random.Random`."""

    kind = "generator"

    def capture(self) -> dict[str, Tree]:
        target = self.target
        if isinstance(target, torch.Generator):
            return {"torch": target.get_state(), "device": target.device.type}
        if isinstance(target, np.random.Generator):
            return {"numpy": target.bit_generator.state, "seed": _seed(target.bit_generator.seed_seq)}
        if isinstance(target, np.random.RandomState):
            return {"numpy": target.get_state(legacy=False)}
        return {"python": target.getstate()}

    def _restore(self, tree: dict[str, Any], own: Own) -> None:
        saved, here = _described(tree), _described(self.capture())
        if saved != here:
            raise self.mismatch([f"the checkpoint holds {saved}, here is {here}"])
        target = self.target
        if isinstance(target, torch.Generator):
            if target.device.type == "cpu":
                check_torch_stream(tree["torch"])
            target.set_state(tree["torch"].clone())
        elif isinstance(target, np.random.Generator):
            _set_numpy(target.bit_generator, tree["numpy"], tree["seed"])
        elif isinstance(target, np.random.RandomState):
            check_numpy_stream(tree["numpy"])
            target.set_state(tree["numpy"])
        else:
            target.setstate(tree["python"])


def _seed(sequence: object) -> dict[str, Tree] | None:
    # `spawn()` derives children from the seed sequence and their count, which the bit generator's state leaves out.
    if type(sequence) is not np.random.SeedSequence:
        return None
    state: dict[str, Any] = dict(sequence.state)
    entropy = state["entropy"]
    plain = entropy if entropy is None or type(entropy) is int else [int(word) for word in entropy]
    return {**state, "entropy": plain, "spawn_key": tuple(int(word) for word in state["spawn_key"])}


def _set_numpy(bit_generator: Any, state: dict[str, Any], seed: dict[str, Any] | None) -> None:
    check_numpy_stream(state)
    if seed is None or seed == _seed(bit_generator.seed_seq):
        bit_generator.state = state
    else:
        check_numpy_seed(seed)
        bit_generator.__setstate__((state, np.random.SeedSequence(**seed)))


def _described(tree: Mapping[str, Any]) -> str:
    if "torch" in tree:
        return f"a torch generator on {tree['device']}"
    if "numpy" in tree:
        return f"a NumPy generator of {tree['numpy'].get('bit_generator')}"
    return "a Python generator"
