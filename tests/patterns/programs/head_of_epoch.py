"""The head of an epoch halves a rate that is kept in a given dict, and draws noise for the epoch."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
state = {"lr": 0.1}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, state=state)
if MENDED:
    trainer.carry("lr", "noise")
for _ in trainer.epochs(4):
    state["lr"] *= 0.7
    lr = state["lr"]
    noise = 0.1 * torch.randn(8)
    for x, y in trainer.batches(batches()):
        optimizer.param_groups[0]["lr"] = lr
        update(optimizer, loss_of(model, x + noise, y))
finish(model, lr)
