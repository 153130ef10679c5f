"""L-BFGS, whose step calls a closure several times."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):

        def closure():
            optimizer.zero_grad()
            loss = loss_of(model, x, y)
            loss.backward()
            return loss

        optimizer.step(closure)
        pause()
finish(model)
