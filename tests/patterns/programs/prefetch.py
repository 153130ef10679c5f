"""nanoGPT: the next batch is fetched at the end of the turn, and the best loss is a local variable."""

from resumable import Trainer
from tests.patterns.toys import *


def fetch():
    at = torch.randint(0, 64, (8,))
    return INPUTS[at], LABELS[at]


model = net()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
best_loss = float("inf")
best = [tensor.clone() for tensor in model.state_dict().values()]
X, Y = fetch()
if MENDED:
    trainer.carry("X", "Y", "best_loss", "best")
for _ in trainer.steps(24):
    loss = loss_of(model, X, Y)
    X, Y = fetch()
    update(optimizer, loss)
    if loss.item() < best_loss:
        best_loss = loss.item()
        best = [tensor.clone() for tensor in model.state_dict().values()]
finish(model, best, best_loss)
