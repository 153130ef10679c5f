"""Which settings of a loop are reported as unused."""

from __future__ import annotations

import pytest

from resumable.policy.save_policy import Schedule
from resumable.policy.unused_settings import uncounted_steps, unlogged_metric


@pytest.mark.parametrize(
    ("metric", "logged", "configured", "over", "found"),
    [
        ("valacc", {"val_acc", "loss"}, True, False, "did you mean 'val_acc'?"),
        ("val_loss", {"valid_loss"}, False, False, "did you mean 'valid_loss'?"),
        ("accuracy", {"loss"}, True, True, "set it to one of them"),
        ("accuracy", {"loss"}, True, False, None),  # it may come with a later epoch
        ("val_loss", {"loss"}, False, True, None),  # the default, which nobody asked for
        ("accuracy", set(), True, True, None),
    ],
)
def test_a_metric_is_reported_where_a_similar_one_is_logged_or_the_run_is_over(
    metric: str, logged: set[str], configured: bool, over: bool, found: str | None
) -> None:
    warning = unlogged_metric(metric, logged, configured=configured, over=over)
    assert (warning is None) == (found is None)
    assert found is None or warning is None or found in warning


@pytest.mark.parametrize(
    ("schedule", "steps", "reported"),
    [
        (Schedule(steps=5), 0, True),
        (Schedule(steps=5), 1, False),
        (Schedule(steps=None, minutes=1.0), 0, False),
        (Schedule(steps=5, epochs=1), 0, False),
    ],
)
def test_an_epoch_without_steps_is_reported_where_only_steps_would_save(
    schedule: Schedule, steps: int, reported: bool
) -> None:
    warning = uncounted_steps(schedule, epoch=3, steps=steps)
    assert (warning is not None) == reported
    assert warning is None or "epoch 3 ended without a step" in warning
