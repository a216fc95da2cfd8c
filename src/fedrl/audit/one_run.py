"""Audit a whole run, training included, from one run in which each agent is a canary or is left out by a coin.

    coins --agents in or out--> simulate: train, add the canary's direction, clip, aggregate, add noise
          <--guesses-- score of an agent = how far the server's parameters moved along its direction

If a run is (epsilon, delta)-differentially private, no guesser is right much more often than with probability
e^epsilon / (1 + e^epsilon). One run has few coins, so the bound is far below the claim: this is a smoke test, which
finds that the pipeline adds no noise, and not that it adds 80 % of it. `fedrl.audit.mechanism` finds that.

Steinke, Nasr & Jagielski (2023), https://arxiv.org/abs/2305.08846: theorem 5.2, by the algorithm of appendix D.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from fedrl.audit.canary import LOUDNESS, audited
from fedrl.clocks.devices import Clock
from fedrl.core.errors import ConfigError
from fedrl.core.stage import Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation
from fedrl.server.decisions import Selection
from fedrl.server.scheduler import Scheduler

CONFIDENCE = 0.95
SHARES = (1.0, 0.5)
"""The shares of the agents about which a guess is made: those with the highest and with the lowest scores."""
CANARY_SEED = 16


class WholeAudit(NamedTuple):
    """Result of an audit of a whole run.

    Attributes:
        verdict: "refuted", "not refuted", or "no power" if not even right guesses alone would refute the claim.
        claimed: The claimed epsilon.
        delta: The delta at which it is stated.
        measured: A lower bound of epsilon, with 95 % confidence.
        measurable: The bound if every guess were right.
        correct: Right guesses, for each share of the agents that are guessed about.
        guesses: All guesses, likewise.
        agents: Number of agents.
        rounds: Rounds of the run.
        seed: Seed of the run and the coins.
        seconds: Duration of the audit.
    """

    verdict: str
    claimed: float
    delta: float
    measured: float
    measurable: float
    correct: tuple[int, ...]
    guesses: tuple[int, ...]
    agents: int
    rounds: int
    seed: int
    seconds: float


def audit_whole(
    federation: Federation,
    fleet: PyTree,
    rounds: int,
    delta: float,
    *,
    scheduler: Scheduler | None = None,
    topology: Any = None,
    clock: Clock | None = None,
    seed: int = 0,
) -> WholeAudit:
    """Train once with half of the agents, chosen by coins, and guess from the server's parameters which they are.

    Args:
        federation: The federation.
        fleet: Parameters of each agent's environment.
        rounds: Rounds of the run.
        delta: The delta at which epsilon is stated.
        scheduler: Which agents take part; all in every round by default.
        topology: Where updates are aggregated; one server by default.
        clock: The agents' devices.
        seed: Seed of the run and the coins; calibrated noise is drawn from the operating system, as in a run.

    Raises:
        ConfigError: The noise does not protect whole agents at a server that adds it, so leaving agents out tells
            nothing about its claim; or its price is not known in advance.
    """
    began = time.perf_counter()
    scheduler = Scheduler() if scheduler is None else scheduler
    mechanism = audited(federation, fleet, scheduler, topology)
    noise, price, agents = mechanism.noise, mechanism.price, mechanism.agents
    if noise.at != "server" or noise.unit != "agent" or price.relation != "add-remove":
        raise ConfigError(
            f"The claim covers {price.protects()}, with noise of the {noise.at}. An audit of a whole run leaves out "
            "agents, which tests claims about agents added or removed, with noise of the server. Leave out --whole."
        )
    if noise.now is not None:
        raise ConfigError(
            "The price of a round depends on what was released (Noise.now), so the claim is that of a run's ledger, "
            "which an audit does not keep. Leave out --whole: one round is audited without it."
        )
    included = np.random.default_rng(seed).random(agents) < 0.5
    released = mechanism.federation
    canaries = _adding_directions(LOUDNESS * noise.clip)
    watched = federate(
        released.learner,
        released.aggregator,
        canaries,
        *released.stages,
        local_steps=released.local_steps,
        payload=released.payload,
        summation=released.summation,
    )
    plan = replace(scheduler, selection=_selecting(scheduler.selection, included))
    moved = _change(watched, fleet, plan, topology, clock, rounds, seed)
    found = _agents_scores(moved, agents, 4.0 * mechanism.event.noise_multiplier**2 / (rounds * mechanism.sampling))
    claimed = max(price.epsilon(agent, rounds, delta) for agent in _one_of_each(price.events))
    level = (1.0 - CONFIDENCE) / len(SHARES)
    counts = [_guessed(found, included, share) for share in SHARES]
    bounds = [bound_of_guesses(agents, guesses, correct, delta, level) for guesses, correct in counts]
    measurable = max(bound_of_guesses(agents, guesses, guesses, delta, level) for guesses, _ in counts)
    refuted = max(bounds) > claimed
    return WholeAudit(
        verdict="refuted" if refuted else "no power" if measurable <= claimed else "not refuted",
        claimed=claimed,
        delta=delta,
        measured=max(bounds),
        measurable=measurable,
        correct=tuple(correct for _, correct in counts),
        guesses=tuple(guesses for guesses, _ in counts),
        agents=agents,
        rounds=rounds,
        seed=seed,
        seconds=time.perf_counter() - began,
    )


def bound_of_guesses(agents: int, guesses: int, correct: int, delta: float, alpha: float) -> float:
    """Return a lower bound of epsilon, with confidence 1 - alpha.

    Args:
        agents: The number of coins.
        guesses: The number of guesses.
        correct: How many of them are right.
        delta: The delta of the claim.
        alpha: The probability with which the bound may be wrong.

    >>> round(bound_of_guesses(100, 100, 100, 0.0, 0.05), 2), bound_of_guesses(100, 100, 50, 0.0, 0.05)
    (3.49, 0.0)
    """
    if guesses == 0 or probability_of(agents, guesses, correct, 0.0, delta) >= alpha:
        return 0.0
    low, high = 0.0, 1.0
    while probability_of(agents, guesses, correct, high, delta) < alpha and high < 64.0:
        low, high = high, 2.0 * high
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if probability_of(agents, guesses, correct, middle, delta) < alpha else (low, middle)
    return low


def probability_of(agents: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return an upper bound of the probability of so many right guesses in an (epsilon, delta)-private run.

        P(V >= v) <= f(v) + 2 m delta max_i (f(v - i) - f(v)) / i,    f(v) = P(Binomial(r, e^eps / (1 + e^eps)) >= v)

    Args:
        agents: m.
        guesses: r.
        correct: v.
        epsilon: Of the claim.
        delta: Of the claim.
    """
    chance = 1.0 / (1.0 + np.exp(-epsilon))
    tail = float(stats.binom.sf(correct - 1, guesses, chance))
    steps = np.arange(1, correct + 1)
    gained = np.cumsum(stats.binom.pmf(correct - steps, guesses, chance))
    most = float((gained / steps).max(initial=0.0))
    return min(1.0, tail + 2.0 * agents * delta * most)


