"""A masked language model with `transformers.Trainer`: with `resume_from_checkpoint`, and with `Resume`."""

from __future__ import annotations

import os
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models
from torch.utils.data import Dataset, Subset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from resumable.transformers import Resume
from tests.peers.probe import Probe
from tests.peers.training import (
    BATCH,
    CONFIG,
    EPOCHS,
    EVALUATE_EVERY,
    SAMPLES,
    SAVE_EVERY,
    SEED,
    WINDOW,
    WORKERS,
)

SPECIAL = ("[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]")
WORDS = SAMPLES  # so that a row can begin with a word of its own, which names it


class Rows(Dataset[dict[str, list[int]]]):
    """Rows of words, whose first one is their number and is not masked."""

    def __init__(self) -> None:
        drawn = torch.Generator().manual_seed(7)
        self.rows = torch.randint(len(SPECIAL), len(SPECIAL) + WORDS, (SAMPLES, 12), generator=drawn)
        self.rows[:, 0] = len(SPECIAL) + torch.arange(SAMPLES)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": self.rows[index].tolist(), "special_tokens_mask": [1] + 11 * [0]}


def masking() -> DataCollatorForLanguageModeling:
    """Return a collator, which masks words at random in the workers."""
    words = {word: number for number, word in enumerate([*SPECIAL, *(f"w{number}" for number in range(WORDS))])}
    named = dict(zip(("pad_token", "unk_token", "mask_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    return DataCollatorForLanguageModeling(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named))


class Watched(Trainer):
    """Shows batches to the probe."""

    probe: Probe

    def training_step(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        ids = inputs["input_ids"]
        number = self.state.global_step * WINDOW + self.batch_of_window
        self.batch_of_window = (self.batch_of_window + 1) % WINDOW
        epoch = number * BATCH // SAMPLES
        self.probe.batch(epoch, number, ids[:, 0] - len(SPECIAL), torch.stack([ids, inputs["labels"]]))
        return super().training_step(model, inputs, *arguments, **options)

    batch_of_window = 0


class Watch(TrainerCallback):
    """Shows the log to the probe, and the places of death."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        of_time = ("_runtime", "_per_second")
        self._probe.log(state.global_step, **{key: value for key, value in logs.items() if not key.endswith(of_time)})

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._probe.reach("window", state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._probe.reach("update", state.global_step)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._probe.reach("evaluation", state.global_step)


def trainer(probe: Probe, callbacks: list[Any], **options: Any) -> Trainer:
    """Return a trainer with these callbacks."""
    transformers.logging.set_verbosity_error()
    set_seed(SEED)
    sizes: dict[str, int] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(SPECIAL) + WORDS, intermediate_size=64, max_position_embeddings=16, **sizes)
    arguments = TrainingArguments(
        output_dir="checkpoints",
        seed=SEED,
        data_seed=SEED,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        gradient_accumulation_steps=WINDOW,
        dataloader_num_workers=WORKERS,
        lr_scheduler_type="cosine",
        learning_rate=0.001,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=EVALUATE_EVERY,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    watched = Watched(
        model=BertForMaskedLM(config),
        args=arguments,
        train_dataset=Rows(),
        eval_dataset=Subset(Rows(), range(12)),
        data_collator=masking(),
        callbacks=[*callbacks, Watch(probe)],
    )
    watched.probe = probe
    return watched


def own(probe: Probe, *, inside: bool = True) -> None:
    """Resume from the last folder that the trainer wrote, every few updates or at the ends of epochs."""
    often = {"save_strategy": "steps", "save_steps": SAVE_EVERY} if inside else {"save_strategy": "epoch"}
    watched = trainer(probe, [], **often)
    last = get_last_checkpoint("checkpoints") if os.path.isdir("checkpoints") else None
    watched.train(resume_from_checkpoint=last)
    probe.end(watched.model, watched.optimizer)


def resumable(probe: Probe) -> None:
    """Resume with this package."""
    config = {**CONFIG, "every": {"steps": SAVE_EVERY, "minutes": None}}
    watched = trainer(probe, [Resume(config)], save_strategy="no")
    watched.train()
    probe.end(watched.model, watched.optimizer)
