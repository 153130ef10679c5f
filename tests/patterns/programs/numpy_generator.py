"""Mixup with a generator of NumPy that a function of the program draws from."""

from resumable import Trainer
from tests.patterns.toys import *

rng = numpy.random.default_rng(2)


def mixed(x, y):
    order = rng.permutation(len(x))
    share = float(rng.beta(0.5, 0.5))
    return share * x + (1 - share) * x[order], y


model = net()
optimizer = sgd(model)
given = {"rng": rng} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, *mixed(x, y)))
finish(model)
