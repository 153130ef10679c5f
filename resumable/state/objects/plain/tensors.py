"""Adapters of tensors and arrays that are objects by themselves: filled in place, with the same dtype and shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resumable.errors import StateError
from resumable.state.codec.tree import Array, Tree
from resumable.state.objects.adapter import BaseAdapter, mismatch_on_error
from resumable.state.objects.plain.in_place import InPlaceFilling, is_expanded
from resumable.state.objects.tree_copies import Own
from resumable.state.tensors.facts import Recorded, UndigestedRecord, refusal, same_place

TENSOR_TYPES = (Tensor, torch.nn.Parameter, np.ndarray)


class TensorAdapter(BaseAdapter):
    """A tensor, a parameter or an array of the loop."""

    def __init__(self, name: str, target: Any) -> None:
        super().__init__(name, target)
        self.kind = "array" if isinstance(target, np.ndarray) else "tensor"
        reason = _array_refusal(target) if isinstance(target, np.ndarray) else _tensor_refusal(target)
        if reason is not None:
            raise StateError(f"{name}: {reason[0]}", reason[1])

    def capture(self) -> dict[str, Tree]:
        return {self.kind: self.target}

    def read_targets(self) -> Mapping[str, Tensor] | None:
        return {self.kind: self.target} if isinstance(self.target, Tensor) else None

    def misfits(self, tensors: Mapping[str, Recorded], document: Any) -> list[str]:
        record = tensors.get(self.kind)
        if record is None:  # it stands in the document
            with mismatch_on_error(self.name):
                facts = _facts_in(document)
                record = None if facts is None else UndigestedRecord(str(facts["dtype"]), tuple(facts["shape"]))
        if record is None:
            return []
        now = _shown(self.target.dtype, self.target.shape)
        dtype = self.target.dtype.name if record.dtype == getattr(self.target.dtype, "str", None) else record.dtype
        then = _shown(dtype, record.shape)
        return [] if then == now else [f"expected {then}, found {now}"]

    def _restore(self, tree: dict[str, Any], own: Own) -> None:
        saved = tree[self.kind]
        if isinstance(saved, Tensor) and same_place(saved) == same_place(self.target) is not None:
            return  # read straight into it
        if InPlaceFilling().fit(self.target, saved) is not self.target:
            then, now = (_shown(each.dtype, each.shape) for each in (saved, self.target))
            raise self.mismatch([f"the checkpoint holds {then}, here is {now}"])


def _facts_in(document: Any) -> dict[str, Any] | None:
    """Return the facts of a tensor or an array whose bytes stand in its document."""
    while isinstance(document, dict) and len(document) == 1:
        ((tag, document),) = document.items()
        if tag in ("$inline", "$ndarray"):
            facts: dict[str, Any] = document
            return facts
    return None


def _tensor_refusal(tensor: Tensor) -> tuple[str, str] | None:
    reason = refusal(tensor)
    if reason is None and is_expanded(tensor):
        return "several elements of this tensor are one in memory, so it cannot be filled", "pass a .clone() of it"
    return reason


def _array_refusal(array: Array) -> tuple[str, str] | None:
    if not array.flags.writeable:
        return "this array is read-only, so it cannot be filled", "pass a .copy() of it, or leave it out"
    return None


def _shown(dtype: object, shape: Any) -> str:
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"
