"""A transform with a random state of its own, as MONAI's have, and a seed that is set once."""

from resumable import Trainer
from tests.patterns.toys import *


class RandomShift:
    def __init__(self):
        self.R = numpy.random.RandomState()

    def set_random_state(self, seed):
        self.R.seed(seed)
        return self

    def __call__(self, x):
        return x + float(self.R.normal(0, 0.1))


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
    for x, y in trainer.batches(batches(Transformed(RandomShift().set_random_state(3)))):
        update(optimizer, loss_of(model, x, y))
finish(model)
