"""Return the documents of values that are no containers: one `Writer` for each type of Python, NumPy or torch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from resumable.state.codec.arrays import as_tensor, fits_torch
from resumable.state.codec.document_writer import DocumentWriter
from resumable.state.codec.limits import is_text
from resumable.state.codec.small_tensors import base64_text
from resumable.state.codec.tree import Array, Document, PartName, Path
from resumable.state.tensors.document_tags import PARTS
from resumable.state.tensors.facts import refusal
from resumable.state.tensors.number_lists import number_document

# Bytes and arrays of this size or more are stored as tensors: JSON is for small values.
INLINE_BYTES = 1024


def number(writer: DocumentWriter, value: float, path: Path, depth: int) -> Document:
    return number_document(value)


def imaginary(writer: DocumentWriter, value: complex, path: Path, depth: int) -> Document:
    return {"$complex": [number_document(value.real), number_document(value.imag)]}


def text(writer: DocumentWriter, value: str, path: Path, depth: int) -> Document:
    writer.count_text(len(value), path)
    if is_unicode(value):
        return value
    return {"$string": base64_text(value.encode("utf-8", "surrogatepass"))}


def octets(writer: DocumentWriter, value: bytes, path: Path, depth: int) -> Document:
    if writer.key_of is not None and len(value) >= INLINE_BYTES:
        return {"$octets": writer.stored(torch.frombuffer(bytearray(value), dtype=torch.uint8), path)}
    return {"$bytes": writer.base64(value, path)}


def part(writer: DocumentWriter, value: PartName, path: Path, depth: int) -> Document:
    writer.features.add(PARTS)
    return {"$object": value.name}


def array(writer: DocumentWriter, value: Array, path: Path, depth: int) -> Document:
    if value.dtype.hasobject or value.dtype.fields is not None or value.dtype.kind == "V":
        writer.refuse(path, f"an array of dtype {value.dtype} cannot be stored", "keep one plain array per field")
    return array_document(writer, value, path, inline_bytes=INLINE_BYTES)


def array_document(writer: DocumentWriter, value: Array, path: Path, *, inline_bytes: int) -> Document:
    """Return the document of an array, whose bytes stand in it if they are fewer than `inline_bytes`."""
    if writer.key_of is not None and value.nbytes >= inline_bytes and fits_torch(value.dtype):
        return {"$array": writer.stored(as_tensor(value), path)}
    order: Literal["F", "C"] = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    content = value.tobytes(order=order)
    if not is_text(content, value.dtype):
        writer.refuse(path, "an array of invalid Unicode cannot be stored", "fill it before the first save")
    data = writer.base64(content, path)
    return {"$ndarray": {"dtype": value.dtype.str, "shape": list(value.shape), "order": order, "data": data}}


def scalar(writer: DocumentWriter, value: np.generic, path: Path, depth: int) -> Document:
    return {"$scalar": {"dtype": value.dtype.str, "data": writer.base64(value.tobytes(), path)}}


def tensor(writer: DocumentWriter, value: Tensor, path: Path, depth: int) -> Document:
    reason = refusal(value)
    if reason is not None:
        writer.refuse(path, *reason)
    stands_here = writer.key_of is None or (writer.inline and writer.is_alone(value))
    plain: Document = writer.inline_tensor(value, path) if stands_here else {"$tensor": writer.stored(value, path)}
    return {"$leaf": plain} if value.requires_grad else plain


def parameter(writer: DocumentWriter, value: torch.nn.Parameter, path: Path, depth: int) -> Document:
    tag = "$parameter" if value.requires_grad else "$frozen_parameter"
    return {tag: tensor(writer, value.detach(), path, depth + 1)}


def dtype(writer: DocumentWriter, value: torch.dtype, path: Path, depth: int) -> Document:
    return {"$dtype": str(value).removeprefix("torch.")}


def size(writer: DocumentWriter, value: torch.Size, path: Path, depth: int) -> Document:
    return {"$size": list(value)}


def device(writer: DocumentWriter, value: torch.device, path: Path, depth: int) -> Document:
    return {"$device": str(value)}


def is_unicode(value: str) -> bool:
    """Return whether a string has no lone surrogates, which JSON cannot hold."""
    return value.isascii() or not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
