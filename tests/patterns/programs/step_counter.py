"""A counter of steps of the program's own, on which the warm-up hangs."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
global_step = 0
if MENDED:
    trainer.carry("global_step")
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        optimizer.param_groups[0]["lr"] = 0.1 * min(1.0, (global_step + 1) / 10)
        update(optimizer, loss_of(model, x, y))
        global_step += 1
finish(model)
