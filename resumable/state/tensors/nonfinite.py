"""Find tensors that are not finite by the first element of each. Independent of objects and storages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy
import torch
from torch import Tensor

from resumable.state.tensors.facts import TensorFacts
from resumable.state.tensors.safetensors_layout import Slice

_DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)


def nonfinite_in_image(image: Tensor, facts: Mapping[str, TensorFacts], slices: Mapping[str, Slice]) -> Iterator[str]:
    """Yield the keys of floating-point tensors whose first element in the bytes of an image is NaN or infinite."""
    content = image.numpy()
    for dtype in _DTYPES:
        keys = [key for key, fact in facts.items() if fact.torch_dtype == dtype and fact.nbytes]
        if keys:
            starts = numpy.array([slices[key].start for key in keys])
            first = content[starts[:, None] + numpy.arange(dtype.itemsize)]
            yield from _broken(keys, torch.from_numpy(first).view(dtype).reshape(-1))


def nonfinite_live(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the same keys of live tensors; waits for their devices."""
    for key, tensor in tensors.items():
        if tensor.dtype in _DTYPES and tensor.numel():
            yield from _broken([key], tensor.detach()[(0,) * tensor.dim()].reshape(1).cpu())


def _broken(keys: list[str], first: Tensor) -> Iterator[str]:
    wide = first if first.dtype.itemsize > 2 else first.to(torch.float32)  # narrow dtypes lack this function
    for index in torch.isfinite(wide).logical_not().nonzero().flatten().tolist():
        yield keys[index]
