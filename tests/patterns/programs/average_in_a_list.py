"""An average of the weights in a list of tensors, which a function of the program changes in place."""

from resumable import Trainer
from tests.patterns.toys import *


@torch.no_grad()
def update_average(averages, parameters):
    for average, parameter in zip(averages, parameters):
        average.detach().mul_(0.9).add_(parameter, alpha=0.1)


model = net()
optimizer = sgd(model)
averages = [parameter.detach().clone() for parameter in model.parameters()]
given = {"averages": averages} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
        update_average(averages, model.parameters())
finish(model, averages)
