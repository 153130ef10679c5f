"""Every error a user can meet, as one tree; knows nothing of what raises them."""

from __future__ import annotations


class ResumableError(Exception):
    """The root: a message that says what, where, expected and found, and a hint that says what to do next."""

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
    """The storage refused or failed: permissions, a full disk, a network that stayed away."""

    misused: bool = False
    """Whether its client did not take what it got, so that a mistake in the URL or the options is likely."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        ResumableError.__init__(self, message, hint)


class LoopError(ResumableError, RuntimeError):
    """Loops used in a way that has no single position: nested, concurrent, or over changed data."""


class CheckpointError(ResumableError):
    """Something about a checkpoint."""


class NoCheckpointError(CheckpointError, FileNotFoundError):
    """There is no such checkpoint."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        ResumableError.__init__(self, message, hint)


class CorruptCheckpointError(CheckpointError):
    """A checkpoint whose bytes are not the bytes that were written."""


class FormatVersionError(CheckpointError):
    """A checkpoint written by a newer version of the format."""


class FencedError(ResumableError):
    """Another attempt owns this run now; this one may no longer write."""


class RunMismatchError(ResumableError, ValueError):
    """A run that belongs to other objects than those given."""


class ExportError(ResumableError, RuntimeError):
    """A model that could not be carried over, or is not proved to be the one that was trained."""


class Preempted(SystemExit):
    """A signal asked the training to leave; its state is saved where `saved` says so. Exits with `code`."""

    def __init__(self, code: int, *, signal: str, step: int, saved: bool) -> None:
        super().__init__(code)
        self.signal = signal
        self.step = step
        self.saved = saved


class Interrupted(Preempted, KeyboardInterrupt):
    """The signal is SIGINT: Ctrl-C, or a notebook's stop button. `except KeyboardInterrupt` catches it, too."""
