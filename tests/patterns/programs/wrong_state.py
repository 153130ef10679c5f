"""A stream whose state_dict forgets half of its state."""

from resumable import Trainer
from tests.patterns.toys import *


class Stream(torch.utils.data.IterableDataset):
    def __init__(self):
        self.at, self.rng = 0, random.Random(8)

    def __iter__(self):
        while self.at < 64:
            self.at += 1
            yield INPUTS[self.at - 1] + self.rng.random(), LABELS[self.at - 1]
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(DataLoader(Stream(), 8)):
        update(optimizer, loss_of(model, x, y))
finish(model)
