"""Which settings of a loop are reported as unused."""

from __future__ import annotations

import pytest

from resumable.policy.save_policy import Schedule
from resumable.policy.unused_settings import uncounted_steps, unlogged_metric


@pytest.mark.parametrize(
    ("metric", "logged", "similar"),
    [
        ("valacc", {"val_acc", "loss"}, "val_acc"),
        ("val_loss", {"eval_loss"}, "eval_loss"),
        ("val_loss", {"val/loss"}, "val/loss"),
        ("val_acc", {"val_acc", "valacc"}, None),
        ("accuracy", {"loss"}, None),  # it may come with a later epoch
        ("val_loss", {"train_loss"}, None),
        ("accuracy", set(), None),
    ],
)
def test_a_metric_is_reported_where_a_similar_one_is_logged(metric: str, logged: set[str], similar: str | None) -> None:
    warning = unlogged_metric(metric, logged)
    assert (warning is None) == (similar is None)
    assert warning is None or f"did you mean {similar!r}?" in warning


@pytest.mark.parametrize(
    ("schedule", "empty_epochs", "reported"),
    [
        (Schedule(steps=5), 2, True),
        (Schedule(steps=5), 1, False),  # a loop may skip one
        (Schedule(steps=5), 3, False),  # reported before
        (Schedule(steps=None, minutes=1.0), 2, False),
        (Schedule(steps=5, epochs=1), 2, False),
    ],
)
def test_the_second_epoch_without_steps_is_reported_where_only_steps_would_save(
    schedule: Schedule, empty_epochs: int, reported: bool
) -> None:
    warning = uncounted_steps(schedule, empty_epochs=empty_epochs)
    assert (warning is not None) == reported
