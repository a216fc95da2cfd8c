"""Small worlds in the form of PettingZoo and in that of Gymnasium, importable by worker processes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

PLAYERS, LENGTH = 3, 5


class Mortal:
    """The twin of `tests.support.worlds.mortal`: player p > 0 dies in step p, counted from 1, and player 0 lives on.

    Everybody is rewarded `bonus` for action 1, and the step's number is added, which starts from 0.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    max_cycles = LENGTH

    def __init__(self, bonus: float = 1.0, render_mode: str | None = None, players: int = PLAYERS) -> None:
        self.possible_agents = [f"p{i}" for i in range(players)]
        self.agents: list[str] = []
        self.bonus, self.time = bonus, 0

    def observation_space(self, name):
        return gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def action_space(self, name):
        return gym.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents, self.time = list(self.possible_agents), 0
        return self.seen(), {}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        before, self.time = self.time, self.time + 1
        over = {name: int(name[1:]) == self.time or self.time >= LENGTH for name in self.agents}
        reward = {name: self.bonus * (actions[name] == 1) + before for name in self.agents}
        cut = dict.fromkeys(self.agents, False)
        seen, infos = self.seen(), {name: {"time": float(self.time)} for name in self.agents}
        self.agents = [name for name in self.agents if not over[name]]
        return seen, reward, over, cut, infos

    def seen(self):
        return {name: np.float32([int(name[1:]), self.time]) / LENGTH for name in self.agents}

    def state(self):
        return np.float32([self.time])

    def render(self):
        return np.full((16, 16, 3), 10 * self.time, np.uint8)

    def close(self):
        pass


class Unlike(Mortal):
    """Players that see, and may do, unlike things; nobody dies, and the last step is cut off."""

    metadata = {"render_modes": []}

    def __init__(self) -> None:
        super().__init__(players=2)
        self.given: list[dict] = []

    def observation_space(self, name):
        mission = gym.spaces.Dict({"at": gym.spaces.Box(0.0, 9.0, (2,)), "word": gym.spaces.Text(5)})
        return gym.spaces.Discrete(3, start=4) if name == "p0" else mission

    def action_space(self, name):
        return gym.spaces.Discrete(2 if name == "p0" else 4, start=1)

    def step(self, actions):
        self.given.append(dict(actions))
        self.time += 1
        last = self.time >= LENGTH
        here, self.agents = self.agents, [] if last else self.agents
        reward = {name: float(actions[name]) for name in here}
        return self.seen(here), reward, dict.fromkeys(here, False), dict.fromkeys(here, last), {}

    def seen(self, here=None):
        return {"p0": 4 + self.time % 3, "p1": {"at": np.float32([self.time, 7]), "word": "go"}}

    def state(self):
        raise NotImplementedError


class Lucky(Mortal):
    """Observes numbers from the system where it has no seed; nobody dies, and the world terminates."""

    def reset(self, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        return super().reset()

    def seen(self):
        return {name: self.rng.normal(size=2).astype(np.float32) for name in self.agents}

    def step(self, actions):
        self.time += 1
        over = dict.fromkeys(self.agents, self.time >= LENGTH)
        seen = self.seen()
        if self.time >= LENGTH:
            self.agents = []
        return seen, {name: float(seen[name][0]) for name in over}, over, dict.fromkeys(over, False), {}


class Failing(Lucky):
    """Raises in its third step if it is told to, and then returns a reward that is no number."""

    def __init__(self, how: float = 0.0) -> None:
        super().__init__()
        self.how = how

    def step(self, actions):
        seen, reward, *rest = super().step(actions)
        if self.time == 3 and self.how == 1.0:
            raise RuntimeError("the arena is closed")
        if self.time == 3 and self.how == 2.0:
            reward["p1"] = float("nan")
        return seen, reward, *rest


class Gone(Mortal):
    """A player is missing from the beginning."""

    def reset(self, seed=None, options=None):
        super().reset()
        self.agents = ["p0"]
        return self.seen(), {}


class Nothing(Mortal):
    """A world whose player may do two kinds of things."""

    def action_space(self, name):
        return gym.spaces.Discrete(2) if name == "p0" else gym.spaces.Box(-1.0, 1.0, (1,))


class Driving(Mortal):
    """Players whose action is a lane and a push at once, the second one with fewer lanes and less to push.

    A player earns its lane, which counts from 1, and ten times its push; nobody dies.
    """

    def __init__(self, alike: bool = True) -> None:
        super().__init__(players=2)
        self.alike = alike

    def action_space(self, name):
        few = name == "p1" and not self.alike
        return gym.spaces.Dict(
            {
                "lane": gym.spaces.Discrete(2 if few else 3, start=1),
                "push": gym.spaces.Box(-1.0, 0.5 if few else 1.0, (1 if few else 2,)),
            }
        )

    def step(self, actions):
        assert all(action in self.action_space(name) for name, action in actions.items())
        self.time += 1
        reward = {name: float(a["lane"] + 10 * a["push"].sum()) for name, a in actions.items()}
        over, seen = dict.fromkeys(self.agents, self.time >= LENGTH), self.seen()
        self.agents = [] if self.time >= LENGTH else self.agents
        return seen, reward, over, dict.fromkeys(over, False), {}


class Pair(gym.Env):
    """Two players in tuples: the first one ends in step 2, the second in step 4, each with a flag of its own."""

    def __init__(self, flags: str = "list") -> None:
        self.observation_space = gym.spaces.Tuple([gym.spaces.Box(-9, 9, (1,), np.float32)] * 2)
        self.action_space = gym.spaces.Tuple([gym.spaces.Box(-1, 1, (2,), np.float32)] * 2)
        self.flags, self.time = flags, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.seen(), {}

    def step(self, action):
        self.time += 1
        ends, rewards = [self.time >= 2, self.time >= 4], [float(a.sum()) for a in action]
        if self.flags == "list":
            return self.seen(), rewards, ends, False, {}
        return self.seen(), rewards[0], ends[0], False, {"agents_rewards": rewards, "agents_terminated": ends}

    def seen(self):
        return np.float32([self.time]), np.float32([-self.time])


gym.register("Pair-v0", entry_point=Pair, max_episode_steps=9)
