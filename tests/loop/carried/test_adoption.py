"""Names that the program has and the checkpoint lacks, or the other way round: refused with the line that goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resumable import ConfigError, Run, RunMismatchError, Trainer
from tests.loop.carried.launches import Loop, launch, loader
from tests.tiny import Crash


def plain(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    """Carries nothing."""
    for _ in trainer.epochs(3):
        for x in trainer.batches(loader()):
            seen.append(x.item())
            ends()


def carrying(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    """Carries `best` and `lr`."""
    lr, best = 1.0, None
    trainer.carry("lr", "best")
    for _ in trainer.epochs(3):
        lr *= 0.5
        for x in trainer.batches(loader()):
            best = (lr, x.item())
            seen.append(best)
            ends()


def inner(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    """Carries `total` in a function that the loop calls."""

    def one_pass() -> None:
        total = 0.0
        trainer.carry("total")
        for x in trainer.batches(loader()):
            total += x.item()
            seen.append(total)
            ends()

    for _ in trainer.epochs(3):
        one_pass()


def leave(run: Path, loop: Loop, step: int, **config: Any) -> None:
    with pytest.raises(Crash):
        launch(run, loop, crash_at=step, **config)


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [line for line in caplog.messages if line.startswith(event)]


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize(("loop", "names"), [(carrying, ["best", "lr"]), (inner, ["total"])])
def test_a_new_variable_is_refused_and_then_adopted(
    loop: Loop, names: list[str], step: int, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(run, plain, step)  # inside an epoch
    listed = ", ".join(names)
    with pytest.raises(RunMismatchError, match=f"set adopt: .{listed}. in the config, or RESUMABLE_ADOPT="):
        launch(run, loop)
    caplog.clear()
    leave(run, loop, step + 1, adopt=names)
    note = 'note="not in the checkpoint: begins with the value of this launch"'
    adopted = f'"{listed}"' if len(names) > 1 else listed
    assert lines(caplog, "CHANGED") == [f"CHANGED adopted={adopted} {note}"]
    caplog.clear()
    launch(run, loop, adopt=names)
    assert lines(caplog, "CHANGED") == []


def test_a_refusal_keeps_what_the_config_accepts_already(run: Path) -> None:
    """Objects are compared before variables: who follows both lines in turn must not lose the first one."""
    leave(run, plain, 1)
    with pytest.raises(RunMismatchError, match=r"adopt: .best, lr, total. in the config"):
        launch(run, carrying, adopt=["total"])
    with pytest.raises(RunMismatchError, match=r"adopt: .lr, passed. in the config"):
        Trainer({"run": str(run), "adopt": ["lr"]}, passed={"n": 0})
    leave(run / "carrying", carrying, 1)
    with pytest.raises(RunMismatchError, match=r"drop: .best, lr. in the config"):
        launch(run / "carrying", plain, drop=["best"])


def test_a_stored_variable_that_is_not_carried_is_refused_and_then_dropped(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(run, carrying, 4)
    with pytest.raises(RunMismatchError) as caught:
        launch(run, plain)
    assert len([*(run / "attempts").iterdir()]) == 1  # nothing is claimed by a launch that is refused
    assert 'call trainer.carry("best", "lr") before the loop' in str(caught.value)
    assert 'set drop: [best, lr] in the config, or RESUMABLE_DROP=\'["best", "lr"]\'' in str(caught.value)
    assert Run(str(run)).latest().step == 4
    caplog.clear()
    leave(run, plain, 5, drop=["best", "lr"])
    assert lines(caplog, "CHANGED") == ['CHANGED dropped="best, lr" note="in the checkpoint, and in no later one"']
    caplog.clear()
    launch(run, plain, drop=["best", "lr"])
    assert lines(caplog, "CHANGED") == []
    assert "carried" not in Run(str(run)).latest().manifest.objects


def test_an_inner_variable_that_is_not_carried_is_refused_where_it_was(run: Path) -> None:
    leave(run, inner, 4)
    with pytest.raises(RunMismatchError, match=r"drop: \[total\] in the config"):
        launch(run, plain)
    launch(run, plain, drop=["total"])


def test_a_variable_of_a_function_that_did_not_run_needs_neither(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    def an_epoch(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        for epoch in trainer.epochs(3):
            if epoch == 1:
                raise Crash
            for x in trainer.batches(loader()):
                seen.append(x.item())

    leave(run, an_epoch, 3, every={"epochs": 1})
    caplog.clear()
    launch(run, inner)
    assert lines(caplog, "CHANGED") == lines(caplog, "WARN") == []


def test_the_environment_adopts_too(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(run, plain, 4)
    monkeypatch.setenv("RESUMABLE_ADOPT", '["best", "lr"]')
    launch(run, carrying)


def test_an_unknown_name_is_refused_with_the_nearest_one(run: Path) -> None:
    leave(run, carrying, 4)
    with pytest.raises(ConfigError, match=r"drop: expected names .* found 'bets'\n.*did you mean 'best'"):
        launch(run, carrying, drop=["bets"])
    with pytest.raises(ConfigError, match=r"adopt: expected names .* found 'bets'\n.*did you mean 'best'"):
        launch(run, carrying, adopt=["bets"])


def test_a_new_run_asks_for_nothing(run: Path) -> None:
    launch(run, carrying, adopt=["best"], drop=["former"])


def test_an_object_is_adopted_and_dropped(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    def with_object(steps: int, config: dict[str, Any], **objects: Any) -> dict[str, Any]:
        with Trainer({"run": str(run), "data_seed": 1, **config}, seen=[], **objects) as trainer:
            for step in trainer.steps(steps):
                for each in objects.values():
                    each["n"] = each.get("n", 0) + 1 + step
        return objects

    with_object(2, {})
    with pytest.raises(RunMismatchError) as caught:
        with_object(2, {}, ema={})
    assert "not in the checkpoint: ema" in str(caught.value)
    assert "adopt: [ema] in the config, or RESUMABLE_ADOPT='[\"ema\"]'" in str(caught.value)
    caplog.clear()
    adopted = with_object(3, {"adopt": ["ema"]}, ema={})["ema"]
    assert len(lines(caplog, "CHANGED")) == 1
    again = with_object(4, {"adopt": ["ema"]}, ema={})["ema"]
    assert len(lines(caplog, "CHANGED")) == 1
    assert again["n"] > adopted["n"]
    with pytest.raises(RunMismatchError, match=r"drop: \[ema\] in the config"):
        with_object(2, {})
    for steps in (5, 6):
        with_object(steps, {"drop": ["ema"]})
    assert "ema" not in Run(str(run)).latest().manifest.objects
    with pytest.raises(ConfigError, match="did you mean 'ema'"):
        with_object(7, {"drop": ["emma"]})
