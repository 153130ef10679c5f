"""The golden input of an export, and the live model's outputs for it: where they come from, and their file.

Runs the live model, never an exported program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from resumable.checkpointing.capture.golden_input import Golden, inputs_of, outputs_of, uninformative_tensors
from resumable.errors import ConfigError, CorruptCheckpointError, ExportError
from resumable.export.checkpoint_module import CheckpointModule
from resumable.export.formats.safetensors import SafetensorsStream, WeightSpec
from resumable.export.live_model import build_model, fill_model
from resumable.export.proof.comparison import compare_outputs, outputs_of_tensors
from resumable.export.proof.schema import GoldenRecord, Port
from resumable.export.request import ExportRequest
from resumable.export.tolerance import default_tolerance
from resumable.run.checkpoint import Checkpoint
from resumable.run.reserved_objects import GOLDEN, is_golden
from resumable.store.storage.local import LocalStorage
from resumable.utils.environment import environment
from resumable.utils.messages import quoted
from resumable.weights.proof import GOLDEN_FILE

SAME_RELATIVE = 1e-5  # of the largest output: what another order of additions may change in float32

_SAME_MODEL = (
    "the function must build the model as it was trained, down to what has no weights: activations, masks, scales; "
    "a model that draws random numbers in eval mode, such as a dropout that stays on, gives other outputs each time"
)


@dataclass(frozen=True)
class GoldenCase:
    """A golden input, its outputs if there are any yet, and the facts of their machine that may change bits.

    `live` is the golden input of the training, also where another one is used: the model must reproduce its outputs.
    """

    golden: Golden
    made_by: Literal["trainer", "export"]
    environment: Mapping[str, object]
    live: Golden | None = None


def choose_golden(checkpoint: Checkpoint, request: ExportRequest, batch: object) -> GoldenCase | None:
    """Return the golden input to use: `batch`, or that of the checkpoint; None where none is needed."""
    trained = _golden_of_training(checkpoint, request.object)
    if batch is not None and request.dtype is not None:
        raise ConfigError(
            f"golden: it proves nothing about weights that are cast to {request.dtype}", "leave --golden out"
        )
    if batch is not None:
        return GoldenCase(inputs_of(batch), "export", _this_environment(), None if trained is None else trained.golden)
    if trained is not None or (request.format == "safetensors" and request.model is None):
        return trained
    raise ConfigError(
        f"golden: {checkpoint.name} holds no golden input of {request.object}, and without one outputs cannot be "
        "compared",
        "pass one: --golden FILE, made by resumable.save(batch, FILE); or call trainer.golden(batch) during training",
    )


def _golden_of_training(checkpoint: Checkpoint, name: str) -> GoldenCase | None:
    record = checkpoint.manifest.objects.get(GOLDEN)
    if record is None or not is_golden(GOLDEN, record):
        return None
    tree = checkpoint.tree(GOLDEN)
    try:
        golden = Golden.from_tree(tree)
    except ValueError as error:
        raise CorruptCheckpointError(
            f"{checkpoint.name}: {GOLDEN}: {quoted(error)}",
            "export another checkpoint: `resumable verify` lists the good ones",
        ) from error
    manifest = checkpoint.manifest
    trained_on = {"torch": manifest.versions.get("torch"), **manifest.environment}
    return GoldenCase(golden, "trainer", trained_on, golden) if tree["model"] == name else None


def _this_environment() -> dict[str, object]:
    return {"torch": str(torch.__version__), **environment()}


def with_outputs(case: GoldenCase, stored: CheckpointModule, request: ExportRequest) -> tuple[GoldenCase, nn.Module]:
    """Build the model with the checkpoint's values, and add its outputs to a case that has none.

    Raises `ExportError` where the outputs prove nothing, and where they differ from those of the training.
    """
    assert request.model is not None
    model = build_model(request.model)
    fill_model(model, stored)
    if not case.golden.outputs:
        case = dataclasses.replace(case, golden=outputs_of(model, case.golden))
    refuse_without_number(case, stored)  # before the next check, which two models without any number pass
    if case.live is not None:
        _refuse_other_model(outputs_of(model, case.live), case.live, request)
    return case, model


def refuse_without_number(case: GoldenCase, stored: CheckpointModule) -> None:
    """Raise `ExportError` where the golden outputs hold no finite number, so that any model would pass."""
    nothing = uninformative_tensors(case.golden.outputs)
    if nothing is None:
        return
    hint = "pass another input, or check the weights of the checkpoint"
    if case.made_by == "trainer":
        hint = (
            "export an earlier checkpoint whose outputs are finite, or pass another input: --golden FILE with --model"
        )
    raise ExportError(
        f"{stored.source.checkpoint}: {nothing} in the golden outputs, so that any model would pass for this one", hint
    )


def _refuse_other_model(here: Golden, live: Golden, request: ExportRequest) -> None:
    headline = f"{request.model} builds another model than the one that was trained"
    try:
        compared = compare_outputs(outputs_of_tensors(here.outputs), outputs_of_tensors(live.outputs))
    except ValueError as error:
        raise ExportError(f"{headline}: {error}", _SAME_MODEL) from error
    # The user's tolerance is for a runtime, not for another model. Another machine may change the last bits.
    if compared.absolute > default_tolerance(map(dtype_of, live.outputs)) and not compared.relative <= SAME_RELATIVE:
        raise ExportError(
            f"{headline}: with the same weights its outputs for the golden input differ by {compared.absolute:.3g}",
            _SAME_MODEL,
        )


def float32_case(model: nn.Module, case: GoldenCase) -> tuple[GoldenCase, float]:
    """Return the case in float32 with the outputs of the float32 `model`, and their distance to the live ones."""
    inputs = tuple(each.float() if each.dtype is torch.bfloat16 else each for each in case.golden.inputs)
    here = outputs_of(model, dataclasses.replace(case.golden, inputs=inputs, outputs=()))
    pairs = zip(case.golden.outputs, here.outputs, strict=True)
    live = outputs_of_tensors(live.to(other.dtype) for live, other in pairs)
    difference = compare_outputs(outputs_of_tensors(here.outputs), live).absolute
    return GoldenCase(here, "export", _this_environment()), difference


def write_golden(
    folder: Path,
    case: GoldenCase,
    request: ExportRequest,
    *,
    inputs: Sequence[str | None],
    outputs: Sequence[str | None],
) -> GoldenRecord:
    """Write the golden file and return its record; `inputs` and `outputs` are the program's names for them."""
    golden = case.golden
    if len(inputs) != len(golden.inputs) or len(outputs) != len(golden.outputs):
        raise ExportError(
            f"the program has {len(inputs)} inputs and {len(outputs)} outputs, the model has "
            f"{len(golden.inputs)} and {len(golden.outputs)}",
            "leave out inputs that the model does not use, and outputs that are not tensors",
        )
    tensors = {f"input.{n}": each for n, each in enumerate(golden.inputs)}
    tensors |= {f"output.{n}": each for n, each in enumerate(golden.outputs)}
    weights = [WeightSpec(key, dtype_of(each), tuple(each.shape)) for key, each in tensors.items()]
    LocalStorage(folder).write(GOLDEN_FILE, SafetensorsStream(weights, tensors.__getitem__, {}, {}))
    return GoldenRecord(
        file=GOLDEN_FILE,
        made_by=case.made_by,
        batch_size=next((each.shape[0] for each in golden.inputs if each.ndim), 0),
        dynamic_batch=request.batch == "dynamic",
        inputs=_ports("input", golden.inputs, inputs, golden.arguments),
        outputs=_ports("output", golden.outputs, outputs, None),
        environment=dict(case.environment),
    )


def _ports(
    side: str, tensors: Sequence[Tensor], names: Sequence[str | None], arguments: Sequence[str] | None
) -> list[Port]:
    return [
        Port(
            key=f"{side}.{n}",
            name=name,
            argument=None if arguments is None else arguments[n],
            dtype=dtype_of(tensor),
            shape=list(tensor.shape),
        )
        for n, (tensor, name) in enumerate(zip(tensors, names, strict=True))
    ]


def dtype_of(tensor: Tensor) -> str:
    """Return the dtype's name, such as `float32`."""
    return str(tensor.dtype).removeprefix("torch.")
