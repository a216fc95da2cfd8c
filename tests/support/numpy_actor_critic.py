"""One `learn` call of PPO and of A2C in float64 NumPy, by the formulas of the papers and without a line of fedrl.

Gradients are central differences of the objective, so there is no derivative that could share a mistake.
Parameters are the trees of dicts and tuples that fedrl's learners hold; observations are numbers of states (one-hot).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

STEP = 1e-5  # of the central differences: their error is of the order of its square


@dataclass(frozen=True)
class Settings:
    gamma: float
    gae_lambda: float
    value_coef: float
    entropy_coef: float
    clip: float | None = None
    """PPO's, None for A2C."""
    normalises: bool = True
    """Whether PPO normalises advantages over a batch."""


class Samples(NamedTuple):
    """One entry per sample, on the last axis."""

    state: np.ndarray
    action: np.ndarray
    log_prob: np.ndarray
    advantage: np.ndarray
    target: np.ndarray

    def of(self, which: np.ndarray) -> "Samples":
        return Samples(*(x[..., which] for x in self))


def network(layers: Any, state: np.ndarray) -> np.ndarray:
    x = np.eye(layers[0]["weight"].shape[1])[:, state]
    for layer in layers[:-1]:
        x = np.tanh(layer["weight"] @ x + layer["bias"][:, None])
    return layers[-1]["weight"] @ x + layers[-1]["bias"][:, None]


def log_prob_and_entropy(actor: Any, state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a softmax policy, or of a Gaussian one if the parameters have a `log_std`."""
    if "log_std" not in actor:
        logits = network(actor, state)
        logs = logits - np.log(np.exp(logits).sum(0))
        return logs[action, np.arange(len(action))], -(np.exp(logs) * logs).sum(0)
    mean, std = network(actor["network"], state), np.exp(actor["log_std"])[:, None]
    density = np.exp(-((action - mean) ** 2) / (2 * std**2)) / np.sqrt(2 * np.pi * std**2)
    entropy = 0.5 * np.log(2 * np.pi * np.e * std**2).sum()
    return np.log(density.prod(0)), np.full(state.shape, entropy)


def generalised_advantages(settings: Settings, seen: Any, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The sum of (gamma lambda)^k delta_{t+k} to the end of the episode or of the trajectory, `[time, instances]`."""
    found = np.zeros(here.shape)
    for instance in range(here.shape[1]):
        for start in range(here.shape[0]):
            for k, t in enumerate(range(start, here.shape[0])):
                beyond = 0.0 if seen.terminated[t, instance] else settings.gamma * there[t, instance]
                delta = seen.reward[t, instance] + beyond - here[t, instance]
                found[start, instance] += (settings.gamma * settings.gae_lambda) ** k * delta
                if seen.terminated[t, instance] or seen.truncated[t, instance]:
                    break
    return found


def samples_of(settings: Settings, params: Any, seen: Any) -> Samples:
    """The trajectory, one time step after the other, with what the parameters before learning make of it."""
    shape = seen.reward.shape
    state, next_observation = np.asarray(seen.observation).ravel(), np.asarray(seen.next_observation).ravel()
    action = np.asarray(seen.action)
    action = action.ravel() if action.ndim == 2 else np.moveaxis(action, 1, 0).reshape(action.shape[1], -1)
    here, there = network(params["critic"], state)[0], network(params["critic"], next_observation)[0]
    advantage = generalised_advantages(settings, seen, here.reshape(shape), there.reshape(shape)).ravel()
    log_prob = log_prob_and_entropy(params["actor"], state, action)[0]
    return Samples(state, action, log_prob, advantage, advantage + here)


def ratios(params: Any, batch: Samples) -> np.ndarray:
    return np.exp(log_prob_and_entropy(params["actor"], batch.state, batch.action)[0] - batch.log_prob)


def objective(settings: Settings, params: Any, batch: Samples) -> float:
    """What is minimised over one batch of samples."""
    log_prob, entropy = log_prob_and_entropy(params["actor"], batch.state, batch.action)
    if settings.clip is None:
        gain = log_prob * batch.advantage
    else:
        advantage = batch.advantage
        if settings.normalises:
            advantage = (advantage - advantage.mean()) / advantage.std()
        ratio = ratios(params, batch)
        gain = np.minimum(ratio * advantage, np.clip(ratio, 1 - settings.clip, 1 + settings.clip) * advantage)
    error = (network(params["critic"], batch.state)[0] - batch.target) ** 2
    return (settings.value_coef * error - gain - settings.entropy_coef * entropy).mean()


def slope(settings: Settings, params: Any, batch: Samples) -> Any:
    """The gradient of the objective by central differences."""
    leaves, structure = jax.tree.flatten(params)
    found = [np.zeros_like(leaf) for leaf in leaves]
    for leaf, derivative in zip(leaves, found, strict=True):
        for at in np.ndindex(leaf.shape):
            middle = leaf[at]
            leaf[at] = middle + STEP
            above = objective(settings, jax.tree.unflatten(structure, leaves), batch)
            leaf[at] = middle - STEP
            below = objective(settings, jax.tree.unflatten(structure, leaves), batch)
            leaf[at] = middle
            derivative[at] = (above - below) / (2 * STEP)
    return jax.tree.unflatten(structure, found)


class ClippedSgd:
    """g <- g min(1, max_norm / ||g||), then m <- momentum m + g, theta <- theta - rate m."""

    def __init__(self, rate: float, momentum: float, max_norm: float) -> None:
        self.rate, self.momentum, self.max_norm = rate, momentum, max_norm
        self.ball: list[np.ndarray] | None = None
        self.norms: list[float] = []

    def clipped(self, gradient: Any) -> list[np.ndarray]:
        leaves = jax.tree.leaves(gradient)
        self.norms.append(float(np.sqrt(sum((leaf**2).sum() for leaf in leaves))))
        return [leaf * min(1.0, self.max_norm / self.norms[-1]) for leaf in leaves]

    def direction(self, gradient: list[np.ndarray]) -> list[np.ndarray]:
        ball = self.ball or [np.zeros_like(g) for g in gradient]
        self.ball = [self.momentum * m + g for m, g in zip(ball, gradient, strict=True)]
        return self.ball

    def stepped(self, params: Any, gradient: Any) -> Any:
        leaves, structure = jax.tree.flatten(params)
        steps = self.direction(self.clipped(gradient))
        return jax.tree.unflatten(structure, [p - self.rate * s for p, s in zip(leaves, steps, strict=True)])


class ClippedAdam(ClippedSgd):
    """The gradient clipped as above, then Adam with both corrections of the bias and eps outside the root."""

    def __init__(self, rate: float, b1: float, b2: float, eps: float, max_norm: float) -> None:
        super().__init__(rate, 0.0, max_norm)
        self.b1, self.b2, self.eps = b1, b2, eps
        self.count, self.first, self.second = 0, None, None

    def direction(self, gradient: list[np.ndarray]) -> list[np.ndarray]:
        self.count += 1
        nothing = [np.zeros_like(g) for g in gradient]
        self.first = [self.b1 * m + (1 - self.b1) * g for m, g in zip(self.first or nothing, gradient, strict=True)]
        self.second = [
            self.b2 * v + (1 - self.b2) * g**2 for v, g in zip(self.second or nothing, gradient, strict=True)
        ]
        one, two = 1 - self.b1**self.count, 1 - self.b2**self.count
        return [m / one / (np.sqrt(v / two) + self.eps) for m, v in zip(self.first, self.second, strict=True)]
