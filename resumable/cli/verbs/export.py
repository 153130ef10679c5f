"""`resumable export`: a model from a checkpoint to where it serves, with the proof that it is the same."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from resumable.cli.options import Json, StorageOptions, Target
from resumable.cli.proof_output import no_words_on_stdout, print_proof
from resumable.cli.terminal import meanwhile, print_json
from resumable.export.request import Batch, Cast
from resumable.utils.location import location
from resumable.weights.proof import Format

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _bytes(text: str | int) -> int:
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if not match:
        raise typer.BadParameter(f"{text}: expected a size such as 5GB, 500MB or 2GiB")
    number, unit, binary = match.groups()
    factor = 2 ** (10 * "KMGT".index(unit.upper()) + 10) if binary and unit else _UNITS[unit.upper()]
    return int(float(number) * factor)


def export(
    target: Target,
    to: Annotated[str, typer.Option(metavar="DIR", help="The new folder.", show_default=False)],
    format: Annotated[Format, typer.Option(help="Weights, or a program.")] = "safetensors",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Builds the model; run because you name it. Needed for programs.",
            show_default=False,
        ),
    ] = None,
    golden: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A known input, made by resumable.save(batch, FILE). By default that of trainer.golden(batch).",
            show_default=False,
        ),
    ] = None,
    object: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which module of the checkpoint.", show_default="the only one, or model"),
    ] = None,
    dtype: Annotated[
        Cast | None,
        typer.Option(help="Cast floating-point weights of safetensors.", show_default="as trained"),
    ] = None,
    max_shard: Annotated[
        Any,
        typer.Option(metavar="SIZE", parser=_bytes, help="The most in one file, such as 5GB.", show_default="one file"),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="The largest absolute difference of an output that passes.",
            show_default="1e-4; where outputs are float16 1e-3, bfloat16 1e-2",
        ),
    ] = None,
    batch: Annotated[Batch, typer.Option(help="Of programs: any size, or that of the golden input alone.")] = "dynamic",
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Carry a model to where it serves, with the proof that it is the same.

    safetensors in Hugging Face layout need none of your code. The programs pt2 (torch.export), onnx and aoti (compiled
    for this kind of processor) are made of the model that --model builds, in eval mode. What was made is loaded and run
    in a fresh process on a known input, and its outputs compared with the live model's, before it gets its name. Above
    the tolerance nothing is published, and the exit code is 1. `resumable verify DIR` proves it again where it serves.

    --json: the proof, as PROOF.md describes it, with "folder" beside it.
    """
    from resumable.export import export as carried

    with meanwhile(f"exporting {location(target)} as {format}"), no_words_on_stdout():
        made = carried(
            target,
            to,
            format=format,
            object=object,
            model=model,
            golden=None if golden is None else _loaded(golden, storage_options),
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


def _loaded(path: str, storage_options: Any) -> Any:
    from resumable.serialization import load

    return load(path, storage_options=storage_options if "://" in path else None)
