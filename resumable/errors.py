"""Every exception of the package, as one tree. Imports nothing of the package."""

from __future__ import annotations


class ResumableError(Exception):
    """The base of all errors: a message (what, where, expected, found) and a hint (what to do next).

    Args:
        message: The headline: the argument or file, what was expected, what was found.
        hint: The next thing to do; `str(error)` shows it in a line of its own.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ConfigError(ResumableError, ValueError):
    """A configuration that cannot be used: an unknown key, a wrong type, an impossible value."""


class StateError(ResumableError, TypeError):
    """An object whose state cannot be stored, or did not come back as it was."""


class StorageError(ResumableError, OSError):
    """The storage refused or failed: permissions, a full disk, an unreachable network."""

    misused: bool = False
    """True if the storage's client rejected its arguments, so a mistake in the URL or the options is likely."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        ResumableError.__init__(self, message, hint)


class LoopError(ResumableError, RuntimeError):
    """Loops used in a way that has no single position to resume at: nested, concurrent, or over changed data."""


class ChangedDataError(LoopError):
    """Data that has another length or order than it had before the checkpoint."""


class CheckpointError(ResumableError):
    """The base of all errors about a checkpoint."""


class NoCheckpointError(CheckpointError, FileNotFoundError):
    """A checkpoint that does not exist."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        ResumableError.__init__(self, message, hint)


class CorruptCheckpointError(CheckpointError):
    """A checkpoint whose bytes differ from those that were written."""


class FormatVersionError(CheckpointError):
    """A checkpoint written by a newer version of the format."""


class FencedError(ResumableError):
    """Another attempt owns the run now; this one may no longer write."""


class RunMismatchError(ResumableError, ValueError):
    """A run whose objects differ from those given."""


class AuditError(ResumableError, RuntimeError):
    """State of the loop that is in no checkpoint, where the config sets `audit.mode: strict`."""


class ExportError(ResumableError, RuntimeError):
    """A model that could not be exported, or whose proof fails."""


class Preempted(SystemExit):
    """A signal or `leave()` ended the training early. A `SystemExit`, so the program exits with `code`.

    Args:
        code: The exit code: 75 (`EX_TEMPFAIL`), or 130 for SIGINT.
        signal: The name of the signal; None after `leave()`.
        step: The number of completed steps.
        saved: Whether a checkpoint of this step was committed.
    """

    def __init__(self, code: int, *, signal: str | None, step: int, saved: bool) -> None:
        super().__init__(code)
        self.signal = signal
        self.step = step
        self.saved = saved


class Interrupted(Preempted, KeyboardInterrupt):
    """`Preempted` by SIGINT, which is Ctrl-C. `except KeyboardInterrupt` catches it, too."""


class CellInterrupted(KeyboardInterrupt):
    """The stop button of a notebook, whose kernel treats every `SystemExit` as a mistake.

    It is shown as one line. The kernel lives on, and runs none of the cells that were queued behind this one.

    Args:
        code: As for `Preempted`, and so are the others.
        signal: The name of the signal.
        step: The number of completed steps.
        saved: Whether a checkpoint of this step was committed.
    """

    def __init__(self, code: int, *, signal: str | None, step: int, saved: bool) -> None:
        rest = (
            "saved; run the cell again to continue"
            if saved
            else "not saved; run the cell again to repeat the last steps"
        )
        super().__init__(f"stopped at step {step}, {rest}")
        self.code = code
        self.signal = signal
        self.step = step
        self.saved = saved

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows instead of a traceback."""
        return [str(self)]
