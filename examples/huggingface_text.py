"""A small GPT-2 learns to write Python from the standard library's own sources. Nothing is downloaded.

One line makes Hugging Face's Trainer exact to resume. Kill it in an epoch, in a window of accumulation or in its
evaluation, and run it again.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import Dataset

try:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    from resumable.transformers import Resume
except ImportError as error:
    raise SystemExit(f"{error}\nthis example needs: pip install transformers accelerate") from error

CHARACTERS = 128  # ASCII: a character is its own token
CONTEXT = 64


class Windows(Dataset):
    """Windows of the text, each cut at a place that is drawn whenever it is read."""

    def __init__(self, text, count):
        self.text, self.count = text, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        start = torch.randint(len(self.text) - CONTEXT, ()).item()
        window = self.text[start : start + CONTEXT]
        return {"input_ids": window, "labels": window}


class Fixed(Windows):
    """The same windows each time."""

    def __getitem__(self, index):
        window = self.text[index * CONTEXT : (index + 1) * CONTEXT]
        return {"input_ids": window, "labels": window}


def read_sources():
    """Return the modules of the standard library as one tensor of ASCII codes."""
    paths = sorted(Path(argparse.__file__).parent.glob("*.py"))
    return torch.tensor(list("".join(path.read_text("utf-8") for path in paths).encode("ascii", "ignore")))


if __name__ == "__main__":
    torch.set_num_threads(1)  # for a model this small, more threads only wait for each other
    torch.manual_seed(0)
    text = read_sources()
    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": CONTEXT}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=CHARACTERS, **sizes, **special))
    arguments = TrainingArguments(
        output_dir="runs/huggingface_text_files",
        num_train_epochs=3,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        eval_strategy="epoch",
        save_strategy="no",  # the checkpoints are those of Resume
        logging_steps=5,
        dataloader_pin_memory=False,
        report_to=[],
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Windows(text[:-4096], 240),
        eval_dataset=Fixed(text[-4096:], 64),
        callbacks=[Resume({"run": "runs/huggingface_text", "every": {"steps": 10}})],
    )
    trainer.train()
    print(f"loss on unseen code {trainer.evaluate()['eval_loss']:.3f}")
