"""What a learner is: local training as a pure function of a key, a state and a hint.

A learner knows nothing of federation. `params` and `adopt` are the only doors through which
a federation reaches into its state, so a learner that narrows them keeps the rest to itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import NamedTuple

import jax

from fedrl.core.component import Call, record
from fedrl.core.environment import AnyEnvironment
from fedrl.core.measures import Measures
from fedrl.core.types import Hint, Key, Metrics, Params, PyTree


class Trajectory(NamedTuple):
    """What a batch of instances went through; every leaf is `[time, *features, instances]`.

    Attributes:
        observation: What the policy saw.
        action: What it did.
        reward: What it got.
        terminated: Whether the episode ended there.
        truncated: Whether the episode was cut off there.
        successor: The observation reached, seen before any reset.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    successor: jax.Array


class Statistics(NamedTuple):
    """What agents count rather than learn: it is added up exactly and bypasses the pipeline and the optimisers.

    A learner that has some keeps the merged result in its parameters, where local training leaves it alone.

    Attributes:
        gathered: `state -> sums`, counted since the state last adopted parameters; sums of agents add up.
        absorb: `(params, sums) -> params`, with what all agents counted merged in; each sum is a
            `fedrl.core.double.Double`.
    """

    gathered: Callable[[PyTree], PyTree]
    absorb: Callable[[Params, PyTree], Params]


@record
class Learner:
    """A learning algorithm bound to an environment.

    Attributes:
        init: `(key, env_params) -> state`. `env_params` is one setting of the environment's parameters, or a stack
            of settings with a leading axis, dealt out to the instances in turn (pooled data).
        update: `(key, state, hint) -> (state, metrics)`, one local iteration: gather experience, learn from it.
        act: `(key, params, observation, greedy) -> action`, for a batch with the instances on the last axis.
        params: `state -> params`, what a federation may see.
        adopt: `(state, params) -> state`, the state after the parameters were replaced.
        environment: Where it learns.
        samples: Environment steps of one local iteration, the weight of its update.
        learn: `(key, state, trajectory, hint) -> (state, metrics)`, the second half of `update` for experience
            gathered elsewhere (host environments). None if the algorithm gathers its own.
        horizon: Steps each instance takes in a trajectory given to `learn`.
        instances: How many instances of the environment the learner steps.
        gradient: `(key, state, hint) -> (gradient, state, metrics)` at the current parameters, without a step.
            None if an iteration takes several steps.
        statistics: What the agents count rather than learn, such as the moments of observations. Optional.
        policy: `state -> params` that `act` takes, for a learner of which a federation sees less. None if they are
            what it sees.
        probabilities: `(params, observation) -> [actions, instances]`, how likely `act` takes each action when it
            does not act greedily. None if actions are not discrete.
        measures: How the entries of its metrics are to be read, by name: see `fedrl.core.measures`. Those of its
            environment are the environment's.
    """

    init: Callable[[Key, PyTree], PyTree]
    update: Callable[[Key, PyTree, Hint], tuple[PyTree, Metrics]]
    act: Callable[[Key, Params, jax.Array, bool], jax.Array]
    params: Callable[[PyTree], Params]
    adopt: Callable[[PyTree, Params], PyTree]
    environment: AnyEnvironment
    samples: int
    learn: Callable[[Key, PyTree, Trajectory, Hint], tuple[PyTree, Metrics]] | None = None
    horizon: int = 0
    instances: int = 0
    gradient: Callable[[Key, PyTree, Hint], tuple[Params, PyTree, Metrics]] | None = None
    statistics: Statistics | None = None
    policy: Callable[[PyTree], Params] | None = None
    probabilities: Callable[[Params, jax.Array], jax.Array] | None = None
    measures: Measures = field(default_factory=dict)
    call: Call | None = None


def policy_of(learner: Learner, state: PyTree) -> Params:
    """The parameters with which an agent acts: all of them, also those it keeps to itself."""
    return learner.params(state) if learner.policy is None else learner.policy(state)
