"""Write a live model as a program that runs without its code: torch.export, then pt2, ONNX or AOTInductor.

Independent of checkpoints and proofs. Expects models in eval mode.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resumable.errors import ConfigError, ExportError, ResumableError
from resumable.export.formats.torch_archive import archive
from resumable.export.request import Batch
from resumable.store.storage.protocol import storage_error
from resumable.utils.messages import quoted

# ONNX files are protobuf, which ends at 2 GiB: weights of larger models go into a file beside it.
MAX_ONNX_BYTES = 1_500_000_000

FreeSizes = dict[int, object]
"""The dimensions of one input that are free, with torch's mark for each."""


@dataclass(frozen=True)
class ModelCall:
    """The arguments of one call of the model: tensors by position, and by name."""

    args: tuple[Tensor, ...]
    kwargs: Mapping[str, Tensor]

    @classmethod
    def of(cls, inputs: Sequence[Tensor], arguments: Sequence[str] | None) -> ModelCall:
        """Pair the inputs with their names `arguments`, in order; None where they are positional."""
        return cls(tuple(inputs), {}) if arguments is None else cls((), dict(zip(arguments, inputs, strict=True)))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.args, *self.kwargs.values())

    def each(self, change: Callable[[Tensor], Tensor]) -> ModelCall:
        return ModelCall(tuple(map(change, self.args)), {name: change(value) for name, value in self.kwargs.items()})


@dataclass(frozen=True)
class ProgramFile:
    """A written program: its file, and the program's own names of inputs and outputs in order, None where unnamed."""

    entry: str
    input_names: list[str | None]
    output_names: list[str | None]


Writer = Callable[[torch.export.ExportedProgram, Path], ProgramFile]


def write_program(model: nn.Module, call: ModelCall, folder: Path, *, format: str, batch: Batch) -> ProgramFile:
    """Write `model` into `folder` as `format`, for batches of any size or for that of `call` alone.

    Raises `ConfigError` where a package is missing, `ExportError` where the model cannot be traced or the format lacks
    one of its operations, `StorageError` where the folder cannot be written.
    """
    with _export_errors(model, folder, format), _quiet():
        return WRITERS[format](_trace(model, call, batch=batch), folder)


def to_float32(model: nn.Module) -> nn.Module:
    """Copy the model with float32 in place of bfloat16, for runtimes that lack it."""
    converted = copy.deepcopy(model)
    for tensor in (*converted.parameters(), *converted.buffers()):
        if tensor.dtype is torch.bfloat16:
            tensor.data = tensor.data.float()
    return converted


def _trace(model: nn.Module, call: ModelCall, *, batch: Batch) -> torch.export.ExportedProgram:
    shapes: tuple[FreeSizes, ...] | dict[str, FreeSizes] | None = None
    if batch == "dynamic":
        call = call.each(_at_least_two)
        by_position, by_name = _dynamic(call)
        shapes = by_position or by_name
    with torch.no_grad(), _plain_outputs(model):
        return torch.export.export(model, call.args, dict(call.kwargs), dynamic_shapes=shapes, strict=False)


@contextmanager
def _plain_outputs(model: nn.Module) -> Iterator[None]:
    """Have the model return dicts, lists and tuples in place of classes that a process without its code lacks."""
    hook = model.register_forward_hook(lambda module, inputs, outputs: _plain(outputs))
    try:
        yield
    finally:
        hook.remove()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _at_least_two(tensor: Tensor) -> Tensor:
    # torch.export treats a size of one as a constant.
    return torch.cat([tensor, tensor]) if tensor.ndim and tensor.shape[0] == 1 else tensor


