"""What a new user gets wrong, and what each mistake says: the class of the error, what is wrong, and what to do."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resumable import ConfigError, LoopError, ResumableError, RunMismatchError, StateError, StorageError, Trainer
from tests.tiny import Tiny, crashed


def says(caught: pytest.ExceptionInfo[ResumableError], *phrases: str) -> None:
    """Each phrase stands in the message or, after `hint:`, in the hint."""
    for phrase in phrases:
        where = caught.value.hint if phrase.startswith("hint: ") else caught.value.message
        assert phrase.removeprefix("hint: ") in str(where), f"{phrase!r} is not in {where!r}"


# -- the config -------------------------------------------------------------------------------------------------------


def test_an_unknown_key_of_the_config_names_the_nearest_one_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("run: runs/mine\nevry: {steps: 5}\n")
    with pytest.raises(ConfigError) as caught:
        Trainer(path, model=nn.Linear(1, 1))
    says(caught, f"unknown key 'evry' in {path} (did you mean 'every'?)", "hint: correct or remove 'evry'")


@pytest.mark.parametrize(
    ("config", "phrase"),
    [
        ({"every": {"step": 5}}, "unknown key 'every.step' in the mapping given (did you mean 'every.steps'?)"),
        ({"every": {"steps": "often"}}, "every.steps in the mapping given: expected a valid integer"),
        ({"every": 500}, "every in the mapping given: expected"),
        ({"keep": {"best": {"mode": "least"}}}, "keep.best.mode in the mapping given: expected 'min' or 'max'"),
        ({"signals": ["SIGKILL"]}, "found 'SIGKILL'"),
        ({"gradients": "sometimes"}, "gradients in the mapping given: expected 'auto' or 'always'"),
    ],
)
def test_a_wrong_value_says_where_what_was_expected_and_what_was_found(
    run: Path, config: dict[str, Any], phrase: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Trainer({"run": str(run), **config}, model=nn.Linear(1, 1))
    says(caught, phrase, "hint: correct")
    assert not run.exists()


def test_a_config_that_is_none_says_what_one_is() -> None:
    with pytest.raises(ConfigError) as caught:
        Trainer(nn.Linear(1, 1))  # type: ignore[arg-type]
    says(caught, "expected a folder, a URL, the path of a YAML file, a mapping or a Config, found Linear", "hint: for")


def test_a_config_given_by_name_is_told_from_an_object(run: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Trainer(config={"run": str(run)}, model=nn.Linear(1, 1))
    says(caught, "no config was given", "hint: it comes first and without a name")


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Trainer("configs/none.yaml", model=nn.Linear(1, 1))
    says(caught, "configs/none.yaml: No such file or directory", "hint: relative paths start in the working directory")


# -- the place --------------------------------------------------------------------------------------------------------


def places(tmp_path: Path) -> list[tuple[str, str]]:
    file = tmp_path / "file"
    file.write_text("")
    return [
        (str(file), "Not a directory"),
        (str(file / "run"), "Not a directory"),
        *([("/proc/run", "No such file or directory")] if sys.platform == "linux" else []),
    ]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_else_happens(tmp_path: Path) -> None:
    for place, reason in places(tmp_path):
        with pytest.raises(StorageError) as caught:
            Trainer({"run": place}, model=nn.Linear(1, 1))
        says(caught, f"{place}: cannot be written to: {reason}", "hint: name a folder in `run` that this user may")


class Environment:
    """A plain object of the program."""


def test_a_storage_that_nobody_knows_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Trainer({"run": "s4://bucket/run"}, model=nn.Linear(1, 1))
    says(caught, "s4://bucket/run: Protocol not known: s4", "hint: check the URL")


# -- the objects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "phrases"),
    [
        (object(), ["env: object has no state_dict() and load_state_dict()", "hint: add these two methods"]),
        (0.5, ["env: float has no state_dict()", "hint: put it into a plain dict, which is filled in place"]),
        (torch.ones(1).expand(2), ["env: several elements of this tensor are one in memory", "hint: pass a .clone()"]),
        (
            Environment(),
            ["env: Environment has no state_dict()", "hint: make its attributes its state"],
        ),
        (nn.Linear, ["env: type has no state_dict()", "hint: pass an instance, not the class"]),
        (None, ["env: NoneType has no state_dict()", "hint: leave it out"]),
    ],
)
def test_an_object_without_a_state_is_refused_at_once(run: Path, target: Any, phrases: list[str]) -> None:
    with pytest.raises(StateError) as caught:
        Trainer({"run": str(run)}, env=target)
    says(caught, *phrases)
    assert not run.exists()


def test_the_same_object_under_two_names_is_refused(run: Path) -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(StateError) as caught:
        Trainer({"run": str(run)}, model=model, ema=model)
    says(caught, "ema: the same object as model", "hint: pass each object once")


def test_names_that_differ_in_case_only_are_refused(run: Path) -> None:
    with pytest.raises(StateError) as caught:
        Trainer({"run": str(run)}, model=nn.Linear(1, 1), Model=nn.Linear(1, 1))
    says(caught, "Model: differs from model in upper and lower case only", "hint: give it another name")
    assert not run.exists()


@pytest.mark.parametrize(
    ("value", "phrases"),
    [
        (print, ["notes.a.1.b: builtin_function_or_method cannot be stored", "hint: code is not state"]),
        (Path("x"), ["Path cannot be stored", "hint: keep str(path)"]),
        ({1, 2}.__iter__(), ["notes.a.1.b: set_iterator cannot be stored", "hint: leave anything else out"]),
    ],
)
def test_a_value_that_cannot_be_stored_is_refused_with_its_path_before_the_first_step(
    run: Path, value: Any, phrases: list[str]
) -> None:
    steps = []
    with (
        Trainer({"run": str(run)}, notes={"a": [1, {"b": value}]}) as trainer,
        pytest.raises(StateError) as caught,
    ):
        steps.extend(trainer.steps(3))
    says(caught, *phrases)
    assert not steps


# -- the loops --------------------------------------------------------------------------------------------------------


def epochs_in_epochs(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(1):
        list(trainer.epochs(1))


def steps_in_epochs(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(1):
        list(trainer.steps(1))


def batches_in_steps(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.steps(1):
        list(trainer.batches(tiny.loader))


def batches_in_batches(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(1):
        for _ in trainer.batches(tiny.loader):
            list(trainer.batches(tiny.loader))


def zipped_batches(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(1):
        list(zip(trainer.batches(tiny.loader), trainer.batches(tiny.loader), strict=True))


def zipped_bare_batches(tiny: Tiny, trainer: Trainer) -> None:
    list(zip(trainer.batches(tiny.loader), trainer.batches(tiny.loader), strict=True))


def zipped_epochs(tiny: Tiny, trainer: Trainer) -> None:
    list(zip(trainer.epochs(2), trainer.epochs(2), strict=True))


def second_epochs(tiny: Tiny, trainer: Trainer) -> None:
    list(trainer.epochs(1))
    list(trainer.epochs(1))


def batches_after_epochs(tiny: Tiny, trainer: Trainer) -> None:
    list(trainer.epochs(1))
    list(trainer.batches(tiny.loader))


def after_close(tiny: Tiny, trainer: Trainer) -> None:
    trainer.close()
    list(trainer.epochs(1))


def batches_of_another_epoch(tiny: Tiny, trainer: Trainer) -> None:
    batches = trainer.batches(tiny.loader)
    for _ in trainer.epochs(2):
        next(batches)


def epochs_of_a_loader(tiny: Tiny, trainer: Trainer) -> None:
    list(trainer.epochs(tiny.loader))  # type: ignore[arg-type]


def negative_steps(tiny: Tiny, trainer: Trainer) -> None:
    list(trainer.steps(-3))


def batches_of_a_number(tiny: Tiny, trainer: Trainer) -> None:
    list(trainer.batches(5))


def endless_nothing(tiny: Tiny, trainer: Trainer) -> None:
    next(trainer.cycle([]))


def two_cycles_of_one_name(tiny: Tiny, trainer: Trainer) -> None:
    trainer.cycle(tiny.loader, name="more")
    trainer.cycle(tiny.loader, name="more")


def cycle_in_epochs(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(2):
        trainer.cycle(tiny.loader)


def cycle_in_steps(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.steps(2):
        trainer.cycle(tiny.loader, name="more")


def cycle_in_a_bare_pass(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.batches(tiny.loader):
        trainer.cycle(tiny.loader)


def stop_before_the_loop(tiny: Tiny, trainer: Trainer) -> None:
    trainer.stop()
    list(trainer.epochs(2))


MAKE_BEFORE = "hint: create cycles before the loop, and call next() on them inside it"
COUNTED_TWICE = "steps would be counted twice"
SIDE_BY_SIDE = "hint: use trainer.batches(a, b) for two loaders side by side, trainer.cycle(loader)"
LOOPS: dict[Callable[[Tiny, Trainer], None], list[str]] = {
    epochs_in_epochs: ["epochs() inside epochs(): a run has one outermost loop", "hint: use trainer.batches(loader)"],
    steps_in_epochs: ["steps() inside epochs()", "hint: trainer.batches(range(n)) turns n times"],
    batches_in_steps: ["batches() inside a turn of steps()", COUNTED_TWICE, SIDE_BY_SIDE],
    batches_in_batches: ["batches() inside a turn of another batches()", COUNTED_TWICE, SIDE_BY_SIDE],
    zipped_batches: ["batches() inside a turn of another batches()", SIDE_BY_SIDE],
    zipped_bare_batches: ["batches() inside a turn of another batches()", SIDE_BY_SIDE],
    zipped_epochs: ["epochs() inside epochs()"],
    second_epochs: ["epochs() after epochs(): this run's loop is over", "hint: a larger n continues a finished run"],
    batches_after_epochs: ["batches() after epochs()", "hint: use one loop for the whole run"],
    after_close: ["this trainer is closed", "hint: loop inside the `with` block"],
    batches_of_another_epoch: [
        "was left in an earlier epoch",
        "hint: call trainer.batches(loader) again in each epoch",
    ],
    epochs_of_a_loader: ["epochs(n): expected a whole number, found DataLoader", "hint: pass the number of epochs"],
    negative_steps: ["steps(n): expected a whole number, found -3"],
    batches_of_a_number: ["int cannot be iterated", "hint: pass a DataLoader or another iterable"],
    endless_nothing: ["cycle 'cycle0': a whole pass over the loader gave no batch", "hint: is the dataset smaller"],
    two_cycles_of_one_name: ["cycle 'more' exists already", "hint: give every cycle a name of its own"],
    cycle_in_epochs: ["cycle() inside epochs()", MAKE_BEFORE],
    cycle_in_steps: ["cycle() inside steps()", MAKE_BEFORE],
    cycle_in_a_bare_pass: ["cycle() inside batches()", MAKE_BEFORE],
    stop_before_the_loop: ["stop() before the first loop", "hint: call it in the loop's body"],
}


@pytest.mark.parametrize("misuse", LOOPS, ids=lambda misuse: misuse.__name__)
def test_loops_that_have_no_single_position_are_refused(run: Path, misuse: Callable[[Tiny, Trainer], None]) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer, pytest.raises(LoopError) as caught:
        misuse(tiny, trainer)
    says(caught, *LOOPS[misuse])


@pytest.mark.parametrize("value", ["good", None, torch.ones(3), 1j])
def test_what_is_no_number_cannot_be_logged(run: Path, value: Any) -> None:
    with Tiny(run).trainer() as trainer, pytest.raises(StateError) as caught:
        trainer.log(accuracy=value)
    says(caught, "log(accuracy=...): expected a number or a 0-d tensor, found " + type(value).__name__)


@pytest.mark.parametrize(
    ("metrics", "phrase"),
    [
        ({"loss/train": "low"}, "log(loss/train=...): expected a number or a 0-d tensor, found str"),
        ({"lr": 0.1, "loss": 1.0}, "log(lr=...): expected each name once, found it in the mapping, too"),
        ({1: 0.1}, "log({1: ...}): expected a text as the name, found int"),
        (0.1, "log(...): expected a mapping of names to numbers, found float"),
        ([("loss", 0.1)], "log(...): expected a mapping of names to numbers, found list"),
    ],
)
def test_what_is_no_mapping_of_names_to_numbers_cannot_be_logged(run: Path, metrics: Any, phrase: str) -> None:
    with Tiny(run).trainer() as trainer, pytest.raises(StateError) as caught:
        trainer.log(metrics, lr=0.2)
    says(caught, phrase)


# -- another program than the one that crashed ------------------------------------------------------------------------


def samples(count: int) -> TensorDataset:
    return TensorDataset(torch.ones(count, 2))


@pytest.mark.parametrize(
    ("loader", "phrases"),
    [
        (
            DataLoader(samples(6), batch_size=2, shuffle=True),
            ["changed in the middle of a pass", "batches.dataset 8->6", "hint: put it back, and change it at the end"],
        ),
        (
            DataLoader(samples(8), batch_size=4, shuffle=True),
            ["batches.batch_size 2->4", "hint: put it back, and change it at the end"],
        ),
        (DataLoader(samples(8), batch_size=2), ["the order of the first 2 batches differs", "hint: the sampler, its"]),
        ([[torch.ones(2, 2)]] * 4, ["the checkpoint holds a position by address", "hint: the kind of loader"]),
    ],
    ids=["fewer samples", "larger batches", "no shuffling", "a list"],
)
def test_other_data_than_before_the_crash_is_refused(run: Path, loader: Any, phrases: list[str]) -> None:
    crashed(run, step=2)
    tiny = Tiny(run)
    tiny.loader = loader
    with pytest.raises(LoopError) as caught:
        tiny.train()
    says(caught, "pass 0 of loop 'batches' in epoch 0", *phrases)


def with_two_loaders(tiny: Tiny, trainer: Trainer) -> None:
    for _ in trainer.epochs(2):
        list(trainer.batches(tiny.loader, tiny.loader))


def with_steps(tiny: Tiny, trainer: Trainer) -> None:
    list(trainer.steps(9))


def without_batches(tiny: Tiny, trainer: Trainer) -> None:
    list(trainer.epochs(2))


@pytest.mark.parametrize(
    ("script", "phrases"),
    [
        (with_two_loaders, ["given 2 loaders; the checkpoint was taken in a pass over 1", "hint: the same loaders"]),
        (with_steps, ["trained with epochs(), and resumes here with steps()", "hint: use trainer.epochs(...) again"]),
        (without_batches, ["epoch 0 ended before the loop reached pass 0", "hint: as often as when the checkpoint"]),
    ],
)
def test_another_loop_than_before_the_crash_is_refused(
    run: Path, script: Callable[[Tiny, Trainer], None], phrases: list[str]
) -> None:
    crashed(run, step=2)
    tiny = Tiny(run)
    with tiny.trainer() as trainer, pytest.raises(LoopError) as caught:
        script(tiny, trainer)
    says(caught, *phrases)


def trains_after(tiny: Tiny, change: Callable[[Tiny], None]) -> None:
    with tiny.trainer() as trainer:
        trainer.restore()
        change(tiny)
        list(trainer.epochs(2))


def rebuild_groups(tiny: Tiny) -> None:
    tiny.optimizer.param_groups.clear()
    for parameter in tiny.model.parameters():
        tiny.optimizer.add_param_group({"params": [parameter]})


def replace_a_layer(tiny: Tiny) -> None:
    tiny.model[3] = nn.Linear(20, 3)


def test_parameter_groups_that_are_rebuilt_after_the_restore_are_refused_by_name(run: Path) -> None:
    crashed(run, step=2)
    with pytest.raises(RunMismatchError) as caught:
        trains_after(Tiny(run), rebuild_groups)
    says(
        caught,
        "optimizer: 1 parameter group in the checkpoint, 6 here",
        "model.3.weight",
        "hint: build them as they were at that checkpoint",
    )


def test_a_layer_that_is_replaced_after_the_restore_is_refused_by_name(run: Path) -> None:
    crashed(run, step=2)
    with pytest.raises(RunMismatchError) as caught:
        trains_after(Tiny(run), replace_a_layer)
    says(caught, "model: another shape or dtype: 3.weight (checkpoint float32[1, 20], here float32[3, 20])")


def test_a_wider_model_is_refused_with_all_that_differs(run: Path) -> None:
    crashed(run, step=2)
    tiny = Tiny(run)
    tiny.model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.25), nn.Linear(8, 1))
    tiny.optimizer = torch.optim.SGD(tiny.model.parameters(), lr=0.02, momentum=0.9)
    with pytest.raises(RunMismatchError) as caught:
        tiny.train()
    named = re.findall(r"\d\.\w+", caught.value.message)
    assert {"0.weight", "0.bias", "1.running_mean", "3.weight"} <= set(named)
