"""What must be known of an export beside its numbers, one sentence for each trap that was met; measures nothing."""

from __future__ import annotations

import torch
from torch import nn

from resumable.checkpointing.golden_input import Golden
from resumable.export.request import Wanted
from resumable.export.stored_module import Stored


def of_weights(found: Stored, *, cast_to: str | None) -> list[str]:
    """Of weights in safetensors files."""
    said = []
    if cast_to is not None:
        said.append(f"floating-point weights were cast to {cast_to}, and are compared with the checkpoint's cast alike")
    if found.tied:
        pairs = ", ".join(f"{name} is {kept}" for name, kept in sorted(found.tied.items()))
        said.append(f"tied tensors are stored once: {pairs}"[:1000])
    if any(record.strides is not None for record in found.records.values()):
        said.append("values lie in row-major order: memory formats such as channels_last are the model's own to choose")
    if found.hidden:
        said.append("non-persistent buffers are not in the files: the model's own code makes them")
    return said


def of_program(model: nn.Module, wanted: Wanted, golden: Golden, *, made_by: str) -> list[str]:
    """Of a program made of `model`, as it is wanted; `made_by` says whose outputs it was compared with."""
    said, format = [], wanted.format
    if wanted.batch == "dynamic":
        sizes = [str(each.shape[0]) for each in golden.inputs if each.ndim]
        said.append(f"compared for a batch of {sizes[0] if sizes else 'one'}: for other sizes the last bits may differ")
    if made_by == "export":
        said.append(
            f"training gave no golden input: the outputs are those of what {wanted.model} built around the weights, "
            "and only their names, shapes and bits say that it is the model that was trained"
        )
    if format == "onnx":
        said.append("constants are folded (BatchNorm into convolutions), so weights are not compared, outputs are")
    if any(isinstance(part, nn.TransformerEncoder | nn.TransformerEncoderLayer) for part in model.modules()):
        said.append("live inference may take the fast path of nn.TransformerEncoder, the program does not")
    if any(_is_channels_last(each) for each in model.parameters()):
        said.append("the live model lies in memory as channels_last, the program need not: last bits may differ")
    return said


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def has_bfloat16(model: nn.Module) -> bool:
    """Whether ONNX Runtime would refuse it on CPUs."""
    return any(tensor.dtype is torch.bfloat16 for tensor in (*model.parameters(), *model.buffers()))


def upcast(difference: float) -> str:
    """That a model was exported in float32, and how far the live one is from it."""
    return (
        "ONNX Runtime computes no bfloat16 on CPUs: the model was exported in float32, and is compared with itself in "
        f"float32; the live bfloat16 model's outputs differ from those by {difference:.3g}"
    )
