"""Private random generators of torch, NumPy and Python as trees; knows nothing of the global streams."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from resumable.state.adapter import Plain

GENERATOR_TYPES = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


class GeneratorAdapter(Plain):
    """A `torch.Generator`, `numpy.random.Generator`, `numpy.random.RandomState` or `random.Random`."""

    kind = "generator"

    def capture(self) -> dict[str, Any]:
        target = self.target
        if isinstance(target, torch.Generator):
            return {"torch": target.get_state(), "device": target.device.type}
        if isinstance(target, np.random.Generator):
            return {"numpy": target.bit_generator.state}
        if isinstance(target, np.random.RandomState):
            return {"numpy": target.get_state(legacy=False)}
        return {"python": target.getstate()}

    def restore(self, tree: dict[str, Any]) -> None:
        saved, here = _sort(tree), _sort(self.capture())
        if saved != here:
            raise self.mismatch([f"the checkpoint holds {saved}, here is {here}"])
        target = self.target
        if isinstance(target, torch.Generator):
            target.set_state(tree["torch"].clone())
        elif isinstance(target, np.random.Generator):
            target.bit_generator.state = tree["numpy"]
        elif isinstance(target, np.random.RandomState):
            target.set_state(tree["numpy"])
        else:
            target.setstate(tree["python"])


def _sort(tree: dict[str, Any]) -> str:
    if "torch" in tree:
        return f"a torch generator on {tree['device']}"
    if "numpy" in tree:
        return f"a NumPy generator of {tree['numpy'].get('bit_generator')}"
    return "a Python generator"
