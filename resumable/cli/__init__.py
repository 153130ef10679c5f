"""The command line: verbs over runs anywhere, without the user's code; knows the verbs by name only."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from resumable.cli import diff, drill, ls, pin, prune, show, verify
from resumable.cli.terminal import print_error
from resumable.errors import ResumableError

app = typer.Typer(
    name="resumable",
    help="Look at the checkpoints of training runs, compare them, and prove that yours survives being killed.\n\n"
    "RUN is a folder or any fsspec URL. RUN@latest, RUN@best and RUN@STEP name one checkpoint of it.\n\n"
    "Exit codes: 0 fine, 1 a problem was found, 2 usage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ls")(ls.ls)
app.command("show")(show.show)
app.command("verify")(verify.verify)
app.command("diff")(diff.diff)
app.command("prune")(prune.prune)
app.command("pin")(pin.pin)
app.command("drill", context_settings={"allow_interspersed_args": False})(drill.drill)


def main() -> NoReturn:
    """Run the command line on `sys.argv` and leave with its exit code; known errors become two lines on stderr."""
    try:
        app()
    except ResumableError as error:
        print_error(error)
        sys.exit(1)
    sys.exit(0)
