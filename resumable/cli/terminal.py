"""Print tables that fit a terminal, plain text in a pipe, and JSON for programs. Independent of runs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO, TypeAlias

from resumable.errors import ResumableError
from resumable.utils.messages import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Styled: TypeAlias = str | tuple[str, str]
"""Text, or text and its style on a terminal."""


@dataclass(frozen=True)
class Column:
    """One column of a table. A narrow terminal leaves out those with the highest `drop` first, never those with 0."""

    title: str
    justify: Literal["left", "right"] = "left"
    drop: int = 0
    wrap: bool = False


def print_line(*parts: Styled) -> None:
    """Print one line of the results on stdout. A terminal does not wrap it, so it can be copied and searched."""
    _print(parts, sys.stdout)


def print_status(*parts: Styled) -> None:
    """Print one line about progress or failure on stderr."""
    _print(parts, sys.stderr)


def _print(parts: Sequence[Styled], stream: TextIO) -> None:
    console = _console(stream)
    if console is None:
        print("".join(map(_plain_text, parts)).expandtabs(), file=stream, flush=True)
    else:
        console.print(*map(_text, parts), sep="", soft_wrap=True)


def spinner(text: str) -> AbstractContextManager[object]:
    """Show a spinner with `text` on stderr while the context lasts, if that is a terminal."""
    console = _console(sys.stderr)
    return nullcontext() if console is None else console.status(text)


def _console(stream: TextIO) -> Console | None:
    """Return a console for the terminal behind `stream`; None for a pipe, which does not need to import rich."""
    if not stream.isatty() and not os.environ.keys() & _FORCES_TERMINAL:
        return None
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else None


# With one of these variables set, rich may treat a pipe as a terminal.
_FORCES_TERMINAL = {"FORCE_COLOR", "TTY_COMPATIBLE"}


def _text(part: Styled) -> Text:
    from rich.text import Text

    return Text(_plain_text(part), "" if isinstance(part, str) else part[1])


def _plain_text(part: Styled) -> str:
    return _visible(part if isinstance(part, str) else part[0])


def count(number: int, word: str) -> str:
    """Return `1 checkpoint` or `2 checkpoints`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _visible(text: str) -> str:
    # Text of a manifest or file name must not control the terminal: no escape sequences, no right-to-left marks.
    return text if text.isprintable() else "".join(c if c in "\n\t" else printable(c) for c in text)


def print_error(error: ResumableError) -> None:
    """Print `error: ...` and `hint: ...` on stderr."""
    print_status(("error: ", "bold red"), (error.message, "red"))
    if error.hint:
        print_status(("hint: ", "bold"), error.hint)


def print_json(value: object) -> None:
    """Print one JSON document on stdout; numbers that JSON lacks become the strings "nan", "inf" and "-inf"."""
    sys.stdout.write(_json(value) + "\n")


def _json(value: object) -> str:
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    # A character that is not printable is inside a string, where its escape means the same.
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Styled]]) -> None:
    """Print a table: in a terminal the columns that fit its width, in a pipe all columns, aligned with spaces."""
    console = _console(sys.stdout)
    if console is None:
        for line in _aligned(columns, [list(map(_plain_text, row)) for row in rows]):
            print(line)
    else:
        texts = [list(map(_text, row)) for row in rows]
        shown = _fitting(columns, texts, console.width)
        console.print(_rich_table([columns[i] for i in shown], [[row[i] for i in shown] for row in texts]))


def _rich_table(columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify=column.justify, no_wrap=not column.wrap, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> list[int]:
    """Return the indices of the columns to show: droppable ones are left out until the rest fits into `width`."""
    shown = list(range(len(columns)))
    widths = [max([len(column.title), *(row[i].cell_len for row in rows)]) for i, column in enumerate(columns)]
    least = [min(widths[i], 40) if column.wrap else widths[i] for i, column in enumerate(columns)]
    for i in sorted(shown, key=lambda i: -columns[i].drop):
        if sum(least[j] + 2 for j in shown) <= width + 2 or not columns[i].drop:
            break
        shown.remove(i)
    return shown


def _aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [[column.title for column in columns], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if column.justify == "right" else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    ]
