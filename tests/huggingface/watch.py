"""A callback that notes what happens, one line an event, and kills the program where it is asked to."""

from __future__ import annotations

import os
import signal
import zlib
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tests.tiny import until_written


class Watch(TrainerCallback):
    """Has no state, so that all it knows is what Hugging Face says. A step is one update, counted over the run.

    Each line begins with the event and the step and is written at once, by one system call: a kill loses none.
    `kill` is EVENT:STEP, with "!SIGTERM" behind it for that signal. Saves are waited for, so that where the next launch
    begins does not depend on the disk.
    """

    def __init__(self, events: Path, kill: str | None) -> None:
        self._file = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._kill, _, name = (kill or "").partition("!")
        self._signal = signal.Signals[name] if name else signal.SIGKILL

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        until_written()  # a save in flight would put off the next one

    def on_substep_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        self._note("batch", state, weights=crc(objects["model"].parameters()), gradients=_gradients(objects["model"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        rates = [group["lr"] for group in objects["optimizer"].param_groups]
        self._note("update", state, weights=crc(objects["model"].parameters()), lr=rates)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._note("evaluate", state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
        of_time = ("_runtime", "_per_second", "_time")
        self._note("log", state, **{name: value for name, value in logs.items() if not name.endswith(of_time)})

    def on_train_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        self._note("end", state, weights=crc(objects["model"].parameters()))

    def _note(self, event: str, state: Any, **what: Any) -> None:
        line = " ".join(
            [event, str(state.global_step), *(f"{name}={_shown(value)}" for name, value in what.items())]
        ).replace(", ", ",")
        os.write(self._file, f"{line}\n".encode())
        if self._kill == f"{event}:{state.global_step}":
            until_written()
            os.kill(os.getpid(), self._signal)


def _shown(value: Any) -> str:
    return value.hex() if isinstance(value, float) else str(value)


def _gradients(model: Any) -> int:
    return crc(parameter.grad for parameter in model.parameters() if parameter.grad is not None)


def crc(tensors: Any) -> int:
    """Return a checksum of tensors, in their order."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(tensor.detach().float().cpu().numpy().tobytes(), found)
    return found
