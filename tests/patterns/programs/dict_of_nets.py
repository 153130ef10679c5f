"""Nets and optimizers by name, in dicts."""

from resumable import Trainer
from tests.patterns.toys import *

nets = {name: net() for name in ("left", "right")}
optimizers = {name: sgd(each, 0.05) for name, each in nets.items()}
trainer = Trainer(CONFIG, nets=nets, optimizers=optimizers)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        for name, each in nets.items():
            update(optimizers[name], loss_of(each, x, y))
finish(nets["left"], nets["right"])
