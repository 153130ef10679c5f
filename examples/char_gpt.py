"""A small GPT that learns to write Python, character by character, from the standard library's own sources.

In the manner of nanoGPT: a `get_batch` that draws from torch's global random stream and is always one batch ahead,
gradient accumulation inside the step, a learning-rate function, and the best loss in a variable. `trainer.steps`
survives any crash, and `trainer.carry` names the variables that cross from one step to the next.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from resumable import Trainer

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=150)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--context", type=int, default=64, help="characters that the model sees at once")
parser.add_argument("--batch", type=int, default=16, help="sequences in one micro-batch")
parser.add_argument("--accumulate", type=int, default=2, help="micro-batches in one step")
parser.add_argument("--compile", action="store_true", help="compile the model (needs a C++ compiler)")
args = parser.parse_args()

CHARACTERS = 128  # ASCII
HEADS = 4


class Block(nn.Module):
    """Attention to what was written so far, then a small network, each beside a shortcut."""

    def __init__(self, width):
        super().__init__()
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        batch, time, width = x.shape
        split = self.query_key_value(self.attention_norm(x)).view(batch, time, 3, HEADS, width // HEADS)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.out(seen.transpose(1, 2).reshape(batch, time, width)))
        return x + self.dropout(self.network(self.network_norm(x)))


class GPT(nn.Module):
    def __init__(self, layers, width, context):
        super().__init__()
        self.characters, self.places = nn.Embedding(CHARACTERS, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(layers)], nn.LayerNorm(width))
        self.head = nn.Linear(width, CHARACTERS, bias=False)
        self.head.weight = self.characters.weight
        nn.init.normal_(self.head.weight, std=0.1)

    def forward(self, text):
        places = torch.arange(text.shape[1], device=text.device)
        return self.head(self.blocks(self.characters(text) + self.places(places)))


def read_sources():
    """The modules of the standard library as one tensor of ASCII codes."""
    paths = sorted(Path(argparse.__file__).parent.glob("*.py"))
    return torch.tensor(list("".join(path.read_text("utf-8") for path in paths).encode("ascii", "ignore")))


def get_batch(text):
    starts = torch.randint(len(text) - args.context, (args.batch,))
    windows = torch.stack([text[start : start + args.context + 1] for start in starts])
    return windows[:, :-1], windows[:, 1:]


def learning_rate(step):
    """A linear warm-up, then a cosine."""
    warm_up = 0.1 * args.steps
    return 4e-3 * min((step + 1) / warm_up, 0.55 + 0.45 * math.cos(math.pi * step / args.steps))


def loss_of(inputs, targets):
    return cross_entropy(predict(inputs).flatten(0, 1), targets.flatten())


@torch.no_grad()
def validate():
    model.eval()
    loss = sum(loss_of(*get_batch(held_out)).item() for _ in range(4)) / 4
    model.train()
    return loss


torch.set_num_threads(1)  # for a model this small, more threads only wait for each other
torch.manual_seed(1337)
text, held_out = read_sources().tensor_split([-100_000])
model = GPT(args.layers, args.width, args.context)
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
predict = torch.compile(model) if args.compile else model

trainer = Trainer({"run": "runs/char_gpt", "every": {"steps": 50}}, model=model, optimizer=optimizer)
inputs, targets = get_batch(text)
best = math.inf
trainer.carry("inputs", "targets", "best")
for step in trainer.steps(args.steps):
    optimizer.param_groups[0]["lr"] = learning_rate(step)
    for _ in range(args.accumulate):
        loss = loss_of(inputs, targets) / args.accumulate
        inputs, targets = get_batch(text)  # for the next turn, while a GPU would still compute
        loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    trainer.log(loss=loss * args.accumulate)
    if (step + 1) % 10 == 0:
        val_loss = validate()
        mark = " *" if val_loss < best else ""
        best = min(best, val_loss)
        print(f"step {step + 1:4}  loss {val_loss:.3f}{mark}")
