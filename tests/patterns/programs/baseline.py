"""REINFORCE: a running mean of the rewards is the baseline of the next update."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model, 0.05)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
running_reward = 0.0
if MENDED:
    trainer.carry("running_reward")
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        policy = torch.distributions.Categorical(logits=model(x))
        action = policy.sample()
        reward = (action == y).float()
        update(optimizer, -(policy.log_prob(action) * (reward - running_reward)).mean())
        running_reward = 0.9 * running_reward + 0.1 * reward.mean().item()
finish(model)
