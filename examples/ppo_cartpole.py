"""PPO balances a pole on a cart: a simulation that is saved like a model, and a rollout that outlives a crash.

Every update plays the game for a while and then learns from what it saw in several passes. What was played lies in a
plain dict of tensors that is filled in place: because it is given to the trainer, a run that is killed between two
passes goes on learning from the very same rollout.
"""

import math

import torch
from torch import nn
from torch.distributions import Categorical
from torch.utils.data import DataLoader, TensorDataset

from resumable import Trainer

UPDATES = 20
GAMES = 8  # played side by side
MOVES = 64  # in each game, per update
PASSES = 4  # over one rollout
DISCOUNT, SMOOTHING, CLIP = 0.99, 0.95, 0.2


class CartPole:
    """Several carts, each with a pole to keep upright (Barto, Sutton and Anderson, 1983)."""

    def __init__(self, games):
        self.state = torch.rand(games, 4) * 0.1 - 0.05  # place, speed, angle, angular speed
        self.age = torch.zeros(games)

    def move(self, right):
        """Push every cart to the right or to the left for 0.02 seconds; returns which games are over and begin anew."""
        _, speed, angle, turn = self.state.unbind(1)
        push = torch.where(right.bool(), 10.0, -10.0)
        swing = (push + 0.05 * turn**2 * angle.sin()) / 1.1
        turning = (9.8 * angle.sin() - angle.cos() * swing) / (0.5 * (4 / 3 - 0.1 * angle.cos() ** 2 / 1.1))
        moving = swing - 0.05 * turning * angle.cos() / 1.1
        self.state = self.state + 0.02 * torch.stack([speed, moving, turn, turning], dim=1)
        self.age = self.age + 1
        over = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > math.radians(12)) | (self.age >= 500)
        fresh = torch.rand(len(over), 4) * 0.1 - 0.05
        self.state = torch.where(over[:, None], fresh, self.state)
        self.age = torch.where(over, 0.0, self.age)
        return over

    def state_dict(self):
        return {"state": self.state, "age": self.age}

    def load_state_dict(self, state):
        self.state, self.age = state["state"], state["age"]


class Player(nn.Module):
    def __init__(self):
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
        self.worth = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, seen):
        return Categorical(logits=self.policy(seen)), self.worth(seen).squeeze(-1)


@torch.no_grad()
def play(player, game, rollout):
    """Fill `rollout` in place with MOVES moves of every game; returns the mean number of moves that a game lasted."""
    shape = (MOVES, GAMES)
    seen, actions, chances, gains, returns = (rollout[key].view(*shape, *rollout[key].shape[1:]) for key in rollout)
    worth, over = torch.zeros(MOVES + 1, GAMES), torch.zeros(shape)
    for now in range(MOVES):
        choices, worth[now] = player(game.state)
        seen[now], actions[now] = game.state, choices.sample()
        chances[now] = choices.log_prob(actions[now])
        over[now] = game.move(actions[now])
    worth[MOVES] = player(game.state)[1]
    gain = torch.zeros(GAMES)
    for now in reversed(range(MOVES)):  # generalized advantage estimation (Schulman et al., 2015)
        goes_on = 1 - over[now]
        gain = 1 + DISCOUNT * worth[now + 1] * goes_on - worth[now] + DISCOUNT * SMOOTHING * goes_on * gain
        gains[now], returns[now] = gain, gain + worth[now]
    return MOVES * GAMES / max(1, over.sum().item())


torch.manual_seed(0)
game, player = CartPole(GAMES), Player()
optimizer = torch.optim.Adam(player.parameters(), 3e-3)
rollout = {
    "seen": torch.zeros(MOVES * GAMES, 4),
    "actions": torch.zeros(MOVES * GAMES, dtype=torch.int64),
    "chances": torch.zeros(MOVES * GAMES),
    "gains": torch.zeros(MOVES * GAMES),
    "returns": torch.zeros(MOVES * GAMES),
}
loader = DataLoader(TensorDataset(*rollout.values()), batch_size=128, shuffle=True)

config = {"run": "runs/ppo_cartpole", "every": {"steps": 50}}
trainer = Trainer(config, player=player, optimizer=optimizer, game=game, rollout=rollout)
for update in trainer.epochs(UPDATES):
    moves = play(player, game, rollout)
    for _ in range(PASSES):
        for seen, actions, chances, gains, returns in trainer.batches(loader):
            choices, worth = player(seen)
            ratio = (choices.log_prob(actions) - chances).exp()
            gains = (gains - gains.mean()) / (gains.std() + 1e-8)
            won = torch.minimum(ratio * gains, ratio.clamp(1 - CLIP, 1 + CLIP) * gains).mean()
            loss = 0.5 * (worth - returns).square().mean() - won - 0.01 * choices.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(player.parameters(), 0.5)
            optimizer.step()
            trainer.log(loss=loss)
    print(f"update {update:3}  moves per game {moves:.0f}")
