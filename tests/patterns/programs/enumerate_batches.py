"""Python's own enumerate counts from 0 again; every fourth batch is treated otherwise."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for number, (x, y) in trainer.enumerate(batches()) if MENDED else enumerate(trainer.batches(batches())):
        loss = loss_of(model, x, y)
        update(optimizer, 2 * loss if number % 4 == 3 else loss)
finish(model)
