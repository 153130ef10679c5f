"""A data set that draws from a generator at the head of its module."""

from resumable import Trainer
from tests.patterns.toys import *

AUGMENT = numpy.random.default_rng(4)


class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, at):
        return INPUTS[at] + torch.as_tensor(AUGMENT.normal(0, 0.1, 8), dtype=torch.float32), LABELS[at]


model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches(Noisy())):
        update(optimizer, loss_of(model, x, y))
finish(model)
