"""What of carried variables comes back, and what is left behind."""

from __future__ import annotations

import weakref
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from resumable import Run, Trainer
from tests.lab.script import digest
from tests.loop.carried.launches import launch
from tests.tiny import Crash


def test_values_come_back_with_their_types_bits_and_formats(run: Path) -> None:
    Pair = namedtuple("Pair", "a b")
    image = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    values: dict[str, Any] = {
        "tensor": image,
        "other_shape": torch.ones(7, dtype=torch.bfloat16),
        "nan": float("nan"),
        "array": numpy.arange(6.0).reshape(2, 3).T,
        "pair": Pair(1, torch.ones(2)),
        "nested": {"a": [1, (2.5, None)], 3: {4, 5}},
        "long": [0.5] * 100,
        "alias": [image, image],
        "word": "wört",
    }

    def loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        x: Any = torch.zeros(3, dtype=torch.float64)
        trainer.carry("x")
        for _ in trainer.steps(3):
            if trainer.resumed_from:
                back.append(x)
            x = values
            ends()

    back: list[Any] = []
    with pytest.raises(Crash):
        launch(run, loop, crash_at=1)
    launch(run, loop)
    assert digest(back[0]) == digest(values)
    assert back[0]["tensor"].stride() == image.stride()
    assert back[0]["array"].strides == values["array"].strides
    assert type(back[0]["pair"]) is Pair
    assert back[0]["alias"][0] is back[0]["alias"][1]


def test_a_name_without_a_value_at_the_checkpoint_keeps_the_one_of_now(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        trainer.carry("x")
        if trainer.resumed_from:
            x = 5
        for step in trainer.steps(3):
            if trainer.resumed_from:
                seen.append(x)
            ends()
            if step > 1:
                x = step

    with pytest.raises(Crash):
        launch(run, loop, crash_at=1)
    caplog.clear()
    assert launch(run, loop) == [5, 5]
    assert [line for line in caplog.messages if "WARN" in line] == [
        "WARN    x: had no value at the checkpoint, and keeps the one that it has now"
    ]


def test_nothing_that_the_loop_replaced_stays_alive(run: Path) -> None:
    def loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        x = torch.zeros(2)
        trainer.carry("x")
        former: list[weakref.ref[Any]] = []
        for _ in trainer.steps(4):
            other = torch.ones(3)
            former += [weakref.ref(x), weakref.ref(other)]
            x, other = x + 1, None  # type: ignore[assignment]
            alive.append(sum(each() is not None for each in former))
            ends()

    alive: list[int] = []
    with pytest.raises(Crash):
        launch(run, loop, crash_at=2)
    launch(run, loop)
    assert alive == [0] * 5


def test_a_loop_that_is_ended_by_stop_and_return_saves_all_that_it_can(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def by_break(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        x = 0
        trainer.carry("x")
        for step in trainer.steps(9):
            x += 1
            if step == 2:
                trainer.stop()
                break
        seen.append(x)

    def by_return(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        def inner() -> int:
            x = 0
            trainer.carry("x")
            for step in trainer.steps(9):
                x += 1
                if step == 2:
                    trainer.stop()
                    return x
            return x

        seen.append(inner())

    for number, loop in enumerate((by_break, by_return)):
        assert launch(run / str(number), loop) == [3]
        assert Run(str(run / str(number))).latest().load("carried") == {"x": 3}
        assert launch(run / str(number), loop)[-1] == 3
