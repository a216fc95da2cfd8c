"""Random finite processes whose heterogeneity between agents is one number, kappa.

Agent 0 has a random transition table P_0. Agent k > 0 has kappa P'_k + (1 - kappa) P_0, where P'_k leads only to states
that P_0 never reaches. So the total variation distance of each row from that of P_0 is exactly kappa.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_positive
from fedrl.core.component import component
from fedrl.core.environment import Environment, Variants
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Fraction, Whole
from fedrl.core.types import Key
from fedrl.environments.tabular.model import TabularParams, check_fraction, process


@component("environment", reference="Jin et al. (2022), https://arxiv.org/abs/2204.02634")
def random_mdp(
    states: Count = 5,
    actions: Count = 5,
    kappa: Fraction = 0.0,
    agent: Whole = 0,
    seed: Whole = 0,
    max_steps: Count = 100,
) -> Environment:
    """RandomMDPs: one agent's process of a random family, with rewards from U[0, 1] and a uniform initial state.

    The family is determined by `seed`; `random_mdps` builds all its processes at once. Fleets vary `kappa` and `agent`.

    Args:
        states: Number of states, at least 2.
        actions: Number of actions.
        kappa: Heterogeneity, from 0 (all agents equal agent 0) to 1 (no transition in common with agent 0).
        agent: Number of the member of the family; 0 is the centre and does not depend on `kappa`.
        seed: Seed of the family.
        max_steps: Steps of an episode.

    Raises:
        ConfigError: An argument is out of range.
    """
    numbers: dict[str, Any] = {"states": states, "actions": actions, "kappa": kappa, "agent": agent, "seed": seed}
    return process(_tables(**numbers), max_steps, Variants(_tables, numbers))


def _tables(states: int, actions: int, kappa: float, agent: int, seed: int) -> TabularParams:
    check_positive(states=states, actions=actions, agent=agent + 1)
    check_fraction(kappa=kappa)
    return _member(jax.random.key(seed), agent, kappa, states, actions)


def random_mdps(
    key: Key, agents: int, kappa: float | jax.Array = 0.0, states: int = 5, actions: int = 5
) -> TabularParams:
    """Return a family of random processes; it can be traced and vmapped over `key` and `kappa`.

    The first n agents do not depend on the number of agents.

    Args:
        key: Key of the family.
        agents: Number of agents, the leading axis of the result.
        kappa: Heterogeneity, from 0 to 1; one for all agents or one each.
        states: Number of states, at least 2.
        actions: Number of actions.

    Reference: Jin et al. (2022), https://arxiv.org/abs/2204.02634. Their support is drawn with probability 1/2 per
        entry and repaired where a row is empty or full; so it is here.

    >>> random_mdps(jax.random.key(0), agents=3, kappa=0.4).transition.shape
    (3, 5, 5, 5)
    """
    check_positive(agents=agents)
    share = jnp.broadcast_to(jnp.asarray(kappa, jnp.float32), (agents,))
    return jax.vmap(lambda k, mix: _member(key, k, mix, states, actions))(jnp.arange(agents), share)


@partial(jax.jit, static_argnums=(3, 4))
def _member(key: Key, agent: jax.Array | int, kappa: jax.Array | float, states: int, actions: int) -> TabularParams:
    if states < 2:
        raise ConfigError(f"states is {states}. Agents differ in the states they never reach. Use at least 2 states.")
    shape = (states, actions, states)
    tables = jax.random.uniform(jax.random.fold_in(key, 0), (3, *shape))  # few draws: each is slow to compile
    support, repair, mass = tables[0] < 0.5, tables[1, ..., :1], 1.0 - tables[2]
    # A row that is empty or full gets one entry flipped, since both P_0 and P'_k need a state to go to.
    size = support.sum(-1, keepdims=True)
    chosen = jnp.arange(states) == jnp.floor(repair * states)
    support = jnp.where(chosen & ((size == 0) | (size == states)), size == 0, support)
    own_mass = 1.0 - jax.random.uniform(jax.random.fold_in(key, agent + 1), shape)  # in (0, 1]: no empty row
    # The supports are disjoint, so the total variation of a row is exactly kappa.
    centre, other = _rows(jnp.where(support, mass, 0.0)), _rows(jnp.where(support, 0.0, own_mass))
    mix = jnp.where(agent == 0, 0.0, kappa)
    return TabularParams(
        transition=(mix * other + (1.0 - mix) * centre).astype(jnp.float32),
        reward=tables[1, ..., 1],
        initial=jnp.full((states,), 1.0 / states, jnp.float32),
    )


def _rows(mass: jax.Array) -> jax.Array:
    return mass / mass.sum(-1, keepdims=True)
