"""Runs an artifact on its golden input, with its runtime alone: ONNX needs no torch, nothing needs the training code.

Loading a program is running it: only the formats without programs can be looked at without trust.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resumable.errors import ConfigError, CorruptCheckpointError, ExportError
from resumable.export.proof.comparison import Output
from resumable.export.proof.schema import Known, Port, Proof
from resumable.state.tensors.dtypes import stored_as
from resumable.state.tensors.safetensors_layout import parse_header
from resumable.utils.messages import quoted

if TYPE_CHECKING:
    from torch import Tensor

Call = tuple[list[Any], dict[str, Any]]

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

_LOOKED_AT = _NUMPY | {"complex64": "<c8", "complex128": "<c16"}


def run(folder: Path, proof: Proof, known: Known) -> tuple[str, dict[str, Any], list[Output]]:
    """The runtime's name and version, what of the machine may change bits, and what the program gave.

    `ConfigError` where the runtime is missing, `ExportError` where it refuses the program or the input.
    """
    with told(folder, proof):
        return RUNTIMES[proof.format](folder, proof.entry, known)


@contextmanager
def told(folder: Path, proof: Proof) -> Iterator[None]:
    """Whatever a runtime raises as an error of ours, which says that it was this program that it did not take."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{proof.format}: {error}", f"pip install {error.name or 'onnxruntime'}") from error
    except (ConfigError, CorruptCheckpointError):
        raise
    except Exception as error:
        raise ExportError(
            f"{folder / proof.entry}: {type(error).__name__}: {quoted(error)}",
            "this runtime cannot run it: compare `versions` and `notes` in proof.json with what is here",
        ) from error


# -- the golden file --------------------------------------------------------------------------------------------------


def slices(folder: Path, known: Known, ports: Sequence[Port]) -> list[tuple[Port, memoryview]]:
    """The bytes of these inputs or outputs; `CorruptCheckpointError` where they are not what the proof says."""
    image = memoryview((folder / known.file).read_bytes())
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
        raise CorruptCheckpointError(f"{folder / known.file}: {quoted(error)}", "export again") from error
    return found


def arrays(folder: Path, known: Known, ports: Sequence[Port]) -> list[np.ndarray[Any, Any]]:
    """The same as NumPy arrays; `ExportError` for what NumPy lacks."""
    found = []
    for port, data in slices(folder, known, ports):
        if port.dtype not in _NUMPY:
            raise ExportError(f"{port.key} is {port.dtype}, which this runtime lacks", "export in float32")
        found.append(np.frombuffer(data, dtype=_NUMPY[port.dtype]).reshape(port.shape))
    return found


def tensors(folder: Path, known: Known, ports: Sequence[Port]) -> list[Tensor]:
    """The same as torch tensors of their own memory."""
    return [_tensor(port, data) for port, data in slices(folder, known, ports)]


def _tensor(port: Port, data: memoryview) -> Tensor:
    import torch

    from resumable.state.tensors.facts import DTYPES

    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return flat.view(DTYPES[port.dtype]).view(port.shape)


def called(known: Known, values: Sequence[Any]) -> Call:
    """The inputs by position and by name, as the model is called."""
    args = [value for port, value in zip(known.inputs, values, strict=True) if port.argument is None]
    kwargs = {
        port.argument: value for port, value in zip(known.inputs, values, strict=True) if port.argument is not None
    }
    return args, kwargs


def of_arrays(found: Sequence[Any]) -> list[Output]:
    """Outputs from NumPy arrays."""
    return [_of_array(np.asarray(each)) for each in found]


def _of_array(value: np.ndarray[Any, Any]) -> Output:
    return Output(str(value.dtype), value.shape, value.tobytes(), _values(value))


def _values(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return value if value.dtype.kind in "iu" else value.astype(np.float64)


def of_tensors(found: Sequence[Tensor]) -> list[Output]:
    """Outputs from torch tensors."""
    return [_of_tensor(each) for each in found]


def _of_tensor(value: Tensor) -> Output:
    import torch

    from resumable.state.tensors.facts import bytes_of

    plain = value.detach().cpu()
    dtype = str(plain.dtype).removeprefix("torch.")
    parts = torch.view_as_real(plain.resolve_conj()) if plain.is_complex() else plain
    whole = not parts.is_floating_point() and parts.dtype is not torch.bool
    return Output(dtype, tuple(plain.shape), bytes(bytes_of(plain)), (parts if whole else parts.double()).numpy())


def expected(folder: Path, known: Known) -> list[Output]:
    """What the live model gave. Needs torch only for dtypes that NumPy lacks."""
    if all(port.dtype in _NUMPY for port in known.outputs):
        return of_arrays(arrays(folder, known, known.outputs))
    return of_tensors(tensors(folder, known, known.outputs))


def numbers(folder: Path, known: Known) -> list[np.ndarray[Any, Any]]:
    """The golden outputs, to be looked at alone. Needs torch only for dtypes that few have."""
    return [_numbers(port, data) for port, data in slices(folder, known, known.outputs)]


def _numbers(port: Port, data: memoryview) -> np.ndarray[Any, Any]:
    if port.dtype in _LOOKED_AT:
        return np.frombuffer(data, dtype=_LOOKED_AT[port.dtype])
    if port.dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    if not port.dtype.startswith(("float8", "complex")):
        return np.frombuffer(data, dtype="<u1")  # whatever it is, it has no NaN
    import torch

    wide = torch.complex64 if port.dtype.startswith("complex") else torch.float32
    numbers: np.ndarray[Any, Any] = _tensor(port, data).to(wide).numpy()
    return numbers


# -- runtimes ---------------------------------------------------------------------------------------------------------


def _onnx(folder: Path, entry: str, known: Known) -> tuple[str, dict[str, Any], list[Output]]:
    import onnxruntime  # type: ignore[import-untyped]

    onnxruntime.set_default_logger_severity(3)  # errors alone: what it thinks of constants is no news
    session = onnxruntime.InferenceSession(str(folder / entry), providers=["CPUExecutionProvider"])
    names = [port.name for port in known.inputs]
    feed = dict(zip(names, arrays(folder, known, known.inputs), strict=True))
    outputs = session.run([port.name for port in known.outputs], feed)
    return (
        f"onnxruntime {onnxruntime.__version__}",
        {"machine": platform.machine(), "threads": os.cpu_count()},
        (of_arrays(outputs)),
    )


def _pt2(folder: Path, entry: str, known: Known) -> tuple[str, dict[str, Any], list[Output]]:
    import torch

    return with_torch(torch.export.load(folder / entry).module(), folder, known)


def _aoti(folder: Path, entry: str, known: Known) -> tuple[str, dict[str, Any], list[Output]]:
    import torch
    import torch._inductor

    return with_torch(torch._inductor.aoti_load_package(str(folder / entry)), folder, known)


def with_torch(model: Callable[..., Any], folder: Path, known: Known) -> tuple[str, dict[str, Any], list[Output]]:
    """What a model of torch's gives for the golden input."""
    import torch
    from torch.utils._pytree import tree_leaves

    from resumable.utils.environment import environment

    args, kwargs = called(known, tensors(folder, known, known.inputs))
    with torch.no_grad():
        found = [leaf for leaf in tree_leaves(model(*args, **kwargs)) if leaf is not None]
    return f"torch {torch.__version__}", environment(), of_tensors(found)


RUNTIMES: Mapping[str, Callable[[Path, str, Known], tuple[str, dict[str, Any], list[Output]]]] = {
    "onnx": _onnx,
    "pt2": _pt2,
    "aoti": _aoti,
}
