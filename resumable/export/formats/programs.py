"""A live model as a program that runs without its code: traced by torch.export, written as pt2, ONNX or AOTInductor.

Knows no checkpoint and no proof. Models come in eval mode, and inputs as they would be called with.
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

# Protobuf, which ONNX files are, ends at 2 GiB: what is larger gets its weights in a file beside it.
MAX_ONNX_BYTES = 1_500_000_000


@dataclass(frozen=True)
class Call:
    """How a model is called: tensors by position, and by name."""

    args: tuple[Tensor, ...]
    kwargs: Mapping[str, Tensor]

    @classmethod
    def of(cls, inputs: Sequence[Tensor], arguments: Sequence[str] | None) -> Call:
        """`arguments` are the names of the inputs, in their order; None where they go by position."""
        return cls(tuple(inputs), {}) if arguments is None else cls((), dict(zip(arguments, inputs, strict=True)))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.args, *self.kwargs.values())

    def each(self, change: Callable[[Tensor], Tensor]) -> Call:
        return Call(tuple(map(change, self.args)), {name: change(value) for name, value in self.kwargs.items()})


@dataclass(frozen=True)
class Written:
    """A program in its file: names of inputs and outputs in its order, if it has any."""

    entry: str
    input_names: list[str | None]
    output_names: list[str | None]


Writer = Callable[[torch.export.ExportedProgram, Path], Written]


def write(model: nn.Module, call: Call, folder: Path, *, format: str, batch: Batch) -> Written:
    """Write `model` into `folder` as `format`, for batches of any size or for that of `call` alone.

    Raises `ConfigError` where a package is missing, `ExportError` where the model cannot be traced or the format does
    not have what it does, `StorageError` where the folder cannot be written.
    """
    with _told(model, folder, format), _quiet():
        return WRITERS[format](_traced(model, call, batch=batch), folder)


def upcast(model: nn.Module) -> nn.Module:
    """A copy with float32 in place of bfloat16, for runtimes that lack it."""
    upcast = copy.deepcopy(model)
    for tensor in (*upcast.parameters(), *upcast.buffers()):
        if tensor.dtype is torch.bfloat16:
            tensor.data = tensor.data.float()
    return upcast


def _traced(model: nn.Module, call: Call, *, batch: Batch) -> torch.export.ExportedProgram:
    shapes: Any = None
    if batch == "dynamic":
        call = call.each(_at_least_two)
        by_position, by_name = _dynamic(call)
        shapes = by_position or by_name
    with torch.no_grad():
        return torch.export.export(model, call.args, dict(call.kwargs), dynamic_shapes=shapes, strict=False)


def _at_least_two(tensor: Tensor) -> Tensor:
    # torch.export takes a size of one for a constant.
    return torch.cat([tensor, tensor]) if tensor.ndim and tensor.shape[0] == 1 else tensor


def _dynamic(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    sizes = {tensor.shape[0] for tensor in call.tensors if tensor.ndim}
    # One name says that all are equal; where they are not, which belong together is left to torch to find out.
    first: Any = torch.export.Dim("batch") if len(sizes) == 1 else torch.export.Dim.DYNAMIC

    def of(tensor: Tensor) -> dict[int, Any]:
        return {0: first} if tensor.ndim else {}

    return tuple(map(of, call.args)), {name: of(value) for name, value in call.kwargs.items()}


# -- formats ----------------------------------------------------------------------------------------------------------


def _pt2(program: torch.export.ExportedProgram, folder: Path) -> Written:
    # Inputs that it was traced with would lie in the file as a pickle; the golden input lies beside it.
    program.example_inputs = None
    with archive(folder / "model.pt2") as file:
        torch.export.save(program, file)
    return Written("model.pt2", [None] * len(program.graph_signature.user_inputs), _unnamed_outputs(program))


def _onnx(program: torch.export.ExportedProgram, folder: Path) -> Written:
    _need("onnx", "onnxscript")
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert exported is not None
    graph = exported.model.graph
    _name_batch(graph)
    weights_bytes = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    exported.save(str(folder / "model.onnx"), external_data=weights_bytes > MAX_ONNX_BYTES)
    return Written("model.onnx", [each.name for each in graph.inputs], [each.name for each in graph.outputs])


def _name_batch(graph: Any) -> None:
    """Sizes that are not settled have made-up names; the only one, and the first of an input, is that of the batch."""
    import onnx_ir

    symbols = {str(size) for each in graph.inputs for size in each.shape if isinstance(size, onnx_ir.SymbolicDim)}
    if len(symbols) != 1:
        return
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None and not value.shape.frozen:
            for axis, size in enumerate(value.shape):
                if isinstance(size, onnx_ir.SymbolicDim) and str(size) in symbols:
                    value.shape[axis] = "batch"


def _aoti(program: torch.export.ExportedProgram, folder: Path) -> Written:
    entry = "model.aoti.pt2"
    with archive(folder / entry) as file:
        torch._inductor.aoti_compile_and_package(program, package_path=file)
    return Written(entry, [None] * len(program.graph_signature.user_inputs), _unnamed_outputs(program))


def _unnamed_outputs(program: torch.export.ExportedProgram) -> list[str | None]:
    # What is None is an output to torch, and none to whoever compares.
    return [None for output in program.graph_signature.user_outputs if output is not None]


WRITERS: Mapping[str, Writer] = {"pt2": _pt2, "onnx": _onnx, "aoti": _aoti}


# -- around them ------------------------------------------------------------------------------------------------------


def _need(*packages: str) -> None:
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: not installed", f"pip install {' '.join(missing)}")


@contextmanager
def _told(model: nn.Module, folder: Path, format: str) -> Iterator[None]:
    try:
        yield
    except (ResumableError, MemoryError):
        raise
    except OSError as error:
        raise storage_error("write", f"the {format} program into {folder}", error) from error
    except Exception as error:
        reason = _first_cause(error)
        raise ExportError(
            f"{type(model).__name__} cannot be exported as {format}: {type(reason).__name__}: {_told_first(reason)}",
            "if it is about the size of a batch, try --batch fixed; else change what is named, or export safetensors",
        ) from error


def _told_first(reason: BaseException) -> str:
    """The first line of what torch says, and the place in the model's own code that it names last."""
    first = next((line for line in str(reason).splitlines() if line.strip()), type(reason).__name__)
    places = [place for place in _PLACES.findall(str(reason)) if "site-packages" not in place[0]]
    return quoted(first) + "".join(f" ({path}, line {line})" for path, line in places[-1:])


_PLACES = re.compile(r'File "([^"]+)", line (\d+)')


def _first_cause(error: BaseException) -> BaseException:
    """Exporters wrap what went wrong in pages of advice about themselves."""
    return error if error.__cause__ is None else _first_cause(error.__cause__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say about themselves: deprecations within, packages that they could have used."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
