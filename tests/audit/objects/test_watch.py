"""When the watch looks, what it leaves alone, and what the configuration makes of it."""

from __future__ import annotations

import gc
import random
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import optimizer as torch_optimizer

from resumable.audit.objects.changes import Changes
from resumable.audit.objects.watch import LOOKS, ObjectWatch
from resumable.config.sections import Audit
from resumable.errors import AuditError
from tests.audit.objects.candidate_lists import changing_lists
from tests.audit.objects.forgetful_loops import Average, average_of_a_class, module_attribute, ring_buffer
from tests.audit.objects.warned_lines import Setting, warned


def looks_of(watch: ObjectWatch, boundaries: list[tuple[int, bool]]) -> list[bool]:
    """Return at which boundaries the watch looks; each is a number of saves, and whether an epoch ended."""
    done = []
    for saves, epoch_ended in boundaries:
        done.append(watch.is_due(saves=saves, epoch_ended=epoch_ended))
        if done[-1]:
            watch.look(has_frames=True)
    return done


def test_it_looks_at_the_first_boundaries_saves_and_epochs() -> None:
    watch = ObjectWatch(Audit(), dict, resumes=bool)
    try:
        assert looks_of(watch, [(1, False)] * LOOKS + [(1, False), (2, False), (2, False)]) == [
            *[True] * LOOKS,
            *(False, True, False),
        ]
        assert looks_of(watch, [(3, False), (4, False), (4, True), (4, True), (4, True), (4, True), (5, False)]) == [
            *(True, False),
            *(True, True, True, False),
            False,  # within a minute of the last look
        ]
    finally:
        watch.close()


def test_optimizers_cost_nothing_once_the_looks_are_over(tmp_path: Path) -> None:
    before = dict(torch_optimizer._global_optimizer_post_hooks)
    a = Setting(tmp_path / "run")
    trainer = a.trainer({"every": {"steps": None}})
    hooked = []
    for _ in trainer.epochs(1):
        for batch in trainer.batches(a.loader):
            a.step(batch)
            hooked.append(len(torch_optimizer._global_optimizer_post_hooks) - len(before))
    assert hooked == [1, 1, 1, 0]
    assert dict(torch_optimizer._global_optimizer_post_hooks) == before


def test_off_looks_at_nothing(tmp_path: Path) -> None:
    with warned() as lines:
        average_of_a_class(Configured(tmp_path / "run", {"audit": {"mode": "off"}}))
    assert lines == []


class Configured(Setting):
    """A setting whose trainers have a configuration."""

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        super().__init__(run)
        self.config = config

    def bare(self, config: dict[str, Any] | None = None, **objects: Any) -> Any:
        return super().bare(self.config | (config or {}), **objects)


def test_strict_raises_for_what_is_certain(tmp_path: Path) -> None:
    config = {"audit": {"mode": "strict"}}
    with pytest.raises(AuditError, match=r"^average changes in the loop and is in no checkpoint .*\n  hint: save it"):
        average_of_a_class(Configured(tmp_path / "a", config))
    with warned() as lines:
        ring_buffer(Configured(tmp_path / "b", config))
    assert [line.partition(":")[0] for line in lines] == ["ring"]


@pytest.mark.parametrize("ignored", ["model", "model.temperature"])
def test_what_is_ignored_is_not_named(ignored: str, tmp_path: Path) -> None:
    with warned() as lines:
        module_attribute(Configured(tmp_path / "run", {"audit": {"ignore": [ignored]}}))
    assert lines == []


def test_a_run_with_checkpoints_has_to_adopt(tmp_path: Path) -> None:
    def train(epochs: int) -> list[str]:
        a = Setting(tmp_path / "run")
        average = Average(a.model.parameters())
        with warned() as lines, a.trainer() as trainer:
            for _ in trainer.epochs(epochs):
                for batch in trainer.batches(a.loader):
                    a.step(batch)
                    average.update(a.model.parameters())
        return lines

    assert "adopt" not in train(1)[0]
    [line] = train(2)
    assert line.endswith(", and adopt: [average] in the config, since this run has checkpoints without it")


