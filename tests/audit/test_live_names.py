"""The names of real loops: reported at the second turn, noted in checkpoints, compared at a resume."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import AuditError, Run, Trainer

# ruff: noqa: B007, F821, F841, SIM113


class Killed(Exception):
    """Ends a loop as a kill would, for all that a checkpoint has."""


Loop = Callable[[Trainer, dict[str, Any], Callable[[], None]], object]


def launch(
    run: Path, loop: Loop, *, kill: int | None, save: int | None = None, audit: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train until the body of step `kill`, and save step `save`. Returns the notes of the newest checkpoint."""
    state = {"lr": 1.0}
    with Trainer({"run": str(run), "audit": audit or {}}, saved=state) as trainer:

        def reached() -> None:
            if trainer.step == kill:
                raise Killed
            if save is not None and trainer.step == save - 1:
                trainer.request_save()

        with contextlib.suppress(Killed, UnboundLocalError):  # an unbound name was foretold
            loop(trainer, state, reached)
    return dict(Run(str(run)).latest().notes.get("live_names", {}))


def killed_and_resumed(
    run: Path, loop: Loop, *, after: int, caplog: pytest.LogCaptureFixture
) -> tuple[set[str], set[str]]:
    """Return the names of the WARN lines: carried in the first launch, and forgotten in the second."""
    random.seed(3)
    launch(run, loop, kill=after, save=after)
    carried = names_in(caplog, "carried")
    caplog.clear()
    random.seed(3)
    launch(run, loop, kill=None)
    return carried, names_in(caplog, "forgotten")


def names_in(caplog: pytest.LogCaptureFixture, kind: str) -> set[str]:
    lines = [text for text in warnings(caplog) if text.startswith(kind)]
    return {name for line in lines for name in re.split(r", ", re.split(r" cross| was ", line)[0][len(kind) + 1 :])}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    return [text.removeprefix("WARN    ") for text in found if text.startswith("WARN")]


# -- loops, and what is said of each ----------------------------------------------------------------------------------


