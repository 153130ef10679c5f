"""A recurrent net whose hidden state goes from one batch to the next, detached, and is zero at each epoch's head."""

from resumable import Trainer
from tests.patterns.toys import *


def repackage(state):
    return tuple(each.detach() for each in state)


lstm, head = nn.LSTM(8, 6), nn.Linear(6, 2)
model = nn.ModuleList([lstm, head])
optimizer = sgd(model, 0.5)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
if MENDED:
    trainer.carry("hidden")
for _ in trainer.epochs(3):
    hidden = (torch.zeros(1, 1, 6), torch.zeros(1, 1, 6))
    for x, y in trainer.batches(batches()):
        hidden = repackage(hidden)
        out, hidden = lstm(x.unsqueeze(1), hidden)
        update(optimizer, nn.functional.cross_entropy(head(out.squeeze(1)), y))
finish(model)
