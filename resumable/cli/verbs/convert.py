"""`resumable convert`: turn a torch.save file into a safetensors file, which needs no trust to read."""

from __future__ import annotations

from typing import Annotated

import typer

from resumable.cli.options import Json, StorageOptions
from resumable.cli.terminal import count, print_json, print_line, spinner
from resumable.utils.events import size
from resumable.utils.location import location


def convert(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file that torch.save wrote.", show_default=False)],
    to: Annotated[str, typer.Argument(metavar="TO", help="The new file, usually *.safetensors.", show_default=False)],
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Convert a torch.save file into a safetensors file.

    Both are paths or fsspec URLs. Tensors and plain values are converted; any other object in FILE is an error that
    names it. No code in FILE is run: torch.load reads it with weights_only=True. An existing TO is replaced when the
    new file is complete.

    --json: {"file", "to", "tensors", "elements", "size_bytes"}.
    """
    from resumable import convert as convert_file

    source, goal = location(file), location(to)
    with spinner(f"converting {source}"):
        written = convert_file.convert(file, to, storage_options=storage_options)
    if json:
        print_json({"file": source, "to": goal, **vars(written)})
    else:
        numbers = (
            f"{count(written.tensors, 'tensor')}, {count(written.elements, 'element')}, {size(written.size_bytes)}"
        )
        print_line(("converted ", "green"), f"{source} -> {goal}: {numbers}")
