"""`python -m tests.peers` kills the trainings of each framework, and prints what is equal; `--help` says with what."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from tests.peers.compare import Outcome, compare
from tests.peers.launches import killed, server_for, undisturbed
from tests.peers.programs import MODULES, PROGRAMS, Program
from tests.peers.table import HEAD, details, row

PACKAGES = ("torch", "torchdata", "pytorch-lightning", "transformers", "accelerate", "numpy", "resumable-training")


def measure(programs: Sequence[Program], folder: Path) -> Iterator[tuple[Program, Outcome]]:
    """Run each program undisturbed and killed, with one fork server for each framework."""
    for framework, own in groupby(programs, lambda program: program.framework):
        some = list(own)
        with server_for(some[0]) as server:
            for number, program in enumerate(some):
                place = folder / framework / str(number)
                whole = undisturbed(server, program, place / "whole")
                yield program, compare(whole, killed(server, program, place / "killed"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument("--only", action="append", metavar="FRAMEWORK", choices=list(MODULES), help="one, or several")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure, with digests and versions")
    options = parser.parse_args(arguments)
    programs = [each for each in PROGRAMS if not options.only or each.framework in options.only]
    versions = {name: version(name) for name in PACKAGES}
    found = []
    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        for program, outcome in measure(programs, Path(folder)):
            print(row(program, outcome), flush=True)
            found.append((program, outcome))
    print("", *(details(program, outcome) for program, outcome in found), sep="\n")
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    if options.json:
        rows = [vars(program) | vars(outcome) for program, outcome in found]
        options.json.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")
    return 0 if all(outcome.exact for program, outcome in found if program.function == "resumable") else 1


if __name__ == "__main__":
    sys.exit(main())
