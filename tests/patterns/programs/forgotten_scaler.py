"""A gradient scaler that was not given."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
given = {"scaler": scaler} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, x, y)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 40.0)
        pause()
        scaler.step(optimizer)
        scaler.update()
finish(model, scaler.get_scale())
