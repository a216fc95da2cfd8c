"""Actor and critic of a learner, with or without memories: how they act step by step, and how they are trained.

    acting      [observation, memory of the actor, memory of the critic, begins] --> action, both memories after it
    training    the same, step after step `[time, num_envs]` --> unrolled from the memories at the first step

Without a memory both are the policy and the critic themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import written
from fedrl.core.environment import AnyEnvironment, Box, Discrete, Noise, Space, Spaces
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner
from fedrl.core.players import players_of
from fedrl.core.types import Key, Params
from fedrl.learners.parts.memory import action_in, inside, noted, with_memory
from fedrl.learners.parts.networks import Network
from fedrl.learners.parts.policies import Policy, policy_for, probabilities_with
from fedrl.learners.parts.rollout import Sampler


class ActorAndCritic(NamedTuple):
    """Actor and critic.

    Attributes:
        environment: The environment in which they act; it keeps their memories.
        spaces: The spaces of the environment inside, without memories.
        policy: The actor, for single steps.
        critic: The critic, for single steps.
        trained: The actor, for the flat steps of whole rollouts or episodes.
        trained_critic: The critic, likewise.
        note: `(params, observation, action) -> action`, of all parameters: with the memories after the step behind it.
        memory: The entries of their memories, 0 without any.
        with_memory: `environment -> environment`, what is to be put around another one; None without a memory.
    """

    environment: AnyEnvironment
    spaces: Spaces
    policy: Policy
    critic: Network
    trained: Policy
    trained_critic: Network
    note: Callable[[Params, jax.Array, jax.Array], jax.Array]
    memory: int = 0
    with_memory: Callable[[AnyEnvironment], AnyEnvironment] | None = None


def actor_and_critic(
    environment: AnyEnvironment, network: Network, critic: Network, time: int, observes: bool = True
) -> ActorAndCritic:
    """Return actor and critic with these networks, for rollouts of `time` steps.

    Args:
        environment: The environment of the learner.
        network: The network of the actor.
        critic: That of the critic.
        time: The steps of a rollout, or of an episode.
        observes: Whether the critic reads observations, and so has a memory if its network is recurrent. If not, there
            is none, or it reads something else.
    """
    spaces, total = environment.spaces, network.memory + (critic.memory if observes else 0)
    if not total:
        policy = policy_for(spaces, network)
        return ActorAndCritic(environment, spaces, policy, critic, policy, critic, lambda params, seen, action: action)
    space, players = spaces.observation, players_of(environment) or 1
    width = space.n if isinstance(space, Discrete) else math.prod(space.shape)
    actor = _reading(network, space, width, 0)
    judge = _reading(critic, space, width, network.memory) if observes else critic
    policy, trained = (
        _with_entries(policy_for(spaces, net), spaces) for net in (actor, _unrolling(actor, time, players))
    )
    trained_critic = _unrolling(judge, time, players) if observes else judge

    def note(params: Params, observation: jax.Array, action: jax.Array) -> jax.Array:
        which = {"actor": policy.remember, "critic": judge.remember if observes else None}
        memory = [remember(params[name], observation) for name, remember in which.items() if remember is not None]
        return noted(action, spaces.action, *memory)

    def around(environment: AnyEnvironment) -> AnyEnvironment:
        return with_memory(environment, total)

    return ActorAndCritic(around(environment), spaces, policy, judge, trained, trained_critic, note, total, around)


def _with_entries(policy: Policy, spaces: Spaces) -> Policy:
    """Return a policy whose actions, in a trajectory, have a memory behind their entries."""
    return replace(policy, log_prob=lambda outputs, action: policy.log_prob(outputs, action_in(spaces.action, action)))


def act_with(found: ActorAndCritic) -> Callable[[Key, Params, jax.Array, bool], jax.Array]:
    """Return a learner's `act`, of all its parameters."""
    policy = found.policy

    def act(key: Key, params: Params, observation: jax.Array, greedy: bool = False) -> jax.Array:
        outputs = policy.outputs(params["actor"], observation)
        if greedy:
            return found.note(params, observation, policy.mode(outputs))
        return found.note(params, observation, policy.sample(policy.draw(key, observation.shape[-1:]), outputs))

    return act


def sampler_of(found: ActorAndCritic, params: Params) -> Sampler:
    """Return the policy of a rollout with these parameters."""
    policy = found.policy
    # A critic acts only if it has a memory.
    held = jax.lax.optimization_barrier(params if found.memory else {"actor": params["actor"]})

    def sampled(noise: Noise, observation: jax.Array) -> jax.Array:
        action = policy.sample(noise, policy.outputs(held["actor"], observation))
        return found.note(held, observation, action)

    return Sampler(policy.draw, sampled)


def _reading(network: Network, space: Space, width: int, first: int) -> Network:
    """Return a network that reads its own of several memories, which begins with this entry, or none."""
    if not network.memory:
        return replace(
            network,
            init=lambda key, given, outputs, gain: network.init(key, space, outputs, gain),
            apply=lambda params, observation: network.apply(params, inside(space, observation[:width])),
            critic=None,
        )

    def own(function: Callable[[Params, jax.Array], jax.Array]) -> Callable[[Params, jax.Array], jax.Array]:
        def read(params: Params, observation: jax.Array) -> jax.Array:
            start = width + first
            parts = observation[:width], observation[start : start + network.memory], observation[-1:]
            return function(params, jnp.concatenate(parts))

        return read

    assert network.remember is not None
    assert network.unroll is not None
    # The parameters are those for what the environment inside shows.
    return replace(
        network,
        init=lambda key, given, outputs, gain: network.init(key, Box((width,)), outputs, gain),
        apply=own(network.apply),
        remember=own(network.remember),
        unroll=own(network.unroll),
        critic=None,
    )


def _unrolling(network: Network, time: int, players: int) -> Network:
    """Return a network for flat steps, `[entries, players * time * n]`, that reads memories at the first ones alone."""
    unroll = network.unroll
    if unroll is None:
        return network

    def apply(params: Params, observation: jax.Array) -> jax.Array:
        apart = observation.reshape(len(observation), players, time, -1)
        outputs = unroll(params, jnp.moveaxis(apart, 1, 2).reshape(len(observation), time, -1))
        dealt = outputs.reshape(len(outputs), time, players, -1)
        return jnp.moveaxis(dealt, 2, 1).reshape(len(outputs), -1)

    return replace(network, apply=apply)


def acting_facts(found: ActorAndCritic) -> dict[str, Any]:
    """Return the fields of a `Learner` that say how it acts, and in which environment."""
    return {
        "environment": found.environment,
        "act": act_with(found),
        "probabilities": probabilities_with(found.policy, found.spaces),
        "memory": found.memory,
        "with_memory": found.with_memory,
    }


def check_forgets(learner: Learner, wrapper: str) -> None:
    """Refuse a wrapper that lets several policies act in one episode, around a learner with a memory.

    Raises:
        ConfigError: The learner has a memory.
    """
    if learner.memory:
        raise ConfigError(
            f"{written(learner)} has a memory, and {wrapper} lets another policy act in each step: what one of them "
            "noted means nothing to the next, whose parameters are others. Use a network without a memory."
        )
