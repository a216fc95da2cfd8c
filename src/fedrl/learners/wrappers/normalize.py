"""Normalisation of observations and rewards for any learner that learns from trajectories.

    collect --> Trajectory --+--> normalised by the moments of all agents --> the learner
                             +--> Sums --> server: merged exactly --> Moments --> every agent

The environment is unchanged. The moments are part of the parameters, `{"learner": ..., "moments": ...}`, so that
saved parameters are a complete policy.

Mean and variance are those of everything that all agents have observed. Agents sum up since they last adopted
parameters, and the server merges the sums exactly, whatever the weights and the stages do to the update (they are
`Statistics`). Between two merges the moments are constant, so that agents average policies of the same inputs. An agent
that adopts its own parameters, as without communication, merges its own sums.

Args of `normalize`:
    learner: Learner to wrap; it learns from trajectories (`ppo`, `a2c`).
    observations: Shift and scale observations.
    rewards: Divide rewards by the standard deviation of the running discounted return.
    gamma: Discount factor of that return.
    limit: Bound of normalised observations and rewards, in standard deviations.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.environment import Box
from fedrl.core.errors import ConfigError
from fedrl.core.faults import rings_in
from fedrl.core.hyperparameters import Number
from fedrl.core.learner import Learner, Statistics, Trajectory, behaviours_of, explore, policy_of, restored
from fedrl.core.players import players_of, rows_of
from fedrl.core.ranges import Fraction, Positive, Traced
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.learners.parts.moments import (
    Moments,
    MomentSums,
    Parts,
    both,
    count,
    doubt,
    joined,
    merged,
    nothing,
    parted,
    scaled,
    standardised,
    unseen,
)
from fedrl.learners.parts.rollout import Position, Sampler, start
from fedrl.learners.parts.rollout import collect as roll_out
from fedrl.learners.parts.trajectories import check_bounds_each
from fedrl.learners.wrappers.self_play import NAME as SELF_PLAY

Book = dict[str, Moments]


class NormalizeState(NamedTuple):
    """State of a learner with normalisation.

    Attributes:
        learner: State of the wrapped learner.
        moments: Moments that came with the adopted parameters, by name.
        sums: Sums over the samples since then, by name.
        returned: `[num_envs]`, running discounted return of each environment copy, in a world of each player in it;
            its spread scales the rewards.
        position: Current episodes of the environment copies.
        env_params: Parameters of the agent's environment.
    """

    learner: PyTree
    moments: Book
    sums: dict[str, MomentSums]
    returned: jax.Array
    position: Position
    env_params: PyTree


@component("learner", reference="Chan, Golub & LeVeque (1983), https://doi.org/10.1080/00031305.1983.10483115")
def normalize(
    learner: Traced[Learner],
    observations: bool = True,
    rewards: bool = True,
    gamma: Traced[Fraction] = 0.99,
    limit: Traced[Positive] = 10.0,
) -> Learner:
    """Normalise observations to mean 0 and variance 1, and rewards by the standard deviation of their return.

    Args:
        learner: Learner that learns from trajectories.
        observations: Whether observations are normalised.
        rewards: Whether rewards are divided by the standard deviation of their running return.
        gamma: Discount factor of that running return.
        limit: Largest size of what is normalised, in standard deviations; beyond it, it is clipped.

    Raises:
        ConfigError: There is nothing to normalise, or the learner plays whole episodes, clips their gradients, has a
            replay buffer, or is in self-play.
    """
    environment, tail = learner.environment, tail_of(learner)
    shapes = _checked_shapes(learner, observations, rewards)

    def seen(moments: Book, observation: jax.Array) -> jax.Array:
        return shifted(moments["observation"], observation, limit, tail) if observations else observation

    def learn(
        key: Key, state: NormalizeState, raw: Trajectory, context: LocalContext
    ) -> tuple[NormalizeState, Metrics]:
        moments = state.moments
        after = counted(state, raw, gamma, tail)
        normal = raw._replace(
            observation=seen(moments, raw.observation),
            next_observation=seen(moments, raw.next_observation),
            reward=scaled(moments["return"], raw.reward, limit) if rewards else raw.reward,
        )
        own = context._replace(params=context.params["learner"], correction=context.correction["learner"])
        inner, metrics = learner.learn(key, state.learner, normal, own)
        return after._replace(learner=inner), metrics

    def collect(key: Key, state: NormalizeState) -> tuple[Trajectory, NormalizeState, Metrics]:
        held = jax.lax.optimization_barrier(behaviours_of(learner, state.learner))
        sampler = Sampler(
            lambda key, batch: key, lambda key, shown: explore(learner, key, held, seen(state.moments, shown))
        )
        raw, position, counts = roll_out(
            key, environment, state.env_params, sampler, learner.horizon, state.position, learner.reads_overview
        )
        return raw, state._replace(position=position), counts

    def adopt(state: NormalizeState, params: Params) -> NormalizeState:
        return state._replace(
            learner=learner.adopt(state.learner, params["learner"]),
            moments=adopted(state, params["moments"]),
            sums={name: nothing(shape) for name, shape in shapes.items()},
        )

    def restore(state: NormalizeState, params: Params) -> NormalizeState:
        inner = restored(learner, state.learner, params["learner"])
        return state._replace(learner=inner, moments=dict(params["moments"]))

    def probabilities(params: Params, observation: jax.Array) -> jax.Array:
        assert learner.probabilities is not None
        return learner.probabilities(params["learner"], seen(params["moments"], observation))

    return Learner(
        init=lambda key, env_params: begun(learner, shapes, key, env_params),
        collect=collect,
        learn=learn,
        act=lambda key, params, observation, greedy: learner.act(
            key, params["learner"], seen(params["moments"], observation), greedy
        ),
        params=lambda state: {"learner": learner.params(state.learner), "moments": state.moments},
        adopt=adopt,
        environment=environment,
        samples=learner.samples,
        horizon=learner.horizon,
        num_envs=learner.num_envs,
        statistics=STATISTICS if players_of(environment) is None else STATISTICS_OF_A_WORLD,
        policy=None
        if learner.policy is None
        else lambda state: {"learner": policy_of(learner, state.learner), "moments": state.moments},
        restore=restore,
        behaviours=None if learner.behaviours is None else lambda state: behaviours(learner, state),
        probabilities=None if learner.probabilities is None else probabilities,
        measures=learner.measures,
        gamma=learner.gamma,
        personalised=learner.personalised,
        reads_overview=learner.reads_overview,
        acts_for=learner.acts_for,
        memory=learner.memory,
        with_memory=learner.with_memory,
    )


def behaviours(learner: Learner, state: NormalizeState) -> tuple[Params, ...]:
    """Return the behaviour policies of the wrapped learner, each with the moments by which it observes."""
    return tuple({"learner": each, "moments": state.moments} for each in behaviours_of(learner, state.learner))


def begun(learner: Learner, shapes: dict[str, tuple[int, ...]], key: Key, env_params: PyTree) -> NormalizeState:
    """Return the state before anything was observed; `shapes` are those of a sample of each of the moments."""
    for_learner, for_start = jax.random.split(key)
    return NormalizeState(
        learner.init(for_learner, env_params),
        {name: unseen(shape) for name, shape in shapes.items()},
        {name: nothing(shape) for name, shape in shapes.items()},
        jnp.zeros(rows_of(learner.environment, learner.num_envs)),
        start(for_start, learner.environment, env_params, learner.num_envs),
        env_params,
    )


def counted(state: NormalizeState, raw: Trajectory, gamma: Number, tail: int = 0) -> NormalizeState:
    """Add a trajectory to the sums since the agent adopted parameters, about the mean it adopted.

    The last `tail` entries of observations are a memory, which has no moments.
    """
    # The moments themselves don't change here: policies of one round have to be policies of the same inputs.
    moments, sums, returned = state.moments, dict(state.sums), state.returned
    if "observation" in sums:
        observed = raw.observation[:, :-tail] if tail else raw.observation
        samples = jnp.moveaxis(observed, 0, -1).reshape(*observed.shape[1:-1], -1)
        living = None if raw.alive is None else raw.alive.T.reshape(-1)
        sums["observation"] = both(sums["observation"], count(moments["observation"], samples, living))
    if "return" in sums:
        returned, path = running_return(returned, raw, gamma)
        living = None if raw.alive is None else raw.alive.reshape(-1)
        sums["return"] = both(sums["return"], count(moments["return"], path.reshape(-1), living))
    return state._replace(sums=sums, returned=returned)


def tail_of(learner: Learner) -> int:
    """Return the last entries of observations that are not observed: the memory, and whether an episode begins."""
    return learner.memory + 1 if learner.memory else 0


def shifted(moments: Moments, observation: jax.Array, limit: Number, tail: int) -> jax.Array:
    """Return standardised observations, `[..., entries, rows]`, with the last `tail` entries as they are."""
    if not tail:
        return standardised(moments, observation, limit)
    # A memory is computed from what is standardised already.
    axis = observation.ndim - 2
    own, memory = jnp.split(observation, [observation.shape[axis] - tail], axis)
    return jnp.concatenate([standardised(moments, own, limit), memory], axis)


def doubted(gathered: dict[str, Parts], samples: int, fewer: bool = False) -> str:
    """Return why these sums can't be over so many samples, or up to so many if `fewer`; "" if they can."""
    doubts = ((name, doubt(gathered[name], samples, fewer)) for name in sorted(gathered))
    return next((f"what it counted of each {name} {found}" for name, found in doubts if found), "")


