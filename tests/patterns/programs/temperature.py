"""A plain attribute of the model, which anneals while it trains."""

from resumable import Trainer
from tests.patterns.toys import *


class Annealed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.temperature = net(), 1.0

    def forward(self, x):
        return self.body(x) / self.temperature


model = Annealed()
optimizer = sgd(model)
settings = {"temperature": 1.0}
given = {"settings": settings} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        if MENDED:
            model.temperature = settings["temperature"]
        update(optimizer, loss_of(model, x, y))
        if MENDED:
            settings["temperature"] *= 0.97
        else:
            model.temperature *= 0.97
finish(model)
