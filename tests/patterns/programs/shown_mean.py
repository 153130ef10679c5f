"""A running mean that is only printed, and a clock: no line in the first group."""

import time

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
running, began = 0.0, time.time()
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        loss = loss_of(model, x, y)
        update(optimizer, loss)
        running = 0.9 * running + 0.1 * loss.item()
        print(f"loss {running:.3f} after {time.time() - began:.1f} s")
        began = time.time()
finish(model)
