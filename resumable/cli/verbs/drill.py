"""`resumable drill`: kill the user's own training, rerun it, and compare the results."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from resumable.cli.checkpoint_diff import CheckpointDiff, diff_checkpoints
from resumable.cli.diff_output import diff_document, print_diff
from resumable.cli.document_diff import ValueDifference
from resumable.cli.drill.kill_schedule import plan_kills, step_seconds
from resumable.cli.drill.live_names import name_differences
from resumable.cli.drill.metrics_diff import metrics_differences
from resumable.cli.drill.printed_lines import number_differences
from resumable.cli.drill.runs import DRILLED, REFERENCE, DrillAttempt, DrillRuns, Reference, launch_environment
from resumable.cli.drill.warm_python import WarmPython
from resumable.cli.options import Json
from resumable.cli.terminal import Column, Styled, count, print_json, print_line, print_status, print_table
from resumable.utils.events import duration
from resumable.utils.failpoints import Kill
from resumable.utils.location import scrubbed

MOST, MOST_PRINTED = 10, 3
PRINTED = "a printed line"
COLUMNS = (
    Column("attempt", "right"),
    Column("from step", "right"),
    Column("replayed", "right"),
    Column("killed at", "right"),
    Column("start"),
    Column("where", wrap=True),
)
WHERE = {
    "step": "at a random instant",
    "save.blob": "in a save, before a file",
    "save.manifest": "in a save, before its commit",
    "save.published": "in a save, after its commit",
}
HINTS = (
    "an object was not passed to Trainer(...): pass everything that has a state_dict (scheduler, EMA, scaler, metrics, "
    "generators), and the loop's own variables as a dict",
    "the script itself is not deterministic: `--kills 0` compares two undisturbed runs",
    "nondeterministic kernels: torch.use_deterministic_algorithms(True)",
    "another number of threads: torch.set_num_threads(n), or OMP_NUM_THREADS",
    "an order that depends on hashes, such as that of a set of strings: sorted(...), or PYTHONHASHSEED=0",
)


def drill(
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND", help="After `--`: the command that trains, as you launch it.", show_default=False
        ),
    ],
    kills: Annotated[int, typer.Option(min=0, metavar="N", help="The number of kills.")] = 5,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed that draws steps and instants of the kills.")] = 0,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Keep both runs in this new folder.", show_default=False),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show what the command prints.")] = False,
    json: Json = False,
) -> None:
    """Kill a training, rerun it, compare the results.

    Proves that the result of a training does not depend on being killed and rerun.

    For example: resumable drill --kills 5 -- python train.py --lr 0.1

    Launches the command unchanged, with RESUMABLE_RUN set to a scratch folder. The first run is undisturbed and saves
    only at its start and its end. The second is killed by SIGKILL at random instants and inside saves, and rerun until
    it has finished. It begins with a copy of the first one's first checkpoint, so a script that seeds nothing has
    the same start. If the command trains several runs, each has its own folder, and all are compared.

    Only the runs are in the scratch folder. Every launch writes the command's other files (logs, best.pt) where it
    always does: give it other paths for a drill.

    Compared are the final checkpoints, what trainer.log recorded at each step and epoch, and the variables that are
    live at the end. Printed lines of which only numbers differ are notes, not differences.

    The undisturbed launch and the first one that is killed start as your command does. The others start warm if the
    command is `python SCRIPT.py` or `python -m MODULE` of this interpreter: torch is imported once for all of them.

    Exits with 0 if nothing differs. Otherwise both runs are kept, and their folder is printed.

    --json: {"exact", "seed", "steps", "step_seconds", "runs", "attempts": [{"attempt", "run", "resumed_from_step",
    "steps_replayed", "armed", "point", "killed_at_step", "warm"}], "scratch", and "tensors", "values", "count",
    "differences", "notes" as in `diff`}; `point` and `killed_at_step` are null if no kill landed, `scratch` if nothing
    was kept.
    """
    scratch = _scratch(keep)
    show = _show if not quiet else lambda line: None
    try:
        with WarmPython(command if kills else (), launch_environment({}, {})) as warm:
            runs = DrillRuns(command, scratch, show=show, warm=warm)
            references, attempts = _launch_all(runs, kills=kills, seed=seed)
        result = _join({each.name: _compare(each, runs) for each in references})
        result = replace(result, notes=[*result.notes, *_printed_differently(runs)])
    except BaseException:
        _print_kept(scratch)
        raise
    removed = result.exact and keep is None
    if json:
        print_json(_document(seed, references, attempts, result, None if removed else str(scratch)))
    else:
        _print(attempts, result, kills=kills, references=references)
    if removed:
        shutil.rmtree(scratch)
    else:
        _print_kept(scratch)
    if not result.exact:
        raise typer.Exit(1)


def _launch_all(runs: DrillRuns, *, kills: int, seed: int) -> tuple[list[Reference], list[DrillAttempt]]:
    """Make every launch of the drill, and return the undisturbed runs and the launches of the killed ones."""
    _announce("reference", f"undisturbed: {scrubbed(shlex.join(runs.command))}")
    print_status(("  only the runs are in a scratch folder: every launch writes the command's other files", "dim"))
    references = runs.run_undisturbed()
    _print_steps(references)
    armed = plan_kills(references, count=kills, seed=seed)
    return references, list(runs.run_killed(references, armed, _announce_attempt))


def _scratch(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="resumable-drill-"))
    if keep.exists() and any(keep.iterdir()):
        raise typer.BadParameter(f"expected a new folder, and {keep} is not empty", param_hint="'--keep'")
    keep.mkdir(parents=True, exist_ok=True)
    return keep.resolve()


def _compare(reference: Reference, runs: DrillRuns) -> CheckpointDiff:
    final = runs.final(reference)
    for checkpoint in (reference.final, final):
        checkpoint.verify()
    result = diff_checkpoints(reference.final, final)
    histories = runs.metrics(REFERENCE, reference), runs.metrics(DRILLED, reference)
    beside = [*metrics_differences(*histories), *name_differences(reference.final.notes, final.notes)]
    # The drill itself changes the config.
    notes = [note for note in result.notes if not note.path.startswith("config.")]
    return CheckpointDiff([*result.differences, *beside], result.tensors, result.values, notes)


def _printed_differently(runs: DrillRuns) -> list[ValueDifference]:
    """Return the first printed lines of which only numbers differ, as notes: a time may be among them."""
    pairs = number_differences(runs.printed[REFERENCE], runs.printed[DRILLED])
    notes = [ValueDifference(PRINTED, repr(one), repr(other)) for one, other in pairs[:MOST_PRINTED]]
    if len(pairs) > MOST_PRINTED:
        notes.append(ValueDifference("the number of such lines", str(len(pairs)), "shown are the first"))
    return notes


def _join(results: dict[str, CheckpointDiff]) -> CheckpointDiff:
    """Join the diffs of all runs; if there are several, each path begins with the name of the run."""
    if len(results) == 1:
        return next(iter(results.values()))
    return CheckpointDiff(
        [replace(each, path=f"{name}: {each.path}") for name, result in results.items() for each in result.differences],
        sum(result.tensors for result in results.values()),
        sum(result.values for result in results.values()),
        [replace(note, path=f"{name}: {note.path}") for name, result in results.items() for note in result.notes],
    )


def _document(
    seed: int, references: list[Reference], attempts: list[DrillAttempt], result: CheckpointDiff, kept: str | None
) -> dict[str, object]:
    return {
        "seed": seed,
        "steps": sum(reference.steps for reference in references),
        "step_seconds": step_seconds(references),
        "runs": [reference.name for reference in references],
        "attempts": [asdict(attempt) for attempt in attempts],
        "scratch": kept,
        **diff_document(result, most=MOST),
    }


# ---- printing


def _announce(name: str, what: str) -> None:
    print_status((name, "bold cyan"), f"  {what}")


def _show(line: str) -> None:
    print_status(("  | ", "dim"), line)


def _announce_attempt(number: int, resumed_from_step: int, armed: Kill | None) -> None:
    if armed is None:
        plan = "to its end"
    elif armed.point == "step":
        plan = f"to be killed {duration(armed.delay_seconds)} after step {armed.step}"
    else:
        plan = f"to be killed {WHERE[armed.point]}, from step {armed.step} on"
    _announce(f"attempt {number}", f"from step {resumed_from_step}, {plan}")


def _print_steps(references: list[Reference]) -> None:
    steps, each = sum(reference.steps for reference in references), duration(step_seconds(references))
    runs = f" of {count(len(references), 'run')}" if len(references) > 1 else ""
    print_status(f"  {count(steps, 'step')}{runs}, {each} each")


def _print_kept(scratch: Path) -> None:
    if not any(scratch.iterdir()):
        scratch.rmdir()  # the command never got as far as a run
        return
    what = "both runs are" if (scratch / DRILLED).exists() else "the run is"
    print_status(f"{what} kept in ", (str(scratch), "bold"))


def _print(attempts: list[DrillAttempt], result: CheckpointDiff, *, kills: int, references: list[Reference]) -> None:
    start: list[Styled] = ["1", "", "", "", "cold", ("wrote the start", "dim")]
    rows = [start, *map(_row, attempts)]
    several = len(references) > 1
    if several:
        rows = [
            [row[0], name, *row[1:]] for row, name in zip(rows, ["", *(each.run for each in attempts)], strict=True)
        ]
    print_table((COLUMNS[0], Column("run"), *COLUMNS[1:]) if several else COLUMNS, rows)
    landed = sum(attempt.point is not None for attempt in attempts)
    if landed < kills:
        print_line((f"{landed} of {kills} kills landed: the run had finished before the others could", "yellow"))
    starts = {reference.name: reference.start.step for reference in references}
    if landed and all(attempt.resumed_from_step == starts[attempt.run] for attempt in attempts):
        print_line(
            ("every attempt began again at the first step, which proves little: ", "yellow"),
            "save more often, as in RESUMABLE_EVERY__STEPS=10 resumable drill ...",
        )
    print_line("")
    print_diff(result, most=MOST, names=("undisturbed", "killed"))
    if not result.exact:
        print_line("")
        print_line(("common causes", "bold"))
        for hint in HINTS:
            print_line(f"  - {hint}")


def _row(attempt: DrillAttempt) -> list[Styled]:
    ends: Styled = ("ran to its end", "green") if attempt.point is None else WHERE[attempt.point]
    killed = "" if attempt.killed_at_step is None else str(attempt.killed_at_step)
    how = "warm" if attempt.warm else "cold"
    return [str(attempt.attempt), str(attempt.resumed_from_step), str(attempt.steps_replayed), killed, how, ends]
