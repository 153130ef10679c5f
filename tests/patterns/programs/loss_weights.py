"""Weights of the classes in a tensor that the loop changes in place."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
class_weights = torch.ones(2)
given = {"class_weights": class_weights} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        loss = nn.functional.cross_entropy(model(x), y, weight=class_weights)
        update(optimizer, loss)
        class_weights.mul_(0.9).add_(0.1 * torch.bincount(y, minlength=2) / len(y))
finish(model)
