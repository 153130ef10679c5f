"""Which optimizers step, wherever they are: observed by torch's hook for every optimizer of the program."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


class OptimizerSteps:
    """The optimizers that stepped since the hook was set, by the number of looks between which they did."""

    def __init__(self) -> None:
        self._hook: Any = None
        self._stepped: dict[int, weakref.ref[torch.optim.Optimizer]] = {}  # since the last look
        self._turns: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()

    def watch(self) -> None:
        """Observe steps from now on."""
        if self._hook is None:
            stepped = self._stepped  # and not this object, which a global hook would keep alive

            def note(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
                stepped[id(optimizer)] = weakref.ref(optimizer)

            self._hook = register_optimizer_step_post_hook(note)

    def rest(self) -> None:
        """Observe nothing any more. Steps cost nothing then."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def look(self) -> dict[torch.optim.Optimizer, int]:
        """Return the optimizers that live and have stepped, with the number of looks that noticed it."""
        for reference in list(self._stepped.values()):
            optimizer = reference()
            if optimizer is not None:
                self._turns[optimizer] = self._turns.get(optimizer, 0) + 1
        self._stepped.clear()
        return dict(self._turns)
