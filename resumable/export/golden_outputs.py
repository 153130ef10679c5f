"""The golden input of an export: whence it comes, what the live model gave for it, and its file; runs no program."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resumable.checkpointing.golden_input import Golden, inputs_of, nothing_in, outputs_of
from resumable.errors import ConfigError, CorruptCheckpointError, ExportError
from resumable.export.formats import safetensors
from resumable.export.live_model import build, fill
from resumable.export.proof.comparison import compare
from resumable.export.proof.schema import Known, Port
from resumable.export.request import Wanted, default_tolerance
from resumable.export.runtimes import of_tensors
from resumable.export.stored_module import Stored
from resumable.run.checkpoint import GOLDEN, Checkpoint, is_golden
from resumable.store.storage.local import LocalStorage
from resumable.utils.environment import environment
from resumable.utils.messages import quoted
from resumable.weights.proof import GOLDEN_FILE

SAME_RELATIVE = 1e-5  # of the largest output: what another order of additions may make of float32

_SAME = (
    "the function must build the model as it was trained, down to what has no weights: activations, masks, scales; "
    "a model that draws random numbers in eval mode, as a dropout that is never off, gives other outputs each time"
)


@dataclass(frozen=True)
class Given:
    """A golden input, with outputs if training gave it; and what of the machine on which they came may change bits.

    `live` is the one that training gave, whichever is used: no model passes that gives something else for it.
    """

    golden: Golden
    made_by: Literal["trainer", "export"]
    environment: Mapping[str, Any]
    live: Golden | None = None


def given(checkpoint: Checkpoint, wanted: Wanted, batch: Any) -> Given | None:
    """The golden input that is to be used: `batch`, or that of the checkpoint; None where none is needed."""
    trained = _of_training(checkpoint, wanted.object)
    if batch is not None and wanted.dtype is not None:
        raise ConfigError(f"a golden input proves nothing of weights cast to {wanted.dtype}", "leave --golden out")
    if batch is not None:
        return Given(inputs_of(batch), "export", _here(), None if trained is None else trained.golden)
    if trained is not None or (wanted.format == "safetensors" and wanted.model is None):
        return trained
    raise ConfigError(
        f"{checkpoint.name} holds no golden input of {wanted.object}, and without one outputs cannot be compared",
        "give one: --golden FILE, made by resumable.save(batch, FILE); or call trainer.golden(batch) when you train",
    )


def _of_training(checkpoint: Checkpoint, name: str) -> Given | None:
    record = checkpoint.manifest.objects.get(GOLDEN)
    if record is None or not is_golden(GOLDEN, record):
        return None
    tree = checkpoint.tree(GOLDEN)
    try:
        golden = Golden.from_tree(tree)
    except ValueError as error:
        raise CorruptCheckpointError(
            f"{checkpoint.name}: {GOLDEN}: {quoted(error)}",
            "export another checkpoint: `resumable verify` tells which are good",
        ) from error
    manifest = checkpoint.manifest
    there = {"torch": manifest.versions.get("torch"), **manifest.environment}
    return Given(golden, "trainer", there, golden) if tree["model"] == name else None


def _here() -> dict[str, Any]:
    return {"torch": str(torch.__version__), **environment()}


def with_outputs(known: Given, found: Stored, wanted: Wanted) -> tuple[Given, nn.Module]:
    """The model with the checkpoint's values, and what the live one gave: in training, or else here.

    `ExportError` where the model that was built gives something else than the one that was trained, and where what it
    gives proves nothing.
    """
    assert wanted.model is not None
    model = build(wanted.model)
    fill(model, found)
    if not known.golden.outputs:
        known = dataclasses.replace(known, golden=outputs_of(model, known.golden))
    refuse_nothing(known, found)  # before the next, which two models that give nothing pass
    if known.live is not None:
        _refuse_another(outputs_of(model, known.live), known.live, wanted)
    return known, model


def refuse_nothing(known: Given, found: Stored) -> None:
    """`ExportError` where the golden outputs hold no finite number, so that any model would pass."""
    nothing = nothing_in(known.golden.outputs)
    if nothing is None:
        return
    hint = "give another input, or look at the checkpoint's weights"
    if known.made_by == "trainer":
        hint = "export a checkpoint from before the model gave none, or give another input: --golden FILE with --model"
    raise ExportError(
        f"{found.source.checkpoint}: {nothing} in the golden outputs, so that any model would pass for this one", hint
    )


def _refuse_another(here: Golden, live: Golden, wanted: Wanted) -> None:
    what = f"{wanted.model} builds another model than the one that was trained"
    try:
        compared = compare(of_tensors(here.outputs), of_tensors(live.outputs))
    except ValueError as error:
        raise ExportError(f"{what}: {error}", _SAME) from error
    # What the user allows a runtime is no leave for another model; another machine is, for its last bits.
    if compared.absolute > default_tolerance(map(dtype_of, live.outputs)) and not compared.relative <= SAME_RELATIVE:
        raise ExportError(
            f"{what}: with the same weights its outputs for the golden input differ by {compared.absolute:.3g}", _SAME
        )


def upcast(model: nn.Module, known: Given) -> tuple[Given, float]:
    """The golden input in float32 with the upcast model's outputs, and how far the live one's are from these."""
    inputs = tuple(each.float() if each.dtype is torch.bfloat16 else each for each in known.golden.inputs)
    here = outputs_of(model, dataclasses.replace(known.golden, inputs=inputs, outputs=()))
    pairs = zip(known.golden.outputs, here.outputs, strict=True)
    compared = compare(of_tensors(here.outputs), of_tensors([live.to(other.dtype) for live, other in pairs]))
    return Given(here, "export", _here()), compared.absolute


def written(
    folder: Path, known: Given, wanted: Wanted, *, inputs: Sequence[str | None], outputs: Sequence[str | None]
) -> Known:
    """Write the golden input and outputs, and say where they are; the names are those that the program has for them."""
    golden = known.golden
    if len(inputs) != len(golden.inputs) or len(outputs) != len(golden.outputs):
        raise ExportError(
            f"the program takes {len(inputs)} inputs and gives {len(outputs)} outputs, the model takes "
            f"{len(golden.inputs)} and gives {len(golden.outputs)}",
            "leave out inputs that the model does not use, and outputs that are not tensors",
        )
    tensors = {f"input.{n}": each for n, each in enumerate(golden.inputs)}
    tensors |= {f"output.{n}": each for n, each in enumerate(golden.outputs)}
    weights = [safetensors.Weight(key, dtype_of(each), tuple(each.shape)) for key, each in tensors.items()]
    LocalStorage(folder).write(GOLDEN_FILE, safetensors.Streamed(weights, tensors.__getitem__, {}, {}))
    return Known(
        file=GOLDEN_FILE,
        made_by=known.made_by,
        batch_size=next((each.shape[0] for each in golden.inputs if each.ndim), 0),
        dynamic_batch=wanted.batch == "dynamic",
        inputs=_ports("input", golden.inputs, inputs, golden.arguments),
        outputs=_ports("output", golden.outputs, outputs, None),
        environment=dict(known.environment),
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
    """The dtype's own name, such as `float32`."""
    return str(tensor.dtype).removeprefix("torch.")
