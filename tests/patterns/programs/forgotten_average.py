"""An average of the weights by hand, in a copy of the model that was not given."""

import copy

from resumable import Trainer
from tests.patterns.toys import *

model = net()
ema = copy.deepcopy(model)
optimizer = sgd(model)
given = {"ema": ema} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
        with torch.no_grad():
            for average, weight in zip(ema.parameters(), model.parameters()):
                average.lerp_(weight, 0.1)
finish(ema)