class Hostile:
    """An object all of whose code would be noticed."""

    called: list[str] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.count = 0

    def touch(self) -> None:
        self.count += 1

    def __len__(self) -> int:
        self.called.append("len")
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        self.called.append("eq")
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        self.called.append(name)
        raise RuntimeError

    def __iter__(self) -> Any:
        self.called.append("iter")
        raise RuntimeError

    def __bool__(self) -> bool:
        self.called.append("bool")
        raise RuntimeError

    def __repr__(self) -> str:
        self.called.append("repr")
        raise RuntimeError

    @property
    def __class__(self) -> Any:
        Hostile.called.append("class")
        return Hostile

    @property
    def state(self) -> int:
        self.called.append("state")
        raise RuntimeError

    def state_dict(self) -> Any:
        self.called.append("state_dict")
        raise RuntimeError


def test_no_code_of_an_object_runs(tmp_path: Path) -> None:
    a, hostile = Setting(tmp_path / "run"), Hostile()
    trainer = a.trainer()
    with warned() as lines:
        for _ in trainer.epochs(2):
            for inputs, labels in trainer.batches(a.loader):
                a.step((inputs + hostile.count, labels))
                hostile.touch()
    assert [line.partition(" changes")[0] for line in lines] == ["hostile"]
    assert Hostile.called == []


def test_nothing_stays_alive(tmp_path: Path) -> None:
    a, average = Setting(tmp_path / "run"), Average([torch.zeros(2)])
    dead: list[Any] = []
    trainer = a.trainer()
    with warned() as lines:
        for _ in trainer.epochs(2):
            for batch in trainer.batches(a.loader):
                loss = a.step(batch)
                if average is not None:
                    average.update([torch.ones(2)])
                if trainer.step == 3:
                    dead += [weakref.ref(average), weakref.ref(loss)]
                    average = loss = None  # type: ignore[assignment]
                if trainer.step == 4:
                    gc.collect()
                    assert [each() for each in dead] == [None, None]
    assert [line.partition(" changes")[0] for line in lines if " changes" in line] == ["average"]


def test_random_streams_are_untouched(tmp_path: Path) -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()), rng.bit_generator.state]

    rng, memory = np.random.default_rng(0), [0]
    watch = ObjectWatch(Audit(), dict, resumes=bool)
    try:
        for _ in range(LOOKS):
            memory.append(int(rng.integers(9)))
            before = states()
            with warned():
                assert watch.is_due(saves=0, epoch_ended=False)
                watch.look(has_frames=True)
            assert states() == before
    finally:
        watch.close()


def test_a_look_that_its_clock_ends_goes_on_at_the_next(tmp_path: Path) -> None:
    changes, lists = Changes(max_seconds=0), changing_lists(5)
    named = [[each.candidate.path for each in changes.look(lists(), set())] for _ in range(7)]
    assert named[:1] == [[]]
    assert sorted(name for names in named for name in names) == sorted([f"list{number}" for number in range(5)])
    assert max(map(len, named)) == 1


def test_a_failure_of_the_audit_is_none_of_the_training(tmp_path: Path) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError("no objects")

    watch = ObjectWatch(Audit(mode="strict"), broken, resumes=bool)
    try:
        assert watch.is_due(saves=0, epoch_ended=False)
        watch.look(has_frames=True)
    finally:
        watch.close()


def test_a_history_that_is_only_printed_has_no_line(tmp_path: Path) -> None:
    a, history = Setting(tmp_path / "run"), []
    trainer = a.trainer()
    with warned() as lines:
        for _ in trainer.epochs(2):
            for batch in trainer.batches(a.loader):
                history.append(a.step(batch).item())
    print(history)
    assert lines == []
