"""The states of the user's own objects: samplers, datasets, iterators. Independent of what they are."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from resumable.errors import LoopError
from resumable.utils.rejected_state import rejected_state


def loading_state(address: object, what: str) -> AbstractContextManager[None]:
    """Turn whatever a user's `load_state_dict` raises for a foreign state into a `LoopError`."""

    def refusal(reason: str) -> LoopError:
        return LoopError(
            f"{address}: {what} rejected its state from the checkpoint: {reason}",
            "load_state_dict must accept what state_dict returned before",
        )

    return rejected_state(refusal, passing=torch.OutOfMemoryError)
