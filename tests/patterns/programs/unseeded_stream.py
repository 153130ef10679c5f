"""A stream that seeds its shuffle by the clock: another order at each launch."""

import time

from resumable import Trainer
from tests.patterns.toys import *


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        order = list(range(64))
        random.Random(time.time_ns()).shuffle(order)
        return ((INPUTS[at], LABELS[at]) for at in order)


model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(DataLoader(Stream(), 8)):
        update(optimizer, loss_of(model, x, y))
finish(model)
