"""A list of nets with an optimizer each, given as lists."""

from resumable import Trainer
from tests.patterns.toys import *

nets = [net() for _ in range(3)]
optimizers = [sgd(each, 0.05) for each in nets]
trainer = Trainer(CONFIG, nets=nets, optimizers=optimizers)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        for each, optimizer in zip(nets, optimizers):
            update(optimizer, loss_of(each, x, y))
finish(*nets)