def adopted(state: NormalizeState, given: Book) -> Book:
    """Return the moments after adopting parameters whose moments are `given`.

    The server has merged the agent's own sums into `given`, unless the agent adopts its own parameters.
    """

    def one(name: str) -> Moments:
        # An equal number of samples means that nothing was merged in between, so these are the agent's own moments.
        unmerged = given[name].samples == state.moments[name].samples
        own = merged(state.moments[name], state.sums[name])
        return jax.tree.map(lambda mine, theirs: jnp.where(unmerged, mine, theirs), own, given[name])

    return {name: one(name) for name in given}


def absorbed(params: Params, gathered: dict[str, Parts]) -> Params:
    """Merge the sums of all agents into the moments of the server's parameters."""
    moments = {name: merged(params["moments"][name], joined(parts)) for name, parts in gathered.items()}
    return {**params, "moments": moments}


STATISTICS = Statistics(
    gathered=lambda state: {name: parted(sums) for name, sums in state.sums.items()},
    absorb=absorbed,
    doubt=doubted,
)
STATISTICS_OF_A_WORLD = STATISTICS._replace(doubt=partial(doubted, fewer=True))
"""Players that have died are not counted, so that no server can know the number of samples."""


def running_return(returned: jax.Array, seen: Trajectory, gamma: Number) -> tuple[jax.Array, jax.Array]:
    """Continue R_t = r_t + gamma R_{t-1} from `returned` `[num_envs]`; the end of an episode resets it to 0.

    Returns the last value `[num_envs]` and all values `[time, num_envs]`.
    """

    def step(carry: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reward, done = at
        here = reward + gamma * carry
        return jnp.where(done, 0.0, here), here

    return jax.lax.scan(step, returned, (seen.reward, seen.terminated | seen.truncated))


def _checked_shapes(learner: Learner, observations: bool, rewards: bool) -> dict[str, tuple[int, ...]]:
    check_bounds_each(
        learner,
        "normalize",
        "scales its inputs by moments of all episodes, so that one episode changes the gradients of the others",
        "Scale observations and rewards by constants in the environment, or leave trajectory_clip out.",
    )
    if SELF_PLAY in learner.personalised:
        raise ConfigError(
            f"{learner!r} decides who acts by a policy of its pool, and normalize, which collects the trajectories, "
            "would let its average policy act for all players. Put normalize inside, as in "
            "self_play(normalize(ppo(...)))."
        )
    if rings_in(jax.eval_shape(learner.init, jax.random.key(0), learner.environment.params)):
        raise ConfigError(
            f"{learner!r} keeps samples in a replay buffer, normalised by the moments of their time, and those of the "
            "policy change with every round. Scale observations and rewards by constants in the environment."
        )
    if learner.horizon < 1 or learner.episodic or learner.statistics is not None:
        raise ConfigError(
            f"{learner!r} can't be normalised. The wrapper has to collect the trajectories itself, which this learner "
            "does in a way of its own. Wrap a learner that learns from trajectories, such as ppo or a2c."
        )
    if not observations and not rewards:
        raise ConfigError(
            "observations and rewards are both false. Nothing is left to normalise. Set one to true, or drop normalize."
        )
    space = learner.environment.spaces.observation
    if observations and not isinstance(space, Box):
        raise ConfigError(
            f"observations is true, but the observations of {learner.environment!r} are {space}. Indices of states "
            "have no meaningful mean. Set observations = false."
        )
    tail = tail_of(learner)
    shape = (space.shape[0] - tail,) if tail else space.shape
    return ({"observation": shape} if observations else {}) | ({"return": ()} if rewards else {})
