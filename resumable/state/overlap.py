"""Lets copies run beside training until an optimizer is about to step; knows no image and no object.

What is copied late must be written by optimizers only. Versions tell of most writers that are none; of fused kernels,
`.data` and NumPy they tell nothing, and a fused optimizer is waited for by its hook.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook


class TornCopyError(Exception):
    """Training wrote to tensors while they were copied: `names` says which. The copy is worth nothing."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"written while they were copied: {', '.join(names[:5])}")
        self.names = names


class Versions:
    """How often each tensor had been written to, so that a write behind the back of a copy shows."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)
        self._then = [tensor._version for tensor in self._tensors.values()]

    def refuse_torn(self) -> None:
        """Raise `TornCopyError` if one was written to since."""
        pairs = zip(self._tensors.items(), self._then, strict=True)
        torn = [name for (name, tensor), then in pairs if tensor._version != then]
        if torn:
            raise TornCopyError(torn)


class Gate:
    """Holds every optimizer of the program back while a copy is under way; `close` takes it down.

    `hold` is called in the training's thread once the copy is made, or asked for, and before the optimizer steps.
    """

    def __init__(self, hold: Callable[[], None]) -> None:
        self._hold = hold
        self._copied: threading.Event | None = None
        self.waited_seconds = 0.0  # all together
        # Of all optimizers, not only of the registered ones: whichever steps writes.
        self._hook = register_optimizer_step_pre_hook(self._before_step)

    def shut(self) -> threading.Event:
        """From here on optimizers wait until the event that is returned is set."""
        self._copied = threading.Event()
        return self._copied

    def close(self) -> None:
        """Let every optimizer pass from now on; safe to call twice."""
        self._hook.remove()

    def _before_step(self, *_: Any) -> None:
        copied, self._copied = self._copied, None
        if copied is None:
            return
        started = time.monotonic()
        copied.wait()
        self._hold()
        self.waited_seconds += time.monotonic() - started
