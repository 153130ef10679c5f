from __future__ import annotations

import json
import math
import re

import pytest

from resumable.cli.terminal import Column, count, print_json, print_line, print_table

COLUMNS = (Column("step", "right"), Column("metrics", wrap=True, drop=1), Column("attempt", drop=2))
ROWS = (("5", "loss=0.25", "1"), ("10000", "loss=0.5", "2"))


def test_in_a_pipe_columns_are_aligned_and_lines_end_where_their_text_does(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, ROWS)
    assert capsys.readouterr().out.splitlines() == [
        " step  metrics    attempt",
        "    5  loss=0.25  1",
        "10000  loss=0.5   2",
    ]


@pytest.mark.parametrize(("width", "shown"), [(80, ["step", "metrics", "attempt"]), (20, ["step", "metrics"])])
def test_a_narrow_terminal_loses_the_columns_that_matter_least(
    width: int, shown: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(COLUMNS, ROWS)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert lines[0].split() == shown
    assert max(map(len, lines)) <= width


def test_numbers_that_json_lacks_become_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [math.inf, -math.inf], "c": 1.5})
    assert json.loads(capsys.readouterr().out) == {"a": "nan", "b": ["inf", "-inf"], "c": 1.5}


def test_one_is_no_plural() -> None:
    assert [count(n, "step") for n in (0, 1, 1000)] == ["0 steps", "1 step", "1,000 steps"]


def test_escape_sequences_in_what_is_shown_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("a\x1b[2Jb", ("\x9bc", "red"))
    print_table((Column("x"),), [["d\x1b]0;e"]])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "a\\x1b[2Jb" in shown


def test_text_that_looks_like_markup_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("[red]a[/red] :smile:")
    print_table((Column("x"),), [["[bold]b"]])
    assert capsys.readouterr().out == "[red]a[/red] :smile:\nx\n[bold]b\n"
