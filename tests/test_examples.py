"""The examples, drilled as a user would drill them: real programs, killed and rerun, that end bit-exact.

No launch logs a WARN or CHANGED line: none of them forgets anything, and none is changed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.harness.alarms import warnings_in
from tests.harness.python import EXAMPLES_IMPORT, warm_python

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
DRILLED: dict[str, list[str]] = {
    "char_gpt.py": ["--steps", "20", "--width", "32"],
    "gan.py": [],
    "huggingface_text.py": [],
    "lightning_digits.py": [],
    "ppo_cartpole.py": [],
}


def run(scratch: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository as on a terminal of one core; whatever is left over lies in `scratch`."""
    return subprocess.run(
        [python(), *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(scratch), "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
    )


def python() -> str:
    """One that has imported what takes seconds: each drill starts it five times, and what it drills as often."""
    return warm_python(*EXAMPLES_IMPORT)


def is_bit_exact(ended: subprocess.CompletedProcess[str], *, kills: int) -> None:
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "bit-exact" in ended.stdout
    assert "kills landed" not in said, "a kill came after the end"
    assert said.count("to be killed") == kills
    assert "RESUME " in said
    assert warnings_in(said) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", DRILLED)
def test_an_example_survives_a_drill(tmp_path: Path, example: str) -> None:
    """What an example warns of, its reader would see."""
    drill = ["-m", "resumable", "drill", "--kills", "3", "--seed", "3"]
    strict = {} if example.startswith(("lightning", "huggingface")) else {"PYTHONWARNINGS": "error"}
    saves = {"RESUMABLE_EVERY__STEPS": "4"} if example == "char_gpt.py" else {}  # the default is above its 20 steps
    ended = run(tmp_path, *drill, "--", python(), f"examples/{example}", *DRILLED[example], **strict, **saves)
    is_bit_exact(ended, kills=3)
    assert not list(tmp_path.glob("resumable-*")), "a drill that went well leaves nothing"


@pytest.mark.timeout(300)
def test_crash_and_resume_drills_the_digits(tmp_path: Path) -> None:
    is_bit_exact(run(tmp_path, "examples/crash_and_resume.py", PYTHONWARNINGS="error"), kills=5)


@pytest.mark.timeout(300)
def test_deploy_digits_crashes_resumes_and_proves_three_exports(tmp_path: Path) -> None:
    ended = run(tmp_path, "examples/deploy_digits.py", str(tmp_path / "deploy"))
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "training ended with -9 (killed)\ntraining ended with 0\n" in ended.stdout
    assert "RESUME " in ended.stderr
    assert warnings_in(said) == []
    grades = [
        line.split(":")[0] for line in ended.stdout.splitlines() if "bit-identical:" in line or "tolerance:" in line
    ]
    assert grades == ["weights bit-identical", "outputs bit-identical", "outputs within the tolerance"], said
    assert (tmp_path / "deploy" / "predictions.png").read_bytes().startswith(b"\x89PNG")


def test_every_example_is_run() -> None:
    others = {"digits.py", "crash_and_resume.py", "deploy_digits.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*DRILLED, *others}


def test_the_first_example_is_short() -> None:
    assert len((EXAMPLES / "digits.py").read_text("utf-8").splitlines()) <= 60
