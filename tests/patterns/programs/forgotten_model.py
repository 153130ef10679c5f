"""The optimizer was given, and the model that it trains was not."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
given = {"model": model} if MENDED else {}
trainer = Trainer(CONFIG, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
finish(model)
