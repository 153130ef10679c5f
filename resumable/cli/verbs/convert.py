"""`resumable convert`: a file of torch.save becomes a file that can be read without trust; decides nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from resumable.cli.options import Json, StorageOptions
from resumable.cli.terminal import count, meanwhile, print_json, say
from resumable.utils.events import size
from resumable.utils.location import location


def convert(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file of torch.save.", show_default=False)],
    to: Annotated[str, typer.Argument(metavar="TO", help="The new file, usually *.safetensors.", show_default=False)],
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Write the tensors and plain values of a torch.save file into a safetensors file.

    Both are paths or fsspec URLs. Nothing that is in FILE is run: it is read by torch.load with weights_only=True, and
    refused, with the name of it, if there is anything else in it. TO is replaced when the new file is complete.

    --json: {"file", "to", "tensors", "elements", "size_bytes"}.
    """
    from resumable import convert as work

    source, goal = location(file), location(to)
    with meanwhile(f"converting {source}"):
        written = work.convert(file, to, storage_options=storage_options)
    if json:
        print_json({"file": source, "to": goal, **vars(written)})
    else:
        numbers = (
            f"{count(written.tensors, 'tensor')}, {count(written.elements, 'element')}, {size(written.size_bytes)}"
        )
        say(("converted ", "green"), f"{source} -> {goal}: {numbers}")
