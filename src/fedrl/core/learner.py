"""What a learner is: local training as pure functions of a key, a state and a hint.

    state --collect--> experience --learn----> state        one local iteration: `iterate`
                           +--------gradient-> gradient     the slope of its loss, no step taken: `differentiate`

A learner knows nothing of federation. `params` and `adopt` are the only doors through which
a federation reaches into its state, so a learner that narrows them keeps the rest to itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import Call, record
from fedrl.core.double import Double
from fedrl.core.environment import AnyEnvironment, HostEnvironment, Space
from fedrl.core.errors import UnsoundError
from fedrl.core.measures import RETURN, Measure, Measures
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree

Experience = PyTree
"""What a learner gathered to learn from: a `Trajectory`, or whatever its own `collect` makes."""


class Trajectory(NamedTuple):
    """What a batch of instances went through; every leaf is `[time, *features, num_envs]`.

    Attributes:
        observation: What the policy saw.
        action: What it did.
        reward: What it got.
        terminated: Whether the episode ended there.
        truncated: Whether the episode was cut off there.
        next_observation: The observation reached, seen before any reset.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    next_observation: jax.Array


class Statistics(NamedTuple):
    """What agents count rather than learn: it is added up exactly and bypasses the pipeline and the optimisers.

    A learner that has some keeps the merged result in its parameters, where local training leaves it alone.

    Attributes:
        gathered: `state -> sums`, counted since the state last adopted parameters; sums of agents add up.
        absorb: `(params, sums) -> params`, with what all agents counted merged in; each sum is a
            `fedrl.core.double.Double`.
        doubt: `(sums, samples) -> why no agent can have counted these over so many samples`, or "", of NumPy arrays,
            for a server that believes no agent. None: any sums may be, within the range of all statistics.
    """

    gathered: Callable[[PyTree], PyTree]
    absorb: Callable[[Params, PyTree], Params]
    doubt: Callable[[PyTree, int], str] | None = None


def two_streams(key: Key) -> tuple[Key, Key]:
    """A key for gathering experience and one for learning from it."""
    return jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)


def same_stream(key: Key) -> tuple[Key, Key]:
    """The key itself for both: for learners of which one half draws nothing, or that split it by themselves."""
    return key, key


@record
class Learner:
    """A learning algorithm bound to an environment.

    Attributes:
        init: `(key, env_params) -> state`. `env_params` is one setting of the environment's parameters, or a stack
            of settings with a leading axis, dealt out to the instances in turn (pooled data).
        collect: `(key, state) -> (experience, state, metrics)`: gathers experience in the compiled environment, and
            counts the episodes that ended (`episodes`, `episode_return`). Whoever steps an environment elsewhere
            (host environments) hands its own experience to `learn` instead. `nothing_gathered` for a learner that
            needs none.
        learn: `(key, state, experience, context) -> (state, metrics)`.
        act: `(key, params, observation, greedy) -> action`, for a batch with the instances on the last axis.
        params: `state -> params`, what a federation may see.
        adopt: `(state, params) -> state`, the state after the parameters were replaced.
        environment: Where it learns.
        samples: Environment steps of one local iteration, the weight of its update.
        gradient: `(key, state, experience, context) -> (gradient, metrics)` of the loss at the current parameters,
            which stay as they are, like everything else. None if an iteration takes several steps or has no gradient.
        horizon: Steps of each instance in the `Trajectory` that `learn` and `gradient` take. Such a learner learns from
            experience gathered elsewhere as well; one whose horizon is 0 only from its own.
        num_envs: How many instances of the environment such a trajectory has.
        episodic: Whether each instance begins a new episode with the trajectory, and stands still once it is over: what
            the trajectory has beyond means nothing. Otherwise it goes on where it stood, from episode to episode.
        behaviours: `state -> (params, ...)`, the parameters with which experience is gathered if there are several:
            each acts in an equal share of the instances, in this order, the first being what the agent acts with. None
            if it gathers with what it acts with.
        split_key: `key -> (for collect, for learn or gradient)`, of the key of an iteration.
        statistics: What the agents count rather than learn, such as the moments of observations. Optional.
        policy: `state -> params` that `act` takes, for a learner of which a federation sees less. None if they are
            what it sees.
        probabilities: `(params, observation) -> [actions, num_envs]`, how likely `act` takes each action when it
            does not act greedily. None if actions are not discrete.
        measures: How the entries of its metrics are to be read, by name: see `fedrl.core.measures`. Those of its
            environment are the environment's.
        gamma: gamma of what it maximises. None if it has none.
        personalised: By what an agent acts with something of its own, which the federation does not see: the names
            of the wrappers, such as ("personal",). Empty if all agents act with what the server has.
        clips_trajectories: The L2 norm to which it scales down what each episode adds to its `gradient`, a mean over
            episodes, if that is larger; no episode changes what another one adds, as a baseline of all would. None: it
            bounds nothing.
    """

    init: Callable[[Key, PyTree], PyTree]
    collect: Callable[[Key, PyTree], tuple[Experience, PyTree, Metrics]]
    learn: Callable[[Key, PyTree, Experience, LocalContext], tuple[PyTree, Metrics]]
    act: Callable[[Key, Params, jax.Array, bool], jax.Array]
    params: Callable[[PyTree], Params]
    adopt: Callable[[PyTree, Params], PyTree]
    environment: AnyEnvironment
    samples: int
    gradient: Callable[[Key, PyTree, Experience, LocalContext], tuple[Params, Metrics]] | None = None
    horizon: int = 0
    num_envs: int = 0
    episodic: bool = False
    behaviours: Callable[[PyTree], tuple[Params, ...]] | None = None
    split_key: Callable[[Key], tuple[Key, Key]] = two_streams
    statistics: Statistics | None = None
    policy: Callable[[PyTree], Params] | None = None
    probabilities: Callable[[Params, jax.Array], jax.Array] | None = None
    measures: Measures = field(default_factory=dict)
    gamma: float | None = None
    personalised: tuple[str, ...] = ()
    clips_trajectories: float | None = None
    call: Call | None = None