def rate_in_a_variable(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
    lr, best = 20.0, None
    for e in t.epochs(4):
        for b in t.batches(range(3)):
            state["moved"] = lr * b
            reached()
        v = 5 - e % 2
        if not best or v < best:
            best = v
        else:
            lr /= 4


def head_on_later_state(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
    for e in t.epochs(4):
        state["lr"] *= 0.5
        lr = state["lr"] * state.get("scale", 1.0)
        for b in t.batches(range(3)):
            state["scale"] = 0.5
            state["moved"] = lr
            reached()


def head_that_is_pure(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
    for e in t.epochs(4):
        lr, ids, t0 = 0.1 * 0.5**e, list(range(e)), time.time()
        for b in t.batches(range(3)):
            state["moved"] = lr, ids, e, t0 > 0
            reached()


def last_loss(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
    for e in t.epochs(4):
        for b in t.batches(range(3)):
            loss = random.random()
            state["moved"] = loss * 2
            reached()
        state["accuracy"] = loss


def prefetched(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
    x = random.random()
    for e in t.epochs(4):
        for b in t.batches(range(3)):
            state["moved"] = x
            x = random.random()
            reached()


def mean_of_an_epoch(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
    for e in t.epochs(4):
        total, began = 0.0, time.time()
        for b in t.batches(range(3)):
            total += random.random() + 0.1
            state["seconds"] = time.time() - began
            began = time.time()
            reached()
        state["mean"] = total / 3


def step_counter(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
    k = 0
    for e in t.epochs(4):
        for b in t.batches(range(3)):
            k += 1
            state["lr"] = min(1, k / 10)
            reached()


def unbound(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
    for e in t.epochs(4):
        for b in t.batches(range(3)):
            if t.step > 1:
                state["moved"] = previous * 2  # type: ignore[has-type]
            previous = random.random()
            reached()


def patience(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
    bad, best = 0, 9.0
    for s in t.steps(12):
        v = 10.0 - s if s < 4 else 7.0
        if v < best:
            best, bad = v, 0
        else:
            bad += 1
        if bad > 20:
            break
        reached()


def generator_between(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
    ema = 0.0

    def feed() -> Iterator[tuple[int, int]]:
        k = 0
        for b in t.batches(range(3)):
            k += 1
            yield b, k

    for e in t.epochs(4):
        for b, k in feed():
            ema = 0.9 * ema + b + 0.1
            state["moved"] = ema
            reached()


CASES: list[tuple[Loop, int, set[str], set[str]]] = [
    (rate_in_a_variable, 10, {"lr", "best"}, {"lr", "best"}),
    (rate_in_a_variable, 2, {"lr", "best"}, set()),  # before it changed
    (head_on_later_state, 7, set(), {"lr"}),
    (head_that_is_pure, 7, set(), set()),
    (last_loss, 5, set(), set()),
    (prefetched, 5, {"x"}, {"x"}),
    (mean_of_an_epoch, 5, {"total"}, {"total"}),
    (step_counter, 5, {"k"}, {"k"}),
    (unbound, 5, {"previous"}, {"previous"}),
    (patience, 7, {"bad", "best"}, {"bad", "best"}),
    (generator_between, 5, {"ema", "k"}, {"ema", "k"}),
]


@pytest.mark.parametrize(
    ("loop", "after", "carried", "forgotten"), CASES, ids=lambda each: getattr(each, "__name__", "")
)
def test_a_loop_is_told_what_it_carries_and_what_it_forgot(
    loop: Loop, after: int, carried: set[str], forgotten: set[str], run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert killed_and_resumed(run, loop, after=after, caplog=caplog) == (carried, forgotten)


# -- the lines --------------------------------------------------------------------------------------------------------


def test_the_line_names_what_to_write_and_why(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    launch(run, prefetched, kill=3)
    [line] = [text for text in warnings(caplog) if text.startswith("carried")]
    assert line == (
        "carried x crosses from one step to the next and is in no checkpoint; save it too: "
        'trainer.carry("x") (x: a number)'
    )


def test_a_counter_of_steps_has_its_own_advice(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    launch(run, step_counter, kill=3)
    assert "(k: counts steps: use trainer.step, or carry it)" in caplog.text


def test_a_run_that_is_not_new_goes_on_by_adopt(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    killed_and_resumed(run, rate_in_a_variable, after=10, caplog=caplog)
    line = next(text for text in warnings(caplog) if text.startswith("forgotten lr"))
    assert line.startswith(
        'forgotten lr was 5.0 at the checkpoint and is 20.0 now: it is not restored; trainer.carry("lr")'
    )
    assert "adopt: [lr] (RESUMABLE_ADOPT='[\"lr\"]')" in line


@pytest.mark.usefixtures("_every_line")
def test_what_is_only_printed_is_no_warning(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    def loop(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
        shown, began = 0.0, time.time()
        for e in t.epochs(2):
            total = 0.0
            for b in t.batches(range(3)):
                total += b + 0.5
                shown = 0.9 * shown + 0.1 * b
                if b == 2:
                    print(f"{total / 3:.2f} {shown:.2f} {time.time() - began:.1f}"[:0], end="")
                    began = time.time()
                    t.log(mean=total / 3)

    launch(run, loop, kill=None)
    assert warnings(caplog) == []
    notes = [each.getMessage() for each in caplog.records if each.getMessage().startswith("NOTE")]
    assert notes == [
        "NOTE    shown, total begin again after a resume: only printed or logged",
        "NOTE    began begin again after a resume: clocks and handles",
    ]


def test_count_of_itertools_beside_batches_is_named(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    def counts(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
        for i, b in zip(itertools.count(), t.batches(range(3)), strict=False):
            state["index"] = i, b

    launch(run, counts, kill=None)
    assert "count() around trainer.batches() counts from 0 again after a resume" in caplog.text


def test_enumerate_around_batches_is_named_where_its_count_is_used(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    def counts(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
        for i, b in enumerate(t.batches(range(3))):
            state["index"] = i

    def counts_not(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
        for _, b in enumerate(t.batches(range(3))):
            state["batch"] = b

    def begins_elsewhere(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
        for i, b in enumerate(t.batches(range(3)), t.step):
            state["index"] = i

    launch(run / "a", counts, kill=None)
    assert [text for text in warnings(caplog) if "trainer.enumerate" in text]
    caplog.clear()
    launch(run / "b", counts_not, kill=None)
    launch(run / "c", begins_elsewhere, kill=None)
    assert warnings(caplog) == []


# -- the modes --------------------------------------------------------------------------------------------------------


def test_off_looks_at_nothing(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert launch(run, prefetched, kill=5, save=3, audit={"mode": "off"}) == {}
    launch(run, prefetched, kill=None, audit={"mode": "off"})
    assert not [text for text in warnings(caplog) if text.startswith(("carried", "forgotten"))]


def test_strict_raises_for_what_changes_the_training(run: Path) -> None:
    with pytest.raises(AuditError, match="carried x crosses"):
        launch(run, prefetched, kill=None, audit={"mode": "strict"})


def test_strict_raises_for_what_was_forgotten(run: Path) -> None:
    launch(run, prefetched, kill=5, save=5)
    with pytest.raises(AuditError, match="forgotten x was "):
        launch(run, prefetched, kill=None, audit={"mode": "strict"})


def test_names_to_ignore_are_neither_reported_nor_noted(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    noted = launch(run, rate_in_a_variable, kill=10, save=10, audit={"ignore": ["lr"]})
    assert names_in(caplog, "carried") == {"best"}
    assert set(noted["rate_in_a_variable"]) == {"best", "e"}


def test_objects_that_were_given_are_left_out(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    def loop(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
        for b in t.batches(range(3)):
            state["moved"] = b
            state = state

    launch(run, loop, kill=None)
    assert warnings(caplog) == []


@pytest.mark.usefixtures("_every_line")
def test_another_thread_than_that_of_the_trainer_is_not_looked_at(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Trainer({"run": str(run), "signals": []}, saved={"lr": 1.0}) as trainer:
        thread = threading.Thread(target=prefetched, args=(trainer, {}, lambda: None))
        thread.start()
        thread.join()
    assert caplog.text.count("the loop runs in another thread") == 1
    assert warnings(caplog) == []


# -- the notes --------------------------------------------------------------------------------------------------------


def test_notes_hold_numbers_themselves_and_of_texts_the_digest_alone(run: Path) -> None:
    def loop(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
        number, token, tensor, thing = 1, "secret", torch.zeros(2), object()
        for s in t.steps(3):
            number, token, tensor, thing = number + 1, token + "!", tensor + 1, (thing,)[0]
            reached()

    noted = launch(run, loop, kill=2, save=1)
    [names] = noted.values()
    assert names["number"] == {"type": "int", "value": 2}
    assert names["token"].keys() == names["tensor"].keys() == {"type", "digest"}
    assert names["thing"] == {"type": "object"}
    assert "secret" not in str(noted)


def test_a_save_is_bounded_by_counts(run: Path) -> None:
    def loop(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
        large, long = torch.zeros(1 << 18, dtype=torch.float64), ["a"] * 20_000
        for s in t.steps(3):
            large, long = large + 1, [*long]
            reached()

    [names] = launch(run, loop, kill=2, save=1).values()
    assert names == {"large": {"type": "Tensor"}, "long": {"type": "list"}}


def test_no_local_variable_stays_alive(run: Path) -> None:
    """The last loss with its graph would: reading the names of a frame makes a copy of all of them before 3.13."""
    alive: list[weakref.ref[object]] = []

    def loop(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
        count = 0
        for s in t.steps(5):
            count += s
            t.request_save()
            loss = Killed()
            alive.append(weakref.ref(loss))
            del loss
            assert [each for each in alive if each() is not None] == []

    gc.disable()
    try:
        launch(run, loop, kill=None)
    finally:
        gc.enable()
    assert len(alive) == 5


def test_a_failure_of_the_audit_fails_no_training(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        @property
        def __class__(self) -> type:  # type: ignore[override]
            raise RuntimeError("no class")

    def loop(t: Trainer, state: dict[str, Any], reached: Callable[[], None]) -> None:
        thing = Broken()
        for s in t.steps(3):
            state["moved"] = [thing]
            thing = Broken()
            state["moved"] = 0
            reached()

    with caplog.at_level(logging.DEBUG, "resumable"):
        launch(run, loop, kill=None)
    assert "RuntimeError: no class" in caplog.text
    assert Run(str(run)).latest().step == 3


def test_an_object_that_the_loop_builds_is_no_value_to_carry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    trainer = Trainer({"run": str(tmp_path / "run"), "progress": "never"})
    for step in trainer.steps(4):
        rate = optimizer.param_groups[0]["lr"]
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate / (step + 2))
    [line] = [record.getMessage() for record in caplog.records if "carried" in record.getMessage()]
    assert "optimizer (SGD) is built in the loop" in line
    assert "build it once, before Trainer(..., optimizer=optimizer)" in line


def mean_of_epoch(trainer: Trainer, loader: list[float]) -> tuple[float, int]:
    total, count = 0.0, 0
    for value in trainer.batches(loader):
        total = total + value
        count = count + 1
    return total / count, count


def printed(trainer: Trainer) -> None:
    for epoch in trainer.epochs(3):
        mean, _ = mean_of_epoch(trainer, [1.0, 2.0, 3.0])
        print(f"epoch {epoch}: {mean:.3f}")


def compared(trainer: Trainer) -> None:
    for _ in trainer.epochs(3):
        mean, _ = mean_of_epoch(trainer, [1.0, 2.0, 3.0])
        if mean > 9:
            trainer.stop()


def returned(trainer: Trainer) -> list[float]:
    return [mean_of_epoch(trainer, [1.0, 2.0, 3.0])[0] for _ in trainer.epochs(3)]


@pytest.mark.parametrize(("program", "lines"), [(printed, 0), (compared, 1), (returned, 1)])
def test_what_a_function_returns_changes_the_training_only_if_its_caller_uses_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, program: Callable[[Trainer], object], lines: int
) -> None:
    program(Trainer({"run": str(tmp_path / "run"), "progress": "never"}))
    said = [record.getMessage() for record in caplog.records if "WARN    carried" in record.getMessage()]
    assert ["count, total cross" in line for line in said] == [True] * lines
