"""What cannot resume exactly is refused in words, before anything is trained or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

from resumable import ConfigError
from resumable.transformers import Resume
from tests.harness.place import Launch, killed
from tests.huggingface.launches import Place
from tests.huggingface.programs import IS_NEW, Points, arguments, trainer


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


@pytest.mark.parametrize("name", ["GRPOTrainer", "RLOOTrainer", "OnlineDPOTrainer", "AsyncGRPOTrainer"])
def test_trainers_that_generate_their_data(tmp_path: Path, name: str) -> None:
    kind = type(name, (Trainer,), {})
    refused(made_as(kind, tmp_path), f"{name} generates its data")


def test_a_trainer_with_a_loop_of_its_own(tmp_path: Path) -> None:
    class Own(Trainer):
        def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
            self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)

    refused(made_as(Own, tmp_path), "a loop of its own")


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
