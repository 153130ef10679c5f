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


class LateCopy:
    """One copy under way, and how often each tensor had been written to when it began.

    It is judged once: by the gate before an optimizer writes, or when all is copied, whichever comes first. What is
    written from then on does not spoil it.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.copied = threading.Event()  # or asked of a device, and to be held before it writes
        self._tensors = dict(tensors)
        self._then = [tensor._version for tensor in self._tensors.values()]
        self._torn: list[str] | None = None
        self._judging = threading.Lock()

    def judge(self) -> list[str]:
        """The names of what was written to meanwhile."""
        with self._judging:
            if self._torn is None:
                now = zip(self._tensors.items(), self._then, strict=True)
                self._torn = [name for (name, tensor), then in now if tensor._version != then]
                self._tensors.clear()
            return self._torn

    def refuse_torn(self) -> None:
        """Raise `TornCopyError` if something was."""
        torn = self.judge()
        if torn:
            raise TornCopyError(torn)


class Gate:
    """Holds every optimizer of the program back while a copy is under way; `close` takes it down.

    `hold` is called in the training's thread once the copy is made, or asked for, and before the optimizer steps.
    """

    def __init__(self, hold: Callable[[], None]) -> None:
        self._hold = hold
        self._waits_for: LateCopy | None = None
        self.waited_seconds = 0.0  # all together
        # Of all optimizers, not only of the registered ones: whichever steps writes.
        self._hook = register_optimizer_step_pre_hook(self._before_step)

    def shut(self, late: LateCopy) -> None:
        """From here on optimizers wait until it is copied."""
        self._waits_for = late

    def close(self) -> None:
        """Let every optimizer pass from now on; safe to call twice."""
        self._hook.remove()

    def _before_step(self, *_: Any) -> None:
        late = self._waits_for
        if late is None:
            return
        started = time.monotonic()
        late.copied.wait()
        late.judge()
        self._hold()
        self._waits_for = None  # only now: another thread may be about to step too
        self.waited_seconds += time.monotonic() - started
