"""Patience: how many epochs were bad in a row decides when to stop."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
best, bad = float("inf"), 0
if MENDED:
    trainer.carry("best", "bad")
for _ in trainer.epochs(12):
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
    value = loss_of(model.eval(), INPUTS, LABELS).item()
    model.train()
    bad = 0 if value < best - 0.3 else bad + 1
    best = min(best, value)
    if bad >= 3:
        trainer.stop()
        break
finish(model, trainer.epoch)
