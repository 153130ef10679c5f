"""`python -m tests.export` measures the README's table anew and prints it."""

from __future__ import annotations

import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.export.table import Cell, markdown, measure


def _told(cells: Iterator[tuple[str, str, Cell]]) -> Iterator[tuple[str, str, Cell]]:
    for name, format, cell in cells:
        print(f"{name}: {format}: {cell}", file=sys.stderr)
        yield name, format, cell


def main() -> None:
    import onnxruntime

    os.environ["OMP_NUM_THREADS"] = "1"  # also of the processes that prove
    torch.set_num_threads(1)
    logging.disable()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        print(markdown(_told(measure(Path(folder)))))
    runtimes = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    machine = f"{os.cpu_count()} cores with {torch.backends.cpu.get_cpu_capability()}, one thread"
    python = platform.python_version()
    print(f"\nMeasured in {time.monotonic() - started:.0f} s on {machine}, Python {python}, {runtimes}.")


if __name__ == "__main__":
    main()
