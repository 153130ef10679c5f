"""`resumable diff`: compare two checkpoints bit by bit."""

from __future__ import annotations

from typing import Annotated

import typer

from resumable.cli.checkpoint_diff import diff_checkpoints
from resumable.cli.diff_output import diff_document, print_diff
from resumable.cli.options import Json, StorageOptions, open_checkpoints
from resumable.cli.terminal import print_json, print_line
from resumable.utils.location import location

CHECKPOINT = "RUN (its latest), RUN@latest, RUN@best, RUN@finite, RUN@STEP or a checkpoint's folder."


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=CHECKPOINT, show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The checkpoint to compare it with.", show_default=False)],
    most: Annotated[int, typer.Option(min=0, metavar="N", help="Show at most N differences.")] = 20,
    json: Json = False,
    storage_options: StorageOptions = "{}",
) -> None:
    """Compare two checkpoints bit by bit.

    Compares step, epoch, metrics, objects, random number generators and position. Tensors are compared by dtype, shape,
    memory format and digest, and read only where they differ. Checkpoints of as many ranks are compared rank by rank.
    Exits with 1 on a difference.

    Ignores who wrote a checkpoint: run id, attempt, lineage, time, reason, folder, host. Ignores golden inputs, too:
    their outputs follow from the model. A difference in config, versions or environment is only noted.

    --json: {"a", "b", "exact", "tensors", "values", "count", "differences": [{"path", "a", "b", "max_abs",
    "elements", "of"}], "notes": [{"path", "a", "b"}]}; at most N `differences`, `count` of them in all; `max_abs`,
    `elements` and `of` are null unless two tensors of one shape are compared.
    """
    left, right = open_checkpoints([a, b], storage_options)
    result = diff_checkpoints(left, right)
    if json:
        print_json({"a": left.name, "b": right.name, **diff_document(result, most=most)})
    else:
        for letter, target, checkpoint in (("A", a, left), ("B", b, right)):
            print_line((f"{letter}  ", "bold"), f"{location(target)}  ", (checkpoint.name, "dim"))
        print_diff(result, most=most)
    if not result.exact:
        raise typer.Exit(1)
