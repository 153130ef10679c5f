"""`zip` of the batches and `itertools.count`, which begins at 0 again after a resume."""

import itertools

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for number, (x, y) in zip(itertools.count(), trainer.batches(batches())):
        optimizer.param_groups[0]["lr"] = 0.1 * (number + 1) / 8
        update(optimizer, loss_of(model, x, y))
finish(model)
