"""Programs with subclasses of `transformers.Trainer`, adapters of PEFT, and streams of `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, GPT2ForSequenceClassification, PreTrainedTokenizerFast
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

from tests.huggingface.programs import arguments, gpt2, train_on_rows, trainer

SPECIAL = ["[PAD]", "[EOS]", "[UNK]", "[CLS]", "[SEP]"]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of 32 words."""
    words = [*SPECIAL, *(f"w{number}" for number in range(32 - len(SPECIAL)))]
    of_words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    of_words.pre_tokenizer = pre_tokenizers.Whitespace()
    of_words.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return PreTrainedTokenizerFast(tokenizer_object=of_words, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]")


def texts(count: int = 37) -> list[str]:
    """Return texts of different lengths."""
    draw = torch.Generator().manual_seed(3)
    return [
        " ".join(f"w{number}" for number in torch.randint(0, 27, (3 + index % 5,), generator=draw).tolist())
        for index in range(count)
    ]


def _options(**options: Any) -> dict[str, Any]:
    chosen = arguments(**options).to_dict()
    names = (
        "output_dir num_train_epochs per_device_train_batch_size per_device_eval_batch_size "
        "gradient_accumulation_steps report_to logging_steps disable_tqdm use_cpu eval_strategy eval_steps "
        "save_strategy lr_scheduler_type learning_rate dataloader_num_workers"
    )
    return {name: chosen[name] for name in names.split()}


def sft(callbacks: list[Any], *, seed: int = 0, packing: bool = False, **options: Any) -> None:
    """Train by trl's SFTTrainer."""
    model = gpt2()
    torch.manual_seed(seed)
    data = Dataset.from_dict({"text": texts()})
    args = SFTConfig(**_options(**options), packing=packing, max_length=16, bf16=False, dataset_text_field="text")
    _tune(SFTTrainer, data, model=model, args=args, callbacks=callbacks)


def _pairs() -> Dataset:
    rows = texts(74)
    return Dataset.from_dict({"prompt": rows[:37], "chosen": rows[37:], "rejected": rows[37:][::-1]})


def dpo(callbacks: list[Any], *, seed: int = 0, sync: bool = False, **options: Any) -> None:
    """Train by trl's DPOTrainer, against a reference, which with `sync` follows the model each second update."""
    model, reference = gpt2(), gpt2()
    torch.manual_seed(seed)
    following = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.6} if sync else {}
    args = DPOConfig(**_options(**options), **following, max_length=16, bf16=False)
    _tune(DPOTrainer, _pairs(), model=model, ref_model=reference, args=args, callbacks=callbacks)


def kto(callbacks: list[Any], *, seed: int = 0, **options: Any) -> None:
    """Train by trl's KTOTrainer, against a reference."""
    model, reference = gpt2(), gpt2()
    torch.manual_seed(seed)
    rows = texts(74)
    labels = [number % 3 > 0 for number in range(37)]
    data = Dataset.from_dict({"prompt": rows[:37], "completion": rows[37:], "label": labels})
    args = KTOConfig(**_options(**options), max_length=16, bf16=False)
    _tune(KTOTrainer, data, model=model, ref_model=reference, args=args, callbacks=callbacks)


def reward(callbacks: list[Any], *, seed: int = 0, **options: Any) -> None:
    """Train a model of rewards by trl's RewardTrainer."""
    torch.manual_seed(0)
    config = gpt2().config
    config.num_labels = 1
    model = GPT2ForSequenceClassification(config)
    torch.manual_seed(seed)
    args = RewardConfig(**_options(**options), max_length=16, bf16=False)
    _tune(RewardTrainer, _pairs(), model=model, args=args, callbacks=callbacks)


def _tune(kind: Any, data: Dataset, **passed: Any) -> None:
    """Train by one of trl's trainers; the first rows are those of its evaluation, too."""
    kind(train_dataset=data, eval_dataset=data.select(range(12)), processing_class=tokenizer(), **passed).train()


def lora(callbacks: list[Any], *, seed: int = 0, **options: Any) -> None:
    """Train adapters of PEFT around a frozen GPT-2."""
    torch.manual_seed(4)
    base = gpt2()
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, lora_dropout=0.1, target_modules=["c_attn"]))
    train_on_rows(model, callbacks, seed=seed, **options)


def sentences(callbacks: list[Any], *, seed: int = 0, several: bool = False, **options: Any) -> None:
    """Train by sentence-transformers, with a loss that has weights of its own, or several for as many data sets."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import SoftmaxLoss

    torch.manual_seed(0)
    folder = Path("base").absolute()
    if not folder.exists():
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        BertModel(BertConfig(vocab_size=32, max_position_embeddings=16, **sizes)).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    model = SentenceTransformer(str(folder), device="cpu")
    torch.manual_seed(0)
    loss: Any = SoftmaxLoss(model, model.get_embedding_dimension(), 2)
    torch.manual_seed(seed)
    rows = texts(74)
    data = Dataset.from_dict({"a": rows[:37], "b": rows[37:], "label": [number % 2 for number in range(37)]})
    evaluated: Any = data.select(range(12))
    if several:
        loss = {"all-nli": loss, "other": SoftmaxLoss(model, model.get_embedding_dimension(), 2)}
        data, evaluated = (DatasetDict(dict.fromkeys(loss, each)) for each in (data, evaluated))
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**_options(**options)),
        train_dataset=data,
        eval_dataset=evaluated,
        loss=loss,
        callbacks=callbacks,
    ).train()


def streamed(callbacks: list[Any], **options: Any) -> None:
    """Train on a stream of `datasets`, shuffled by a buffer."""
    rows = {"x": torch.randn(37, 4, generator=torch.Generator().manual_seed(1)).tolist()}
    rows["labels"] = [[sum(row)] for row in rows["x"]]
    stream = datasets.Dataset.from_dict(rows).to_iterable_dataset(num_shards=2).shuffle(seed=5, buffer_size=8)
    trainer(callbacks, stream.with_format("torch"), **{"max_steps": 15, **options}).train()
