"""Lets copies run beside training until an optimizer is about to step; knows no image and no object.

What is copied late must be written by optimizers only. Versions tell of most writers that are none; of fused kernels,
`.data` and NumPy they tell nothing, and a fused optimizer is waited for by its hook.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resumable.utils.messages import listed


class TornCopyError(Exception):
    """Training wrote to tensors while they were copied: `names` says which. The copy is worth nothing."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"written while they were copied: {listed(names, most=5)}")
        self.names = names


class LateCopy:
    """One copy under way, and how often each tensor had been written to when it began.

    It is judged once, by the training's own thread, where no operation of the training can be in flight: torch counts a
    write only when it is done. What is written from then on does not spoil the copy.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.copied = threading.Event()  # or asked of a device, and to be held before it writes
        self._tensors = dict(tensors)
        self._then = [tensor._version for tensor in self._tensors.values()]
        self._torn: list[str] = []
        self._judged = threading.Event()

    def judge(self) -> None:
        """Settle whether it is whole; in the training's thread. Waits until it is copied."""
        if not self._judged.is_set():
            self.copied.wait()
            now = zip(self._tensors.items(), self._then, strict=True)
            self._torn = [name for (name, tensor), then in now if tensor._version != then]
            self._tensors.clear()
            self._judged.set()

    def refuse_torn(self) -> None:
        """Wait until it is judged, in any other thread, and raise `TornCopyError` if something was written to."""
        self._judged.wait()
        if self._torn:
            raise TornCopyError(self._torn)


class Gate:
    """Holds every optimizer of the program back while a copy is under way; `close` takes it down.

    `hold` is called in the training's thread once the copy is made, asked for or given up, and before it is judged.
    """

    def __init__(self, hold: Callable[[], None]) -> None:
        self._hold = hold
        self._late: LateCopy | None = None
        self.waited_seconds = 0.0  # all together
        # Of all optimizers, not only of the registered ones: whichever steps writes.
        self._hook = register_optimizer_step_pre_hook(lambda *_: self.settle())

    def shut(self, late: LateCopy) -> None:
        """From here on optimizers wait until it is copied."""
        self._late = late

    def settle_if_copied(self) -> None:
        """Judge the copy if that needs no waiting; between two operations of the training."""
        if self._late is not None and self._late.copied.is_set():
            self.settle()

    def settle(self) -> None:
        """Wait for the copy and judge it; between two operations of the training, or before an optimizer steps."""
        late = self._late
        if late is None:
            return
        started = time.monotonic()
        late.copied.wait()
        self._hold()
        late.judge()
        self._late = None  # only now: another thread may be about to step too
        self.waited_seconds += time.monotonic() - started

    def close(self) -> None:
        """Let every optimizer pass from now on; safe to call twice."""
        self._hook.remove()