def iterate(
    learner: Learner, key: Key, state: PyTree, context: LocalContext, experience: Experience | None = None
) -> tuple[PyTree, Metrics]:
    """One local iteration: gather experience, learn from it.

    Args:
        learner: Who learns.
        key: Of the iteration.
        state: The learner's.
        context: What the server sent along.
        experience: What was gathered elsewhere, if it was; the key is then for learning alone.

    Returns:
        The state after it, and the metrics of both halves.
    """
    key, state, experience, counts = _gathered(learner, key, state, experience)
    state, metrics = learner.learn(key, state, experience, context)
    return state, metrics | counts


def differentiate(
    learner: Learner, key: Key, state: PyTree, context: LocalContext, experience: Experience | None = None
) -> tuple[Params, PyTree, Metrics]:
    """The gradient of a local iteration in place of its step; the arguments are those of `iterate`.

    Returns:
        The gradient at the current parameters, the state with the environment where it stands now, and the metrics.
    """
    assert learner.gradient is not None
    key, state, experience, counts = _gathered(learner, key, state, experience)
    gradient, metrics = learner.gradient(key, state, experience, context)
    return gradient, state, metrics | counts


def _gathered(
    learner: Learner, key: Key, state: PyTree, experience: Experience | None
) -> tuple[Key, PyTree, Experience, Metrics]:
    """The key to learn with, the state, what there is to learn from, and what was counted."""
    if experience is not None:
        return key, state, experience, {}
    for_collect, for_learn = learner.split_key(key)
    experience, state, counts = learner.collect(for_collect, state)
    return for_learn, state, experience, counts


def check_gathers(learner: Learner) -> None:
    """Refuse a learner that gathers its own experience, where only the host can step its environment.

    Raises:
        UnsoundError: It names both.
    """
    if isinstance(learner.environment, HostEnvironment) and learner.horizon < 1:
        raise UnsoundError(
            f"{learner!r} gathers its own experience, and {learner.environment!r} can only be stepped on the host. "
            "Use a learner that learns from trajectories, such as ppo(...)."
        )


def nothing_gathered(key: Key, state: PyTree) -> tuple[Experience, PyTree, Metrics]:
    """The `collect` of a learner that learns from no experience, or whose `learn` gathers it inside."""
    del key
    return (), state, {}


