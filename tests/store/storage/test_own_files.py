"""The names of temporary files and probes: those of the format, and each of them new."""

from __future__ import annotations

import re

import pytest

from resumable.store.layout import is_own_name, parse_attempt
from resumable.store.storage.own_files import is_temporary, probe_path, temporary_name


def test_a_temporary_file_has_a_name_of_its_own_that_every_storage_recognizes() -> None:
    first, second = temporary_name(), temporary_name()
    assert first != second
    assert is_temporary(first)
    assert is_temporary(second)
    assert temporary_name("0123456789abcdef") == ".tmp-0123456789abcdef"


@pytest.mark.parametrize(
    "foreign", [".tmp-mine", ".tmp-", ".tmp-0123456789abcde", ".tmp-0123456789ABCDEF", "tmp-0123456789abcdef", ""]
)
def test_a_foreign_name_is_not_a_temporary_one(foreign: str) -> None:
    assert not is_temporary(foreign)


def test_a_probe_is_none_of_the_names_of_a_run() -> None:
    folder, _, name = probe_path().rpartition("/")
    assert folder == "attempts"
    assert re.fullmatch(r"\.probe-[0-9a-f]{16}", name)
    assert parse_attempt(name) is None
    assert not is_own_name(name)
    assert probe_path() != probe_path()