def _adding_directions(norm: float) -> Stage:
    """Return a stage that adds a direction of its own to the update of each agent."""

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, server_state
        own = _direction(context.agent, update.value)
        return update._replace(value=jax.tree.map(lambda x, u: x + norm * u, update.value, own)), agent_state

    return Stage(encode, may_increase_norm=True)


def _direction(agent: jax.Array, like: PyTree) -> PyTree:
    """Return the direction of an agent, of norm 1: random, so that those of two agents are nearly orthogonal."""
    key = jax.random.fold_in(jax.random.key(CANARY_SEED), agent)
    leaves, structure = jax.tree.flatten(like)
    drawn = [jax.random.normal(jax.random.fold_in(key, i), leaf.shape) for i, leaf in enumerate(leaves)]
    length = jnp.sqrt(sum((jnp.square(leaf).sum() for leaf in drawn), jnp.float32(0.0)))
    return jax.tree.unflatten(structure, [leaf / length for leaf in drawn])


def _selecting(selection: Selection | None, included: Bool[np.ndarray, " agents"]) -> Selection:
    """Return the selection among the agents whose coin says so."""

    def choose(rng: Any, ids: np.ndarray, number: int, state: PyTree) -> np.ndarray:
        chosen = ids if selection is None else np.asarray(selection.choose(rng, ids, number, state), int)
        return chosen[included[chosen]]

    return Selection(choose) if selection is None else replace(selection, choose=choose)


def _change(
    federation: Federation,
    fleet: PyTree,
    plan: Scheduler,
    topology: Any,
    clock: Clock | None,
    rounds: int,
    seed: int,
) -> PyTree:
    """Return the change of the server's parameters over a run, the sum of all releases."""
    with simulate(federation, fleet, scheduler=plan, topology=topology, clock=clock) as simulation:
        run_state = simulation.init(seed)
        first = jax.tree.map(np.array, run_state.server.params)
        for _ in range(rounds):
            run_state, _ = simulation.round(run_state)
        return jax.tree.map(lambda x, old: np.asarray(x) - old, run_state.server.params, first)


def _agents_scores(moved: PyTree, agents: int, ridge: float) -> Float[np.ndarray, " agents"]:
    """Return by how much of each agent's direction the parameters moved.

        s = (U' U + ridge I)^-1 U' (x - k U 1 / 2)

    Directions of many agents are not orthogonal, so a product with each alone would be disturbed by the others.

    Args:
        moved: x, the change of the parameters.
        agents: The number of directions, the columns of U.
        ridge: The ratio of the variances of noise and coins.
    """
    drawn = jax.jit(jax.vmap(lambda agent: _direction(agent, moved)))(jnp.arange(agents))
    columns = np.concatenate([np.asarray(leaf, float).reshape(agents, -1) for leaf in jax.tree.leaves(drawn)], 1)
    change = np.concatenate([np.asarray(leaf, float).reshape(-1) for leaf in jax.tree.leaves(moved)])
    everybody = columns.sum(0)
    size = 2.0 * float(everybody @ change) / float(everybody @ everybody)
    inner = columns @ columns.T + ridge * np.eye(agents)
    return np.linalg.solve(inner, columns @ (change - size * everybody / 2.0))


def _guessed(
    found: Float[np.ndarray, " agents"], included: Bool[np.ndarray, " agents"], share: float
) -> tuple[int, int]:
    """Return how many guesses are made, and how many are right: the highest scores are in, the lowest are out."""
    each = int(len(found) * share / 2)
    order = np.argsort(found)
    correct = int((~included[order[:each]]).sum() + included[order[len(found) - each :]].sum())
    return 2 * each, correct


def _one_of_each(events: tuple[Any, ...]) -> list[int]:
    """Return an agent for each different event."""
    return [events.index(event) for event in dict.fromkeys(events)]
