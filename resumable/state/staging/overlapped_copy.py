"""Overlap a copy with training until an optimizer is about to step. Independent of images and objects.

Only optimizers may write to the tensors of such a copy. Version counters expose most other writers, but not fused
kernels, `.data` or NumPy. Optimizers, fused ones included, are held back by a pre-step hook.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resumable.utils.messages import listed


class TornCopyError(Exception):
    """Training wrote to the tensors `names` while they were copied, so the copy is unusable."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"written while they were copied: {listed(names, most=5)}")
        self.names = names


class OverlappedCopy:
    """One copy in progress, with the version counter that each tensor had when it began.

    The training thread checks the versions once, when no operation of training is in flight: torch counts a write only
    when it is complete. Later writes do not affect the copy.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.copied = (
            threading.Event()
        )  # set once copied, or enqueued on a device stream that later writes must wait for
        self._tensors = dict(tensors)
        self._versions = [tensor._version for tensor in self._tensors.values()]
        self._torn: list[str] = []
        self._checked = threading.Event()

    def check_versions(self) -> None:
        """Wait for the copy, and check in the training thread whether a tensor was written meanwhile."""
        if not self._checked.is_set():
            self.copied.wait()
            now = zip(self._tensors.items(), self._versions, strict=True)
            self._torn = [name for (name, tensor), then in now if tensor._version != then]
            self._tensors.clear()
            self._checked.set()

    def refuse_torn(self) -> None:
        """Wait in another thread until the versions are checked, and raise `TornCopyError` if a tensor was written."""
        self._checked.wait()
        if self._torn:
            raise TornCopyError(self._torn)


class OptimizerGate:
    """Holds back every optimizer of the program while a copy is in progress, until `close`.

    `hold` is called in the training thread once the copy is made, enqueued or abandoned, and before the version check.
    """

    def __init__(self, hold: Callable[[], None]) -> None:
        self._hold = hold
        self._late: OverlappedCopy | None = None
        self.waited_seconds = 0.0  # in total
        # For all optimizers, also those that are not registered: any of them may write.
        self._hook = register_optimizer_step_pre_hook(lambda *_: self.settle())

    def shut(self, late: OverlappedCopy) -> None:
        """Make optimizers wait for this copy from now on."""
        self._late = late

    def settle_if_copied(self) -> None:
        """Settle the copy if that takes no waiting; between two operations of training."""
        if self._late is not None and self._late.copied.is_set():
            self.settle()

    def settle(self) -> None:
        """Wait for the copy and check the versions; between two operations of training, or before a step."""
        late = self._late
        if late is None:
            return
        started = time.monotonic()
        late.copied.wait()
        self._hold()
        late.check_versions()
        self._late = None  # last: another thread may be about to step too
        self.waited_seconds += time.monotonic() - started

    def close(self) -> None:
        """Stop holding back optimizers. Idempotent."""
        self._hook.remove()
