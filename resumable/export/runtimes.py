"""Run an artifact on its golden input, with its own runtime alone. ONNX needs no torch, none needs the training code.

Loading a program executes it, so a program must be trusted before anything here is called.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resumable.errors import ConfigError, CorruptCheckpointError, ExportError
from resumable.export.proof.comparison import ModelOutput, outputs_of_arrays, outputs_of_tensors
from resumable.export.proof.golden_file import golden_arrays, golden_tensors
from resumable.export.proof.schema import GoldenRecord, Proof
from resumable.utils.messages import quoted

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RuntimeResult:
    """The outputs of one run, the runtime's name and version, and the facts of the machine that may change bits."""

    runtime: str
    environment: Mapping[str, object]
    outputs: list[ModelOutput]


def run(folder: Path, proof: Proof, golden: GoldenRecord) -> RuntimeResult:
    """Run the program in `folder` on its golden input.

    Raises `ConfigError` where the runtime is missing, `ExportError` where it rejects the program or the input.
    """
    with runtime_errors(folder, proof):
        return RUNTIMES[proof.format](folder, proof.entry, golden)


@contextmanager
def runtime_errors(folder: Path, proof: Proof) -> Iterator[None]:
    """Convert an exception of the runtime into `ExportError` that names the rejected program."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{proof.format}: {error}", f"pip install {error.name or 'onnxruntime'}") from error
    except (ConfigError, CorruptCheckpointError):
        raise
    except Exception as error:
        raise ExportError(
            f"{folder / proof.entry}: {type(error).__name__}: {quoted(error)}",
            "this runtime cannot run it: compare `versions` and `notes` in proof.json with this machine",
        ) from error


def _onnx(folder: Path, entry: str, golden: GoldenRecord) -> RuntimeResult:
    import onnxruntime  # type: ignore[import-untyped]

    onnxruntime.set_default_logger_severity(3)  # errors only: its warnings about folded constants mean nothing here
    session = onnxruntime.InferenceSession(str(folder / entry), providers=["CPUExecutionProvider"])
    names = [port.name for port in golden.inputs]
    feed = dict(zip(names, golden_arrays(folder, golden, golden.inputs), strict=True))
    outputs = session.run([port.name for port in golden.outputs], feed)
    return RuntimeResult(
        f"onnxruntime {onnxruntime.__version__}",
        {"machine": platform.machine(), "threads": os.cpu_count()},
        outputs_of_arrays(outputs),
    )


def _pt2(folder: Path, entry: str, golden: GoldenRecord) -> RuntimeResult:
    import torch

    return run_with_torch(torch.export.load(folder / entry).module(), folder, golden)


def _aoti(folder: Path, entry: str, golden: GoldenRecord) -> RuntimeResult:
    import torch
    import torch._inductor

    return run_with_torch(torch._inductor.aoti_load_package(str(folder / entry)), folder, golden)


def run_with_torch(model: Callable[..., object], folder: Path, golden: GoldenRecord) -> RuntimeResult:
    """Run a torch model on the golden input."""
    import torch
    from torch.utils._pytree import tree_leaves

    from resumable.utils.environment import environment

    args, kwargs = _arguments(golden, golden_tensors(folder, golden, golden.inputs))
    with torch.no_grad():
        found = [leaf for leaf in tree_leaves(model(*args, **kwargs)) if leaf is not None]
    return RuntimeResult(f"torch {torch.__version__}", environment(), outputs_of_tensors(found))


def _arguments(golden: GoldenRecord, tensors: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
    pairs = list(zip(golden.inputs, tensors, strict=True))
    positional = [tensor for port, tensor in pairs if port.argument is None]
    return positional, {port.argument: tensor for port, tensor in pairs if port.argument is not None}


RUNTIMES: Mapping[str, Callable[[Path, str, GoldenRecord], RuntimeResult]] = {
    "onnx": _onnx,
    "pt2": _pt2,
    "aoti": _aoti,
}
