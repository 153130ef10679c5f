"""`python -m tests.faults` measures the README's table anew and prints it; exit code 1 if resumable lost anything."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
import warnings

import torch

from tests.faults.experiments import lacking
from tests.faults.forks import Forks
from tests.faults.subjects import RESUMABLE
from tests.faults.table import all_columns, markdown
from tests.harness.folders import quick_folder


def main() -> int:
    missing = lacking("strace", "fusermount3", "mount")
    if missing:
        print(f"the fault laboratory needs {missing}", file=sys.stderr)
        return 2
    logging.disable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    started = time.monotonic()
    with quick_folder() as folder, Forks() as forks:
        columns = all_columns(forks, folder, lambda line: print(line, file=sys.stderr))
    print(markdown(columns))
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    print(f"\nMeasured in {time.monotonic() - started:.0f} s on {machine}.")
    return int(any(any(tally.bad) for tally in columns[RESUMABLE.name].values()))


if __name__ == "__main__":
    sys.exit(main())
