"""The notes of a proof: one sentence for each caveat that a user must read beside the numbers. Measures nothing."""

from __future__ import annotations

import torch
from torch import nn

from resumable.checkpointing.capture.golden_input import Golden
from resumable.export.checkpoint_module import CheckpointModule
from resumable.export.request import ExportRequest


def weight_caveats(stored: CheckpointModule, *, cast_to: str | None) -> list[str]:
    """List the caveats of weights in safetensors files."""
    notes = []
    if cast_to is not None:
        notes.append(
            f"floating-point weights were cast to {cast_to}, and are compared with the same cast of the checkpoint"
        )
    if stored.tied:
        pairs = ", ".join(f"{name} is {kept}" for name, kept in sorted(stored.tied.items()))
        notes.append(f"tied tensors are stored once: {pairs}"[:1000])
    if any(record.strides is not None for record in stored.records.values()):
        notes.append("values are in row-major order: the model chooses memory formats such as channels_last itself")
    if stored.hidden:
        notes.append("non-persistent buffers are not in the files: the model's own code makes them")
    return notes


def program_caveats(model: nn.Module, request: ExportRequest, golden: Golden, *, made_by: str) -> list[str]:
    """List the caveats of a program made from `model`; `made_by` is the origin of its golden outputs."""
    notes, format = [], request.format
    if request.batch == "dynamic":
        sizes = [str(each.shape[0]) for each in golden.inputs if each.ndim]
        notes.append(
            f"compared for a batch of {sizes[0] if sizes else 'one'}: for other sizes the last bits may differ"
        )
    if made_by == "export":
        notes.append(
            f"training gave no golden input: the outputs are those of the model that {request.model} built around the "
            "weights, and only their names, shapes and bits show that it is the model that was trained"
        )
    if format == "onnx":
        notes.append("constants are folded (BatchNorm into convolutions), so weights are not compared, outputs are")
    if any(isinstance(part, nn.TransformerEncoder | nn.TransformerEncoderLayer) for part in model.modules()):
        notes.append("live inference may take the fast path of nn.TransformerEncoder, the program does not")
    if any(_is_channels_last(each) for each in model.parameters()):
        notes.append("the live model uses the memory format channels_last, the program may not: last bits may differ")
    return notes


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def has_bfloat16(model: nn.Module) -> bool:
    """Return whether a parameter or buffer is bfloat16, which ONNX Runtime refuses on CPUs."""
    return any(tensor.dtype is torch.bfloat16 for tensor in (*model.parameters(), *model.buffers()))


def float32_caveat(difference: float) -> str:
    """Describe an export in float32 instead of bfloat16; `difference` is the live model's distance from it."""
    return (
        "ONNX Runtime computes no bfloat16 on CPUs: the model was exported in float32, and is compared with itself in "
        f"float32; the live bfloat16 model's outputs differ from those by {difference:.3g}"
    )
