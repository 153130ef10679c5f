"""Choose the memory into which tensors are read: that of live tensors if it is safe. Reads nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from resumable.state.tensors.facts import TensorFacts, empty, facts_of, is_dense


def targets_of(into: Mapping[str, Tensor], wanted: Mapping[str, TensorFacts]) -> dict[str, Tensor]:
    """Return the tensor to fill for each key: that of `into` if nothing else shares its memory, otherwise a new one."""
    shared = _shared_memory(into.values())
    used = {id(tensor) for key, tensor in into.items() if key not in wanted}
    targets: dict[str, Tensor] = {}
    for key, facts in wanted.items():
        # Two tensors were saved under names that now share one live tensor: it can hold only one of them.
        fits = key in into and id(into[key]) not in used and _may_be_filled(into[key], facts, shared)
        targets[key] = into[key] if fits else empty(facts)
        used.add(id(targets[key]))
    return targets


def _may_be_filled(tensor: Tensor, facts: TensorFacts, shared: Collection[int]) -> bool:
    plain = (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_conj()
        and not tensor.is_neg()
        and (tensor.is_contiguous() or is_dense(tensor.shape, tensor.stride()))
        and facts_of(tensor) == facts
    )
    if not plain:
        return False
    storage = tensor.untyped_storage()
    return storage.nbytes() == facts.nbytes and storage.data_ptr() not in shared


def _shared_memory(tensors: Iterable[Tensor]) -> set[int]:
    seen: set[int] = set()
    shared: set[int] = set()
    for tensor in {id(tensor): tensor for tensor in tensors}.values():
        if tensor.layout is torch.strided and not tensor.is_meta and tensor.numel():
            address = tensor.untyped_storage().data_ptr()
            (shared if address in seen else seen).add(address)
    return shared


def fillable(into: Mapping[str, Tensor], facts: Mapping[str, TensorFacts]) -> set[str]:
    """Return the keys of the tensors that `targets_of` would fill in place."""
    shared = _shared_memory(into.values())
    return {key for key, tensor in into.items() if _may_be_filled(tensor, facts[key], shared)}
