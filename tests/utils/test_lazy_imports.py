"""The names at the front doors: where the import behind one fails, the error says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import resumable
import resumable.export

ROOT = Path(resumable.__file__).parent.parent

IMPORT = """
import traceback
try:
    from {package} import {name}
except BaseException as error:
    print(type(error).__name__, "|", error)
    print(type(error.__cause__).__name__, "|", error.__cause__)
    print(traceback.extract_tb(error.__cause__.__traceback__)[-1].filename)
"""


@pytest.mark.parametrize(
    "broken", ["import os; os.O_NO_SUCH_FLAG", "from os import no_such_function", "import no_such_module"]
)
@pytest.mark.parametrize(("package", "name"), [("resumable", "Trainer"), ("resumable.export", "export")])
def test_the_reason_is_kept_where_an_import_fails(tmp_path: Path, package: str, name: str, broken: str) -> None:
    (tmp_path / "torch.py").write_text(broken)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    script = IMPORT.format(package=package, name=name)
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    shown, cause, file = ended.stdout.splitlines()
    assert shown.startswith(f"ImportError | {package}.{name}: ")
    assert "no_such" in cause.lower()
    assert cause.partition(" | ")[2] in shown
    assert file == str(tmp_path / "torch.py")


@pytest.mark.parametrize("package", [resumable, resumable.export])
def test_a_name_that_there_is_not_is_no_failed_import(package: object) -> None:
    assert not hasattr(package, "NoSuchName")
    with pytest.raises(AttributeError, match=r"module 'resumable.*' has no attribute 'NoSuchName'"):
        package.NoSuchName  # type: ignore[attr-defined] # noqa: B018
