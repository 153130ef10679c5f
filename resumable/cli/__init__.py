"""The command line: verbs over runs anywhere, without the user's code; knows the verbs by name only."""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from resumable.errors import ResumableError

if TYPE_CHECKING:
    import typer

# New objects before garbage is looked for. Importing makes some ten thousand that all stay: to look at them again and
# again, as Python does from 700 on, is a twentieth of the time that `ls` takes; to do so at its end an eighth.
GARBAGE_AFTER = 100_000

# Each verb is the function of its name in the module of its name, imported when it is asked for: `ls` starts at once.
VERBS: Mapping[str, Mapping[str, Any]] = {
    "ls": {},
    "show": {},
    "verify": {},
    "diff": {},
    "prune": {},
    "pin": {},
    "export": {},
    "convert": {},
    "drill": {"context_settings": {"allow_interspersed_args": False}},
}


def app(arguments: Sequence[str] | None = None) -> None:
    """Run the command line on `arguments`, or on `sys.argv`; leaves with `SystemExit`, or with a `ResumableError`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command_line(arguments[:1] if arguments and arguments[0] in VERBS else VERBS)(arguments)


def command_line(verbs: Collection[str] = tuple(VERBS)) -> typer.Typer:
    """The command line with these verbs."""
    import typer

    from resumable.cli.usage_errors import Verbs

    made = typer.Typer(
        cls=Verbs,
        name="resumable",
        help="Look at the checkpoints of training runs, compare them, prove that yours survives a kill, and carry "
        "models to where they serve, with the proof that they are the same.\n\n"
        "RUN is a folder or any fsspec URL. RUN@latest, RUN@best, RUN@finite and RUN@STEP name one checkpoint of it; "
        "@finite is the newest in which no metric has become NaN or infinite.\n\n"
        "Exit codes: 0 fine, 1 a problem was found, 2 usage.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_no_verb)  # or typer would take a verb that is alone for the whole
    for verb in verbs:
        made.command(verb, **VERBS[verb])(getattr(importlib.import_module(f"resumable.cli.verbs.{verb}"), verb))
    return made


def _no_verb() -> None:
    pass


def main() -> NoReturn:
    """Run the command line on `sys.argv` and leave with its exit code; known errors become two lines on stderr."""
    gc.set_threshold(GARBAGE_AFTER)
    atexit.register(gc.freeze)  # what is frozen the interpreter does not search before it ends
    try:
        app()
    except ResumableError as error:
        from resumable.cli.terminal import print_error

        print_error(error)
        sys.exit(1)
    sys.exit(0)