def _dynamic(call: ModelCall) -> tuple[tuple[FreeSizes, ...], dict[str, FreeSizes]]:
    sizes = {tensor.shape[0] for tensor in call.tensors if tensor.ndim}
    # One name declares all sizes equal. Where they are not, torch finds out which belong together.
    first: object = torch.export.Dim("batch") if len(sizes) == 1 else torch.export.Dim.DYNAMIC

    def of(tensor: Tensor) -> FreeSizes:
        return {0: first} if tensor.ndim else {}

    return tuple(map(of, call.args)), {name: of(value) for name, value in call.kwargs.items()}


# -- formats ----------------------------------------------------------------------------------------------------------


def _pt2(program: torch.export.ExportedProgram, folder: Path) -> ProgramFile:
    # The traced inputs would be pickled into the file; the golden input is beside it already.
    program.example_inputs = None
    with archive(folder / "model.pt2") as file:
        torch.export.save(program, file)
    return ProgramFile("model.pt2", [None] * len(program.graph_signature.user_inputs), _unnamed_outputs(program))


def _onnx(program: torch.export.ExportedProgram, folder: Path) -> ProgramFile:
    _need("onnx", "onnxscript")
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert exported is not None
    graph = exported.model.graph
    _name_batch(graph)
    weights_bytes = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    exported.save(str(folder / "model.onnx"), external_data=weights_bytes > MAX_ONNX_BYTES)
    return ProgramFile("model.onnx", [each.name for each in graph.inputs], [each.name for each in graph.outputs])


def _name_batch(graph: Any) -> None:
    """Rename the free size to `batch`, if there is exactly one: the exporter makes names up."""
    import onnx_ir

    symbols = {str(size) for each in graph.inputs for size in each.shape if isinstance(size, onnx_ir.SymbolicDim)}
    if len(symbols) != 1:
        return
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None and not value.shape.frozen:
            for axis, size in enumerate(value.shape):
                if isinstance(size, onnx_ir.SymbolicDim) and str(size) in symbols:
                    value.shape[axis] = "batch"


def _aoti(program: torch.export.ExportedProgram, folder: Path) -> ProgramFile:
    entry = "model.aoti.pt2"
    with archive(folder / entry) as file:
        torch._inductor.aoti_compile_and_package(program, package_path=file)
    return ProgramFile(entry, [None] * len(program.graph_signature.user_inputs), _unnamed_outputs(program))


def _unnamed_outputs(program: torch.export.ExportedProgram) -> list[str | None]:
    # torch counts a None as an output; the comparison leaves it out.
    return [None for output in program.graph_signature.user_outputs if output is not None]


WRITERS: Mapping[str, Writer] = {"pt2": _pt2, "onnx": _onnx, "aoti": _aoti}


# -- around them ------------------------------------------------------------------------------------------------------


def _need(*packages: str) -> None:
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: not installed", f"pip install {' '.join(missing)}")


@contextmanager
def _export_errors(model: nn.Module, folder: Path, format: str) -> Iterator[None]:
    try:
        yield
    except (ResumableError, MemoryError):
        raise
    except OSError as error:
        raise storage_error("write", f"the {format} program into {folder}", error) from error
    except Exception as error:
        reason = _first_cause(error)
        raise ExportError(
            f"{type(model).__name__} cannot be exported as {format}: {type(reason).__name__}: {_summary(reason)}",
            "if it is about the batch size, try --batch fixed; else change the code it names, or export safetensors",
        ) from error


def _summary(reason: BaseException) -> str:
    """Return the first line of torch's message, and the last line of the model's own code that it names."""
    first = next((line for line in str(reason).splitlines() if line.strip()), type(reason).__name__)
    places = [place for place in _PLACES.findall(str(reason)) if "site-packages" not in place[0]]
    return quoted(first) + "".join(f" ({path}, line {line})" for path, line in places[-1:])


_PLACES = re.compile(r'File "([^"]+)", line (\d+)')


def _first_cause(error: BaseException) -> BaseException:
    """Unwrap the innermost cause: exporters wrap it in pages of general advice."""
    return error if error.__cause__ is None else _first_cause(error.__cause__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' own warnings: internal deprecations, packages that they could have used."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