def policy_of(learner: Learner, state: PyTree) -> Params:
    """The parameters with which an agent acts: all of them, also those it keeps to itself."""
    return learner.params(state) if learner.policy is None else learner.policy(state)


def behaviours_of(learner: Learner, state: PyTree) -> tuple[Params, ...]:
    """The parameters with which an agent gathers experience: what it acts with comes first."""
    return (policy_of(learner, state),) if learner.behaviours is None else learner.behaviours(state)


def explore(learner: Learner, key: Key, behaviours: tuple[Params, ...], observation: jax.Array) -> jax.Array:
    """The actions of all instances while experience is gathered, each behaviour's in its share of them."""
    if len(behaviours) == 1:
        return learner.act(key, behaviours[0], observation, False)
    keys, shown = jax.random.split(key, len(behaviours)), jnp.split(observation, len(behaviours), axis=-1)
    actions = [learner.act(k, p, seen, False) for k, p, seen in zip(keys, behaviours, shown, strict=True)]
    return jnp.concatenate(actions, axis=-1)


def follows_corrections(learner: Learner) -> bool:
    """Whether what is learned depends on the correction in the hint: whether its optimiser reads it.

    It is read off the program that `learn` is, since an optimiser of optax's shows nothing of what it reads. A
    correction that no operation takes can't do anything.
    """

    def begun(key: Key) -> tuple[PyTree, Params, Experience]:
        state = learner.init(key, learner.environment.params)
        gathered = learner.collect(key, state)[0] if learner.horizon < 1 else _blank(learner)
        return state, learner.params(state), gathered

    key = jax.random.key(0)
    state, params, experience = jax.eval_shape(begun, key)

    def learned(correction: Params, key: Key, state: PyTree, params: Params, experience: Experience) -> PyTree:
        return learner.learn(key, state, experience, LocalContext(params, correction))[0]

    traced = jax.make_jaxpr(learned)(params, key, state, params, experience).jaxpr
    corrections = {id(x) for x in traced.invars[: len(jax.tree.leaves(params))]}
    taken = {id(x) for equation in traced.eqns for x in equation.invars} | {id(x) for x in traced.outvars}
    return bool(corrections & taken)


def _blank(learner: Learner) -> Trajectory:
    """A trajectory of zeros, as the learner takes it."""
    time, num_envs, (seen, done) = learner.horizon, learner.num_envs, learner.environment.spaces

    def zeros(space: Space) -> jax.Array:
        return jnp.zeros((time, *space.shape, num_envs), space.dtype)

    nothing = jnp.zeros((time, num_envs), bool)
    return Trajectory(zeros(seen), zeros(done), jnp.zeros((time, num_envs)), nothing, nothing, zeros(seen))


def parameters_of(learner: Learner) -> Params:
    """The parameters of a learner, as shapes."""
    made = jax.eval_shape(lambda key: learner.params(learner.init(key, learner.environment.params)), jax.random.key(0))
    return made


def merged_into(learner: Learner, whole: Params) -> list[bool]:
    """Of each parameter, whether `absorb` changes it: all others come out as they went in."""
    counts = learner.statistics
    assert counts is not None
    sums = jax.eval_shape(
        lambda key: jax.tree.map(
            lambda x: Double(x, x), counts.gathered(learner.init(key, learner.environment.params))
        ),
        jax.random.key(0),
    )
    traced = jax.make_jaxpr(counts.absorb)(whole, sums).jaxpr
    return [out is not into for out, into in zip(traced.outvars, traced.invars, strict=False)]


def measures_of(learner: Learner) -> dict[str, Measure]:
    """All that is measured while a learner trains: the return, what its environment declares, what it declares.

    Raises:
        UnsoundError: A name stands for two quantities.
    """
    found = {"return": RETURN}
    for who, declared in ((learner.environment, learner.environment.measures), (learner, learner.measures)):
        for name, measure in declared.items():
            if name in found:
                raise UnsoundError(
                    f"{who!r} declares the measure {name!r}, and there is one of this name already. "
                    "Tables and curves tell measures apart by their names. Give it another."
                )
            found[name] = measure
    return found
