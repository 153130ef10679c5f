"""`python -m tests.bench` measures resumable, its peers and the machine, and prints tables; `--help` says with what."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench import buffers, costs, firsts, frozen, many, memory, others, saving, with_start
from tests.bench.figures import Figure, Setting, taken
from tests.bench.machine import facts
from tests.bench.report import save_json, show_figure, show_targets, verdicts
from tests.bench.rooms import RoomFailed, in_a_room
from tests.bench.states import SHAPES

FIGURES: Sequence[Figure] = [
    *saving.FIGURES,
    *costs.FIGURES,
    *memory.FIGURES,
    *frozen.FIGURES,
    *buffers.FIGURES,
    *many.FIGURES,
    *firsts.FIGURES,
    *with_start.FIGURES,
    *others.FIGURES,
]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    parent = Path(options.folder or tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    known = facts(folder, threads=options.threads)
    results = []
    try:
        for size in options.size:
            for figure in _chosen(options.only):
                if figure.fits(size, options.size):
                    results.append(_measured(figure, size, options, folder))
                    show_figure(console, f"{figure.name} {size}: {figure.says}", results[-1])
    except KeyboardInterrupt:
        console.print("interrupted: what there is so far follows")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    judged = verdicts(results)
    show_targets(console, judged)
    if options.json:
        save_json(options.json, known, results, judged)
    return 1 if any("failed" in result and "not there yet" not in result["failed"] for result in results) else 0


def _measured(figure: Figure, size: str, options: argparse.Namespace, folder: Path) -> Mapping[str, Any]:
    room = folder / f"{figure.name}-{size}"
    room.mkdir()
    started = time.monotonic()
    try:
        outcome = in_a_room(taken, figure.measure, Setting(size, options.pairs, room), threads=options.threads)
    except RoomFailed as failure:
        outcome = {"failed": str(failure), "samples": {}, "absent": {}, "notes": [], "state_bytes": 0}
    shutil.rmtree(room, ignore_errors=True)
    return {
        "figure": figure.name,
        "says": figure.says,
        "size": size,
        "taken_seconds": round(time.monotonic() - started, 1),
        **outcome,
    }


def _chosen(only: Sequence[str]) -> list[Figure]:
    return [figure for figure in FIGURES if not only or any(figure.name.startswith(name) for name in only)]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = ", ".join(figure.name for figure in FIGURES)
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="120MB and 2 pairs: does it run?")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=f"how it begins; of {names}")
    parser.add_argument("--size", action="append", choices=list(SHAPES), help="default: 120MB and 1.5GB")
    parser.add_argument("--pairs", type=int, help="rounds in which each takes part once; default 10")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the training; default: all cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample, and the machine")
    parser.add_argument("--folder", metavar="DIR", help="where to write; default: the temporary folder")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.only if not any(figure.name.startswith(name) for figure in FIGURES)]
    if unknown:
        parser.error(f"--only {unknown[0]}: there is {names}")
    options.size = options.size or (["120MB"] if options.quick else ["120MB", "1.5GB"])
    options.pairs = options.pairs or (2 if options.quick else 10)
    return options


if __name__ == "__main__":
    sys.exit(main())
