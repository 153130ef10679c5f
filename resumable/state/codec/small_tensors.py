"""Small tensors that stand in a document: which they are, and their documents."""

from __future__ import annotations

import base64

from torch import Tensor

from resumable.state.codec.tree import Document
from resumable.state.tensors.facts import TensorFacts

# A tensor of this size, such as the step of an optimizer, takes less room in the document than a record in columns.
INLINE_TENSOR_BYTES = 64


def is_small(tensor: Tensor) -> bool:
    """Return whether a tensor stands in the document if it has no alias; reading a device would wait for its work."""
    return tensor.is_cpu and tensor.nbytes <= INLINE_TENSOR_BYTES


def inline_document(facts: TensorFacts, data: bytes | memoryview) -> Document:
    """Return the document of a tensor with these facts and bytes, which are in row-major order."""
    strides: Document = None if facts.strides is None else list(facts.strides)
    text = base64_text(data)
    return {"$inline": {"dtype": facts.dtype, "shape": list(facts.shape), "strides": strides, "data": text}}


def base64_text(data: bytes | memoryview) -> str:
    """Return bytes as a text of a document."""
    return base64.b64encode(data).decode()
