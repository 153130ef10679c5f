"""Meters of classes of the program, with a mean that they compute and that is only printed."""

from resumable import Trainer
from tests.patterns.toys import *


class Meter:
    def __init__(self):
        self.sum = self.count = self.mean = 0

    def update(self, value):
        self.sum += value
        self.count += 1
        self.mean = self.sum / self.count


def train(trainer, loader):
    losses = Meter()
    for number, (x, y) in trainer.enumerate(loader):
        loss = loss_of(model, x, y)
        losses.update(loss.item())
        update(optimizer, loss)
        if number % 3 == 0:
            print(f"{number}: {losses.mean:.3f}")


model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    train(trainer, batches())
finish(model)
