"""The parts of messages: quoted text, short lists, the nearest names."""

from __future__ import annotations

import pytest

from resumable.utils.messages import MAX_QUOTED_CHARACTERS, listed, nearest, printable, quoted


@pytest.mark.parametrize(
    ("items", "shown"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a, b"),
        (["a", "b", "c"], "a, b and 1 more"),
        (iter("abcdef"), "a, b and 4 more"),
    ],
)
def test_a_list_shows_its_first_items_and_counts_the_rest(items: list[str], shown: str) -> None:
    assert listed(items, most=2) == shown


def test_a_list_may_have_another_separator() -> None:
    assert listed("abc", most=2, separator=",") == "a,b and 1 more"


def test_only_names_that_resemble_the_word_are_near() -> None:
    names = ["save", "safe", "keep"]
    assert nearest("sav", names, cutoff=0.6) == ["save"]
    assert nearest("sav", names, cutoff=0.5, most=3) == ["save", "safe"]
    assert nearest("zzz", names, cutoff=0.6) == []
    assert nearest("zzz", names, cutoff=0) != []
    assert nearest("zzz", [], cutoff=0) == []


def test_quoted_text_is_shortened_and_cannot_steer_a_terminal() -> None:
    assert quoted("\x1b[31mred\u202e") == r"\x1b[31mred\u202e"
    assert quoted(ValueError("no")) == "no"
    assert quoted("a" * 1000) == "a" * (MAX_QUOTED_CHARACTERS - 3) + "..."
    assert quoted("a" * MAX_QUOTED_CHARACTERS) == "a" * MAX_QUOTED_CHARACTERS


def test_printable_text_stays_as_it_is() -> None:
    assert printable("häßlich 日本") == "häßlich 日本"
    assert printable("a\nb") == r"a\nb"
