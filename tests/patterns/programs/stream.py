"""A stream without addresses: a generator that shuffles through a buffer."""

from resumable import Trainer
from tests.patterns.toys import *


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        rng, buffer = random.Random(6), []
        for at in range(64):
            buffer.append(at)
            if len(buffer) > 10:
                chosen = buffer.pop(rng.randrange(len(buffer)))
                yield INPUTS[chosen], LABELS[chosen]
        for chosen in buffer:
            yield INPUTS[chosen], LABELS[chosen]


model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(DataLoader(Stream(), 8)):
        update(optimizer, loss_of(model, x, y))
finish(model)
