"""The command line: verbs over runs on any storage, without the user's code. Imports a verb only when it is called.

To add a verb, write `verbs/NAME.py` with a function `NAME`, and add a row to `VERBS`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from resumable.errors import ResumableError

if TYPE_CHECKING:
    import typer

# Allocations before the first garbage collection. Imports make about ten thousand objects that all stay. To scan them
# again and again, from 700 on by default, takes a twentieth of the time of `ls`; to scan them at exit takes an eighth.
GARBAGE_AFTER = 100_000

# Each verb with its settings for click. It is the function of its name in the module of its name, imported on use:
# so `ls` starts at once.
VERBS: Mapping[str, Mapping[str, bool]] = {
    "ls": {},
    "show": {},
    "verify": {},
    "diff": {},
    "prune": {},
    "pin": {},
    "rewind": {},
    "branch": {},
    "export": {},
    "convert": {},
    "drill": {"allow_interspersed_args": False},
}


def app(arguments: Sequence[str] | None = None) -> None:
    """Run the command line on `arguments`, by default `sys.argv`; raises `SystemExit` or a `ResumableError`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command_line(arguments[:1] if arguments and arguments[0] in VERBS else VERBS)(arguments)


def command_line(verbs: Collection[str] = tuple(VERBS)) -> typer.Typer:
    """Build the command line with these verbs."""
    import typer

    from resumable.cli.options import without_verb
    from resumable.cli.usage_errors import VerbGroup

    made = typer.Typer(
        cls=VerbGroup,
        name="resumable",
        help="Inspect, compare, prune and rewind the checkpoints of training runs, prove that your training survives "
        "a kill, and export models with a proof that they are the same.\n\n"
        "RUN is a folder or any fsspec URL. RUN@latest, RUN@best, RUN@finite and RUN@STEP name one of its checkpoints; "
        "@finite is the newest in which no metric has become NaN or infinite.\n\n"
        "Exit codes: 0 success, 1 a problem was found, 2 wrong usage.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(without_verb)  # or typer would turn a single verb into the whole command line
    for verb in verbs:
        function = getattr(importlib.import_module(f"resumable.cli.verbs.{verb}"), verb)
        made.command(verb, context_settings=dict(VERBS[verb]))(function)
    return made


def main() -> NoReturn:
    """Run the command line on `sys.argv` and exit with its code; a `ResumableError` becomes two lines on stderr."""
    gc.set_threshold(GARBAGE_AFTER)
    atexit.register(gc.freeze)  # the interpreter does not scan frozen objects at exit
    try:
        app()
    except ResumableError as error:
        from resumable.cli.terminal import print_error

        print_error(error)
        sys.exit(1)
    sys.exit(0)
