"""What cannot resume exactly is refused in words, before anything is trained or written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers.hyperparameter_search
from transformers import Trainer, TrainerCallback

from resumable import ConfigError
from resumable.transformers import Resume
from tests.harness.place import Launch, killed
from tests.huggingface.launches import Place
from tests.huggingface.programs import IS_NEW, Net, Points, arguments, trainer


def made(folder: Path, **options: Any) -> Trainer:
    return trainer([Resume(str(folder / "run"))], Points(), output_dir=str(folder / "hf"), **options)


def made_as(kind: type[Trainer], folder: Path) -> Trainer:
    return kind(
        model=torch.nn.Linear(1, 1),
        args=arguments(output_dir=str(folder / "hf")),
        train_dataset=Points(),
        eval_dataset=Points(),
        callbacks=[Resume(str(folder / "run"))],
    )


def refused(training: Trainer, words: str, **call: Any) -> None:
    with pytest.raises(ConfigError, match=words):
        training.train(**call)


def test_resume_from_checkpoint_beside_it(tmp_path: Path) -> None:
    training = made(tmp_path, save_strategy="steps", save_steps=5)
    training.remove_callback(Resume)
    training.train()
    training.add_callback(Resume(str(tmp_path / "run")))
    refused(training, "resume_from_checkpoint=.*beside it", resume_from_checkpoint=True)
    assert not (tmp_path / "run").exists()


def test_two_of_them(tmp_path: Path) -> None:
    training = made(tmp_path)
    training.callback_handler.callbacks.append(Resume(str(tmp_path / "other")))
    refused(training, "2 of these callbacks")


def test_several_devices(tmp_path: Path) -> None:
    training = made(tmp_path)
    training.args._n_gpu = 2
    refused(training, "DataParallel over 2 GPUs")


@pytest.mark.parametrize(
    ("attribute", "words"), [("is_deepspeed_enabled", "DeepSpeed is enabled"), ("is_fsdp_enabled", "FSDP is enabled")]
)
def test_sharding(tmp_path: Path, attribute: str, words: str) -> None:
    """What these libraries set, which are not installed here."""
    training = made(tmp_path)
    setattr(training, attribute, True)
    refused(training, words)


@pytest.mark.parametrize("name", ["auto_find_batch_size", *(["enable_jit_checkpoint"] if IS_NEW else [])])
def test_arguments_that_take_over(tmp_path: Path, name: str) -> None:
    refused(made(tmp_path, **{name: True}), name)


@pytest.mark.parametrize("name", ["galore_adamw_layerwise", "adalomo"])
def test_optimizers_that_step_in_the_backward_pass(tmp_path: Path, name: str) -> None:
    refused(made(tmp_path, optim=name, optim_target_modules=["first"]), f"optim='{name}' steps in hooks")


@pytest.mark.parametrize("name", ["GRPOTrainer", "RLOOTrainer", "OnlineDPOTrainer", "AsyncGRPOTrainer"])
def test_trainers_that_generate_their_data(tmp_path: Path, name: str) -> None:
    kind = type(name, (Trainer,), {})
    refused(made_as(kind, tmp_path), f"{name} generates its data")


def test_a_trainer_with_a_loop_of_its_own(tmp_path: Path) -> None:
    class Own(Trainer):
        def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
            self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)

    refused(made_as(Own, tmp_path), "a loop of its own")


class Averaging(TrainerCallback):
    """Keeps averaged weights, where no checkpoint has them."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.model, self.averages = model, [parameter.detach().clone() for parameter in model.parameters()]


def test_tensors_that_a_callback_keeps_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = made(tmp_path)
    training.add_callback(Averaging())
    training.train()
    warned = [record.message for record in caplog.records if "callback " in record.message]
    assert len(warned) == 1
    assert "callback Averaging: no checkpoint has the tensors in averages; if they change" in warned[0]


def test_trls_callback_that_averages(tmp_path: Path) -> None:
    training = made(tmp_path)
    training.add_callback(type("BEMACallback", (TrainerCallback,), {}))
    refused(training, "BEMACallback keeps averaged weights")


def test_a_search_by_hugging_faces_own_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna is not installed: another backend takes its place in the table of Hugging Face."""
    search = transformers.hyperparameter_search

    class Once(search.HyperParamSearchBackendBase):  # type: ignore[misc, name-defined]
        @staticmethod
        def is_available() -> bool:
            return True

        def run(self, trainer: Trainer, n_trials: int, direction: str, **_: Any) -> None:
            trainer.train(trial=SimpleNamespace(params={}))

    backend = search.HPSearchBackend.OPTUNA
    monkeypatch.setitem(search.ALL_HYPERPARAMETER_SEARCH_BACKENDS, backend, Once)
    training = made(tmp_path)
    training.model_init = Net
    with pytest.raises(ConfigError, match=r"hyperparameter_search\(\) trains several runs"):
        training.hyperparameter_search(lambda trial: {}, backend="optuna", n_trials=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.matrix
def test_several_processes(tmp_path: Path) -> None:
    """A second process of a real launch: the environment of torchrun, and a group of gloo with both."""
    place = Place(tmp_path, "tests.huggingface.programs:one_of_two")
    with pytest.raises(AssertionError, match="the world has 2 processes; this version trains in one"):
        place.launch()
    assert not (tmp_path / "here" / "run").exists()


def test_another_accumulation_within_an_epoch(tmp_path: Path) -> None:
    place = Place(tmp_path, "tests.huggingface.programs:points")
    place.launch(killed("update:3", saved=2))
    with pytest.raises(AssertionError, match="gradient_accumulation_steps is 3, and the checkpoint within epoch 0"):
        place.launch(Launch(options={"gradient_accumulation_steps": 3}))


def test_without_the_callback_a_trainer_is_what_it_was(tmp_path: Path) -> None:
    """The loop of the class is wrapped for the whole program."""

    class Losses(TrainerCallback):
        found: list[float]

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.found = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            self.found += [logs["loss"]] if "loss" in logs else []

    losses = Losses()
    training = made(tmp_path, max_steps=3, logging_steps=1)
    training.remove_callback(Resume)
    training.add_callback(losses)
    training.train()
    assert len(losses.found) == 3
    assert not (tmp_path / "run").exists()
