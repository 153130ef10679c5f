"""A model that is 98 % frozen: bytes written and time to durable, against as large a state that changes everywhere."""

from __future__ import annotations

import gc
from pathlib import Path

from tests.bench.figures import Figure, Measured, Setting
from tests.bench.ours import Resumable
from tests.bench.states import Training, adapting
from tests.bench.timing import clock, rounds


def _frozen(setting: Setting) -> Measured:
    measured, partly, whole = Measured(), adapting(setting.size), adapting(setting.size)
    whole.model.requires_grad_(True)
    measured.state_bytes = partly.nbytes()
    subjects = {"98 % frozen": (partly, Training.step), "a full save": (whole, Training.touch)}
    savers = {
        name: Resumable(subject, setting.folder / str(number), mode="eager")
        for number, (name, (subject, _)) in enumerate(subjects.items())
    }
    for number, order in enumerate(rounds(list(subjects), setting.pairs + 2)):
        sink = measured if number >= 2 else Measured()  # the first writes all, and the next learns what did not change
        for name in order:
            subject, change = subjects[name]
            change(subject)
            sink.add(name, **_once(savers[name]))
    for saver in savers.values():
        saver.close()
    measured.notes.append(f"frozen: {_share(partly):.1%} of {measured.state_bytes / 1e9:.2f} GB")
    return measured


def _once(saver: Resumable) -> dict[str, float]:
    gc.collect()
    before, started = written_bytes(), clock()
    saver.save()
    stall_seconds = clock() - started
    saver.wait()
    durable_seconds = clock() - started
    written = written_bytes() - before
    saver.tidy()
    return {"stall_seconds": stall_seconds, "durable_seconds": durable_seconds, "written_bytes": written}


def written_bytes() -> int:
    """Handed to write calls by all threads of this process so far."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["wchar"])


def _share(subject: Training) -> float:
    still = sum(each.nbytes for each in subject.model.parameters() if not each.requires_grad)
    return still / subject.nbytes()


FIGURES = [Figure("frozen", "a LoRA-like run, 98 % frozen", _frozen)]
