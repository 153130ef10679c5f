"""A class around the loop, with its state in plain attributes."""

from resumable import Trainer, attributes
from tests.patterns.toys import *


class Experiment:
    def __init__(self):
        self.model = net()
        self.optimizer = sgd(self.model)
        self.scale = 1.0

    def run(self):
        given = {"experiment": attributes(self)} if MENDED else {"model": self.model, "optimizer": self.optimizer}
        trainer = Trainer(CONFIG, **given)
        for _ in trainer.epochs(3):
            for x, y in trainer.batches(batches()):
                loss = loss_of(self.model, x, y)
                update(self.optimizer, loss / self.scale)
                self.scale = 0.9 * self.scale + 0.1 * loss.item()


experiment = Experiment()
experiment.run()
finish(experiment.model, experiment.scale)
