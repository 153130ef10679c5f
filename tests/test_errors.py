"""The error tree: what a user catches and reads."""

from __future__ import annotations

import pickle

import pytest

from resumable import errors


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.StateError, TypeError),
        (errors.StorageError, OSError),
        (errors.LoopError, RuntimeError),
        (errors.NoCheckpointError, FileNotFoundError),
        (errors.CorruptCheckpointError, errors.CheckpointError),
        (errors.FormatVersionError, errors.CheckpointError),
        (errors.FencedError, errors.ResumableError),
        (errors.RunMismatchError, ValueError),
    ],
)
def test_each_error_is_caught_as_its_root_and_as_its_builtin_and_shows_its_hint(
    kind: type[errors.ResumableError], builtin: type[Exception]
) -> None:
    error = kind("what, where", "do this")
    assert isinstance(error, errors.ResumableError)
    assert isinstance(error, builtin)
    assert str(error) == "what, where\n  hint: do this"
    assert (error.message, error.hint) == ("what, where", "do this")


def test_an_error_without_a_hint_is_its_message() -> None:
    assert str(errors.NoCheckpointError("none")) == "none"


def test_every_public_error_is_in_the_tree() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, BaseException)]
    assert {each.__name__ for each in kinds if not issubclass(each, errors.ResumableError)} == {
        "Preempted",
        "Interrupted",
        "CellInterrupted",
    }


def test_being_preempted_leaves_the_program_past_except_exception() -> None:
    left = errors.Preempted(75, signal="SIGTERM", step=7, saved=True)
    assert isinstance(left, SystemExit)
    assert not isinstance(left, Exception)
    assert (left.code, left.signal, left.step, left.saved) == (75, "SIGTERM", 7, True)


@pytest.mark.parametrize("kind", [errors.ConfigError, errors.StateError, errors.StorageError, errors.LoopError])
def test_an_error_survives_the_way_out_of_a_worker(kind: type[errors.ResumableError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what", "do this")))
    assert type(error) is kind
    assert str(error) == "what\n  hint: do this"
