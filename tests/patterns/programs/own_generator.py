"""A generator function of the program hands the batches on, and keeps a mean of its own between them."""

from resumable import Trainer
from tests.patterns.toys import *


def smoothed(source):
    mean = torch.zeros(8)
    if MENDED:
        trainer.carry("mean")
    for x, y in source:
        mean = 0.9 * mean + 0.1 * x.mean(0)
        yield x - mean, y


model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for x, y in smoothed(trainer.batches(batches())):
        update(optimizer, loss_of(model, x, y))
finish(model)
