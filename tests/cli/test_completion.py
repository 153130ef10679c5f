"""The completion of the command line, in a real bash with the script that the command line prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resumable.cli import VERBS

# What bash does at a press of the tab key: it calls the function that `complete` names, with the name of the program.
# The words of the command line are in COMP_WORDS.
SCRIPT = """
eval "$(_RESUMABLE_COMPLETE=source_bash resumable)"
set -- $(complete -p resumable)
while [ "$1" != -F ]; do shift; done
COMP_WORDS=(resumable "${WORDS[@]}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
"$2" resumable
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search path with a program `resumable` for which importing torch is an error."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "resumable"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.modules['torch'] = None\nfrom resumable.cli import main\nmain()\n"
    )
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def completions(path: str, words: str) -> list[str]:
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    ended = subprocess.run(
        ["bash", "-ec", f"WORDS=({words}){SCRIPT}"], env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
    return ended.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("''", [*VERBS]),
        ("ver", ["verify"]),
        ("show --", ["--json", "--storage-options", "--help"]),
        ("prune runs/a --keep-l", ["--keep-last"]),
        ("rewind runs/a --n", ["--next-epoch"]),
    ],
)
def test_bash_completes_verbs_and_options(path: str, words: str, expected: list[str]) -> None:
    assert completions(path, words) == expected
