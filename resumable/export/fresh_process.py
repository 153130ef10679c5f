"""Measure an artifact in a fresh process that has seen nothing of the training.

`python -m resumable.export.fresh_process DIR [MODEL]` is that process. It prints the result as one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resumable.errors import ExportError, ResumableError
from resumable.export.proof.artifact import read_proof
from resumable.export.proof.comparison import OutputComparison
from resumable.export.verifier import Measured, check_artifact, measure


def measure_in_fresh_process(folder: Path, *, published_as: Path, model: str | None = None) -> Measured:
    """Run `measure` in a fresh process, and raise the errors that it found.

    Errors name the folder `published_as`, because `folder` is gone by the time that they are read.
    """
    command = [sys.executable, "-m", "resumable.export.fresh_process", str(folder), *([model] if model else [])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        result = json.loads(ended.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (ended.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ExportError(
            f"{published_as}: the check in a fresh process ended with {ended.returncode}: {last}",
            "it loads the model once more: is there enough memory? If so, the program or the function of --model ends "
            "the process",
        ) from None
    if "error" in result:
        raise ExportError(result["error"].replace(str(folder), str(published_as)), result["hint"])
    outputs = result.pop("outputs")
    return Measured(outputs=OutputComparison(**outputs) if outputs else None, **result)


def _main(arguments: list[str]) -> int:
    folder, model = Path(arguments[0]), arguments[1] if len(arguments) > 1 else None
    # Whatever a model's code prints, until the very end of the process, goes to stderr: stdout is for the one line.
    with os.fdopen(os.dup(1), "w") as stdout:
        os.dup2(2, 1)
        result = _result(folder, model)
        print(json.dumps(result), file=stdout)
    return 1 if "error" in result else 0


def _result(folder: Path, model: str | None) -> dict[str, Any]:
    try:
        proof = read_proof(folder)
        check_artifact(folder, proof)
        return asdict(measure(folder, proof, model=model))
    except ResumableError as error:
        return {"error": error.message, "hint": error.hint}


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
