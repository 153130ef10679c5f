"""`resumable export`: export a model from a checkpoint, with a proof that it is the same model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from resumable.cli.options import Json, StorageOptions, Target
from resumable.cli.proof_output import print_proof, prints_to_stderr
from resumable.cli.terminal import print_json, spinner
from resumable.export.request import Batch, Cast
from resumable.utils.location import location
from resumable.weights.proof import Format

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _bytes(text: str | int) -> int:
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if not match:
        raise typer.BadParameter(f"expected a size such as 5GB, 500MB or 2GiB, found {text}")
    number, unit, binary = match.groups()
    factor = 2 ** (10 * "KMGT".index(unit.upper()) + 10) if binary and unit else _UNITS[unit.upper()]
    return int(float(number) * factor)


def export(
    target: Target,
    to: Annotated[str, typer.Option(metavar="DIR", help="The new folder, on this machine.", show_default=False)],
    format: Annotated[Format, typer.Option(help="Weights (safetensors), or a program.")] = "safetensors",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="The function that builds the model; it is imported and called. Required for programs.",
            show_default=False,
        ),
    ] = None,
    golden: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A known input, written by resumable.save(batch, FILE). Default: that of trainer.golden(batch).",
            show_default=False,
        ),
    ] = None,
    object: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The module of the checkpoint.", show_default="the only one, or model"),
    ] = None,
    dtype: Annotated[
        Cast | None,
        typer.Option(help="Cast floating-point weights; only for safetensors.", show_default="as trained"),
    ] = None,
    max_shard: Annotated[
        Any,
        typer.Option(
            metavar="SIZE",
            parser=_bytes,
            help="The largest size of one file, such as 5GB; only for safetensors.",
            show_default="one file",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="The largest absolute difference of an output that passes.",
            show_default="1e-4; where all outputs are float16 1e-3, bfloat16 1e-2",
        ),
    ] = None,
    batch: Annotated[
        Batch, typer.Option(help="For programs: any batch size, or only that of the golden input.")
    ] = "dynamic",
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Export a model, with a proof that it is the same.

    safetensors in Hugging Face layout need none of your code. The programs pt2 (torch.export), onnx and aoti (compiled
    for this kind of processor) are made from the model that --model builds, in eval mode.

    Before the folder gets its name, a fresh process loads the result, runs it on the known input and compares its
    outputs with the live model's. If they differ by more than the tolerance, nothing is published, and the exit code
    is 1. `resumable verify DIR` repeats the proof on the machine that serves the model.

    --json: the proof, as PROOF.md describes it, and beside it "folder".
    """
    from resumable.export import export as export_model

    with spinner(f"exporting {location(target)} as {format}"), prints_to_stderr():
        made = export_model(
            target,
            to,
            format=format,
            object=object,
            model=model,
            golden=None if golden is None else _load_batch(golden, storage_options),
            dtype=dtype,
            max_shard_bytes=max_shard,
            tolerance=tolerance,
            batch=batch,
            storage_options=storage_options,
        )
    if json:
        print_json({"folder": str(made.folder), **made.proof.model_dump(mode="json")})
    else:
        print_proof(made.folder, made.proof)


def _load_batch(path: str, storage_options: Mapping[str, object]) -> Any:
    from resumable.serialization import load

    return load(path, storage_options=storage_options if "://" in path else None)
