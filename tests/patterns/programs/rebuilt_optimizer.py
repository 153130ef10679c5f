"""A new optimizer for each task, so that the one that was given never steps again."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(4):
    if not MENDED:
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
finish(model)
