"""A transform that draws from a generator in an attribute of its class."""

from resumable import Trainer
from tests.patterns.toys import *


class Jitter:
    rng = random.Random(4)

    def __call__(self, x):
        return x + self.rng.gauss(0, 0.1)


class Transformed(torch.utils.data.Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 64

    def __getitem__(self, at):
        return self.transform(INPUTS[at]), LABELS[at]


model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches(Transformed(Jitter()))):
        update(optimizer, loss_of(model, x, y))
finish(model)
