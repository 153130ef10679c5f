"""Off-policy learning: a replay buffer in a deque, and exploration that depends on a counter of its own."""

from collections import deque

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model, 0.05)
buffer = deque(maxlen=40)
given = {"buffer": buffer} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
global_step = 0
if MENDED:
    trainer.carry("global_step")
for _ in trainer.steps(30):
    at = random.randrange(64)
    epsilon = max(0.1, 1.0 - global_step / 20)
    label = int(LABELS[at]) if random.random() > epsilon else random.randrange(2)
    buffer.append((INPUTS[at], label))
    global_step += 1
    drawn = random.sample(list(buffer), min(len(buffer), 8))
    x, y = torch.stack([each for each, _ in drawn]), torch.tensor([label for _, label in drawn])
    update(optimizer, loss_of(model, x, y))
finish(model)
