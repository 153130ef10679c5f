"""The rate of a dropout follows the epochs, changed in the loop and kept in the module alone."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
if MENDED:
    rate = 0.1
    trainer.carry("rate")
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        if MENDED:
            model[2].p = rate
        update(optimizer, loss_of(model, x, y))
        if MENDED:
            rate = min(0.8, rate + 0.02)
        else:
            model[2].p = min(0.8, model[2].p + 0.02)
finish(model)
