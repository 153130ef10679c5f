"""A data set whose difficulty the loop raises."""

from resumable import Trainer, attributes
from tests.patterns.toys import *


class Noisy(torch.utils.data.Dataset):
    def __init__(self):
        self.noise = 0.0

    def __len__(self):
        return 64

    def __getitem__(self, at):
        return INPUTS[at] + self.noise * torch.randn(8), LABELS[at]


model = net()
optimizer = sgd(model)
data = Noisy()
given = {"data": attributes(data)} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches(data)):
        update(optimizer, loss_of(model, x, y))
        data.noise += 0.02
finish(model, data.noise)
