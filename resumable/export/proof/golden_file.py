"""Read the golden file of an artifact: inputs and outputs as bytes, arrays or tensors. Runs no program.

torch is imported only for tensors, and for dtypes that NumPy lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resumable.errors import CorruptCheckpointError, ExportError
from resumable.export.proof.comparison import ModelOutput, Values, outputs_of_arrays, outputs_of_tensors
from resumable.export.proof.schema import GoldenRecord, Port
from resumable.state.tensors.dtypes import stored_as
from resumable.state.tensors.safetensors_layout import parse_header
from resumable.utils.messages import quoted

if TYPE_CHECKING:
    from torch import Tensor

_NUMPY = {
    "bool": "?",
    "uint8": "<u1",
    "int8": "<i1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "int64": "<i8",
    "uint64": "<u8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
}

_NUMPY_AND_COMPLEX = _NUMPY | {"complex64": "<c8", "complex128": "<c16"}


def _slices(folder: Path, golden: GoldenRecord, ports: Sequence[Port]) -> list[tuple[Port, memoryview]]:
    """Return the bytes of these inputs or outputs; `CorruptCheckpointError` where they do not match the proof."""
    image = memoryview((folder / golden.file).read_bytes())
    found = []
    try:
        places = parse_header(image)
        for port in ports:
            if port.key not in places:
                raise ValueError(f"no tensor {port.key!r}")
            place = places[port.key]
            if (place.dtype_tag, place.shape) != stored_as(port.dtype, port.shape):
                raise ValueError(
                    f"{port.key} is {place.dtype_tag}{list(place.shape)}, expected {port.dtype}{port.shape}"
                )
            found.append((port, image[place.start : place.end]))
    except ValueError as error:
        raise CorruptCheckpointError(f"{folder / golden.file}: {quoted(error)}", "export again") from error
    return found


def golden_arrays(folder: Path, golden: GoldenRecord, ports: Sequence[Port]) -> list[Values]:
    """Return these inputs or outputs as NumPy arrays; `ExportError` for a dtype that NumPy lacks."""
    found = []
    for port, data in _slices(folder, golden, ports):
        if port.dtype not in _NUMPY:
            raise ExportError(f"{port.key} is {port.dtype}, which this runtime lacks", "export in float32")
        found.append(np.frombuffer(data, dtype=_NUMPY[port.dtype]).reshape(port.shape))
    return found


def golden_tensors(folder: Path, golden: GoldenRecord, ports: Sequence[Port]) -> list[Tensor]:
    """Return these inputs or outputs as torch tensors that own their memory."""
    return [_tensor(port, data) for port, data in _slices(folder, golden, ports)]


def _tensor(port: Port, data: memoryview) -> Tensor:
    import torch

    from resumable.state.tensors.facts import DTYPES

    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return flat.view(DTYPES[port.dtype]).view(port.shape)


def expected_outputs(folder: Path, golden: GoldenRecord) -> list[ModelOutput]:
    """Return the live model's outputs. Imports torch only for dtypes that NumPy lacks."""
    if all(port.dtype in _NUMPY for port in golden.outputs):
        return outputs_of_arrays(golden_arrays(folder, golden, golden.outputs))
    return outputs_of_tensors(golden_tensors(folder, golden, golden.outputs))


def output_numbers(folder: Path, golden: GoldenRecord) -> list[Values]:
    """Return the golden outputs in a dtype that shows which are finite. Imports torch only for rare dtypes."""
    return [_numbers(port, data) for port, data in _slices(folder, golden, golden.outputs)]


def _numbers(port: Port, data: memoryview) -> Values:
    if port.dtype in _NUMPY_AND_COMPLEX:
        return np.frombuffer(data, dtype=_NUMPY_AND_COMPLEX[port.dtype])
    if port.dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    if not port.dtype.startswith(("float8", "complex")):
        return np.frombuffer(data, dtype="<u1")  # the other dtypes have no NaN
    import torch

    wide = torch.complex64 if port.dtype.startswith("complex") else torch.float32
    numbers: Values = _tensor(port, data).to(wide).numpy()
    return numbers
