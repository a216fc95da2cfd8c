"""Define a learner: local training as pure functions of a key, a state and a local context.

    state --collect--> experience --learn----> state        one local iteration: `iterate`
                           +--------gradient-> gradient     of the loss, without a step: `differentiate`

A learner does not depend on the federation around it. A federation accesses its state only by `params` and `adopt`, so
whatever these two leave out of the parameters stays on the agent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import Call, record
from fedrl.core.double import Double
from fedrl.core.environment import ActionSpace, AnyEnvironment, HostEnvironment
from fedrl.core.errors import UnsoundError
from fedrl.core.hyperparameters import Number
from fedrl.core.measures import RETURN, Measure, Measures
from fedrl.core.stage import Noise
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree

Experience = PyTree
"""The data of one local iteration: a `Trajectory`, or whatever the learner's own `collect` returns."""


class Trajectory(NamedTuple):
    """The transitions of a batch of environment copies; every leaf has shape `[time, *features, num_envs]`.

    In a world, every player of every copy has a row of its own on the last axis (`fedrl.core.players`); the end of an
    episode is that of all players, and the death of a player is a termination of its own.

    Attributes:
        observation: The observations that the policy acted on.
        action: The actions taken.
        reward: The rewards received.
        terminated: Bool; whether the transition ended the episode.
        truncated: Bool; whether the transition was the last one before the episode was cut off.
        next_observation: The observations reached, before any reset.
        alive: Bool; whether the player was alive before the step. The other rows count for nothing. None if no player
            ever dies.
        overview: What an observer of the whole world saw before the step, one row per copy; None unless asked for.
        next_overview: What it saw after the step, before any reset.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    next_observation: jax.Array
    alive: jax.Array | None = None
    overview: jax.Array | None = None
    next_overview: jax.Array | None = None


class Statistics(NamedTuple):
    """Sums that agents count rather than learn, added exactly and without passing the pipeline or the optimisers.

    A learner with statistics stores the merged result in its parameters, and its local training must not change it.

    Attributes:
        gathered: `state -> sums` counted since the state last adopted parameters; the server adds them over agents.
        absorb: `(params, sums) -> params`, with the sums over all agents merged in; each sum is a
            `fedrl.core.double.Double`.
        doubt: `(sums, samples) -> reason` why no agent can have counted these sums over so many samples, or "" if one
            can; the sums are NumPy arrays. A server that does not trust agents calls it. None: any sums within the
            range of all statistics are accepted.
    """

    gathered: Callable[[PyTree], PyTree]
    absorb: Callable[[Params, PyTree], Params]
    doubt: Callable[[PyTree, int], str] | None = None


def two_streams(key: Key) -> tuple[Key, Key]:
    """Return two independent keys: one to collect experience with, one to learn with."""
    return jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)


def same_stream(key: Key) -> tuple[Key, Key]:
    """Return the same key twice, for a learner that uses it in one half only, or splits it by itself."""
    return key, key


@record
class Learner:
    """A learning algorithm bound to an environment.

    Attributes:
        init: `(key, env_params) -> state`. `env_params` is one setting of the environment's parameters, or a stack
            of settings with a leading axis, assigned to the environment copies in turn (pooled data).
        collect: `(key, state) -> (experience, state, metrics)`: collect experience in the compiled environment, and
            count the episodes that ended (`episodes`, `episode_return`). The host executor passes its own experience
            to `learn` instead. A learner that needs no experience uses `nothing_gathered`.
        learn: `(key, state, experience, context) -> (state, metrics)`.
        act: `(key, params, observation, greedy) -> action`, for a batch with the environment copies on the last axis.
        params: `state -> params`, the parameters that the federation may access.
        adopt: `(state, params) -> state`, with the parameters replaced.
        environment: The environment in which it learns.
        samples: The environment steps of one local iteration; the weight of an update is this times local steps.
        gradient: `(key, state, experience, context) -> (gradient, metrics)` of the loss at the current parameters,
            which it leaves unchanged. None if an iteration takes several steps or has no gradient.
        horizon: The time steps of the `Trajectory` that `learn` and `gradient` take, from wherever it was collected.
            0 for a learner that can learn only from its own `collect`.
        num_envs: The number of environment copies in such a trajectory.
        episodic: Whether each environment copy begins a new episode with the trajectory and stops after it; transitions
            after the end are to be ignored. Otherwise each copy continues from its last state, across episodes.
        behaviours: `state -> (params, ...)`, the behaviour policies if experience is collected with several: each acts
            in an equal share of the environment copies, in this order, and the first one is the agent's own policy.
            None if the agent's own policy collects all experience.
        split_key: `key -> (for collect, for learn or gradient)`, of the key of an iteration.
        statistics: Sums that agents count rather than learn, such as moments of observations. Optional.
        policy: `state -> params` that `act` takes, for a learner whose federation accesses only a part of them. None
            if `params` returns all of them.
        restore: `(state, params) -> state` whose `policy` is `params`, the parameters of a trained policy. None if
            `adopt` replaces all of them.
        probabilities: `(params, observation) -> [actions, num_envs]`, the probability with which `act` takes each
            action when it does not act greedily. None if the space of actions is not `Discrete`.
        measures: How to read the entries of its metrics, keyed by name: see `fedrl.core.measures`. The measures of the
            environment are not repeated here.
        gamma: The discount factor of the return that it maximises. None if it has none.
        personalised: The names of the wrappers, such as ("personal",), that make agents act with parameters which the
            federation cannot access. Empty if all agents act with the server's parameters.
        clips_trajectories: The L2 sensitivity of each of its gradients to one episode, C / n: a gradient is a mean over
            n episodes with n fixed, the gradient of each scaled down to a norm of at most C, and no contribution
            depends on another episode (no shared baseline, no shared normalisation), so that adding or removing an
            episode moves the gradient by at most C / n. None: it bounds nothing.
        noise: The noise that it adds to each of its gradients, with `LocalContext.noise` as its key: `event` is the
            price, for one episode, of one local iteration; `unit` is "trajectory". Whatever of the learner's state
            depends on episodes, apart from a running rollout, is then computed from such gradients alone. None: it
            adds none.
        reads_overview: Whether its trajectories have to contain the overview of the world.
        acts_for: The number of players with parameters of their own, so that `act` takes the observations of all of
            them, player by player. None if a row may be anyone's.
        memory: The entries of the memory of a recurrent policy. What `act` observes is then `[observation, flat |
            memory | 1 if an episode begins]`, and what it returns `[action, flat | memory after it]`, which
            `environment` keeps (`fedrl.learners.parts.memory`). 0 without a memory.
        with_memory: `environment -> environment`, what keeps the memory in another environment; None without a memory.
        call: The constructor call that made the learner.
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
    restore: Callable[[PyTree, Params], PyTree] | None = None
    probabilities: Callable[[Params, jax.Array], jax.Array] | None = None
    measures: Measures = field(default_factory=dict)
    gamma: Number | None = None
    personalised: tuple[str, ...] = ()
    clips_trajectories: Number | None = None
    noise: Noise | None = None
    reads_overview: bool = False
    acts_for: int | None = None
    memory: int = 0
    with_memory: Callable[[AnyEnvironment], AnyEnvironment] | None = None
    call: Call | None = None


def iterate(
    learner: Learner, key: Key, state: PyTree, context: LocalContext, experience: Experience | None = None
) -> tuple[PyTree, Metrics]:
    """Run one local iteration: collect experience and learn from it.

    Args:
        learner: The learner.
        key: The key of the iteration.
        state: The learner's state.
        context: The server's contribution to local training.
        experience: Experience collected elsewhere; the key is then used for learning only.

    Returns:
        The next state, and the metrics of `collect` and `learn`.
    """
    key, state, experience, counts = _gathered(learner, key, state, experience)
    state, metrics = learner.learn(key, state, experience, context)
    return state, metrics | counts


def differentiate(
    learner: Learner, key: Key, state: PyTree, context: LocalContext, experience: Experience | None = None
) -> tuple[Params, PyTree, Metrics]:
    """Compute the gradient of a local iteration without taking its step; the arguments are those of `iterate`.

    Returns:
        The gradient at the current parameters, the state after collecting, and the metrics.
    """
    assert learner.gradient is not None
    key, state, experience, counts = _gathered(learner, key, state, experience)
    gradient, metrics = learner.gradient(key, state, experience, context)
    return gradient, state, metrics | counts


def _gathered(
    learner: Learner, key: Key, state: PyTree, experience: Experience | None
) -> tuple[Key, PyTree, Experience, Metrics]:
    """Return the key to learn with, the state, the experience, and the metrics of collecting it."""
    if experience is not None:
        return key, state, experience, {}
    for_collect, for_learn = learner.split_key(key)
    experience, state, counts = learner.collect(for_collect, state)
    return for_learn, state, experience, counts


def check_gathers(learner: Learner) -> None:
    """Refuse a learner that collects its own experience in an environment that only the host can step.

    Raises:
        UnsoundError: The learner has no `horizon` and its environment is a `HostEnvironment`.
    """
    if isinstance(learner.environment, HostEnvironment) and learner.horizon < 1:
        raise UnsoundError(
            f"{learner!r} collects its own experience, and {learner.environment!r} can only be stepped on the host. "
            "Use a learner that learns from trajectories, such as ppo(...)."
        )


def moved(learner: Learner, environment: AnyEnvironment) -> Learner:
    """Return a learner that acts in another environment, which keeps its memory, if it has one."""
    there = environment if learner.with_memory is None else learner.with_memory(environment)
    return replace(learner, environment=there)


def nothing_gathered(key: Key, state: PyTree) -> tuple[Experience, PyTree, Metrics]:
    """Return no experience, as the `collect` of a learner that needs none or collects it inside `learn`."""
    del key
    return (), state, {}


def policy_of(learner: Learner, state: PyTree) -> Params:
    """Return all parameters with which an agent acts, including those that the federation cannot access."""
    return learner.params(state) if learner.policy is None else learner.policy(state)


def restored(learner: Learner, state: PyTree, params: Params) -> PyTree:
    """Return the state whose acting parameters, as `policy_of` returns them, are replaced."""
    return learner.adopt(state, params) if learner.restore is None else learner.restore(state, params)


def behaviours_of(learner: Learner, state: PyTree) -> tuple[Params, ...]:
    """Return the parameters with which an agent collects experience, those of its own policy first."""
    return (policy_of(learner, state),) if learner.behaviours is None else learner.behaviours(state)


def explore(learner: Learner, key: Key, behaviours: tuple[Params, ...], observation: jax.Array) -> jax.Array:
    """Sample the actions of all environment copies, each behaviour policy acting in its equal share of them."""
    # A single behaviour draws by the key itself, so the actions are those of a learner without `behaviours`.
    if len(behaviours) == 1:
        return learner.act(key, behaviours[0], observation, False)
    # In a world the players of a copy act by the same behaviour policy, so rows are split copy by copy.
    keys, players = jax.random.split(key, len(behaviours)), learner.environment.players or 1
    shown = jnp.split(observation.reshape(*observation.shape[:-1], players, -1), len(behaviours), axis=-1)
    actions = [
        learner.act(k, p, seen.reshape(*observation.shape[:-1], -1), False)
        for k, p, seen in zip(keys, behaviours, shown, strict=True)
    ]
    apart = [action.reshape(*action.shape[:-1], players, -1) for action in actions]
    return jnp.concatenate(apart, axis=-1).reshape(*actions[0].shape[:-1], -1)


def follows_corrections(learner: Learner) -> bool:
    """Return whether `learn` uses the correction of its context: whether its optimiser reads corrections."""
    # An optax transformation does not declare what it reads, so we look at the traced program of `learn`: a correction
    # that no operation takes as input cannot change what is learned.
    return _reads(learner, "correction")


def draws_noise(learner: Learner) -> bool:
    """Return whether `learn`, and `gradient` if it has one, use the key of the noise of their context."""
    return _reads(learner, "noise") and (learner.gradient is None or _reads(learner, "noise", of_gradient=True))


def _reads(learner: Learner, entry: str, of_gradient: bool = False) -> bool:
    """Return whether the traced program of `learn`, or of `gradient`, takes an entry of its context as an input."""

    def begun(key: Key) -> tuple[PyTree, Params, Experience]:
        state = learner.init(key, learner.environment.params)
        gathered = _blank(learner) if learner.horizon else learner.collect(key, state)[0]
        return state, learner.params(state), gathered

    key = jax.random.key(0)
    state, params, experience = jax.eval_shape(begun, key)

    def learned(given: PyTree, key: Key, state: PyTree, params: Params, experience: Experience) -> PyTree:
        context = LocalContext(params, params, None if learner.noise is None else key)._replace(**{entry: given})
        function = learner.gradient if of_gradient else learner.learn
        assert function is not None
        return function(key, state, experience, context)[0]

    given = params if entry == "correction" else key
    traced = jax.make_jaxpr(learned)(given, key, state, params, experience).jaxpr
    # It is the first argument, so its leaves are the first inputs of the program.
    inputs = {id(x) for x in traced.invars[: len(jax.tree.leaves(given))]}
    taken = {id(x) for equation in traced.eqns for x in equation.invars} | {id(x) for x in traced.outvars}
    return bool(inputs & taken)


def _blank(learner: Learner) -> Trajectory:
    """Return a trajectory of zeros with the shapes that the learner takes."""
    time, environment = learner.horizon, learner.environment
    num_rows, (seen, done) = learner.num_envs * (environment.players or 1), environment.spaces

    def zeros(space: ActionSpace) -> jax.Array:
        return jnp.zeros((time, *space.shape, num_rows), space.dtype)

    nothing, above = jnp.zeros((time, num_rows), bool), None
    if learner.reads_overview and environment.overview is not None:
        above = jnp.zeros((time, *environment.overview.space.shape, learner.num_envs))
    alive = None if environment.players is None else nothing
    reward = jnp.zeros((time, num_rows))
    return Trajectory(zeros(seen), zeros(done), reward, nothing, nothing, zeros(seen), alive, above, above)


def parameters_of(learner: Learner) -> Params:
    """Return the shapes and dtypes of a learner's parameters; nothing is computed."""
    made = jax.eval_shape(lambda key: learner.params(learner.init(key, learner.environment.params)), jax.random.key(0))
    return made


def policy_shapes(learner: Learner) -> Params:
    """Return the shapes and dtypes of the parameters with which an agent acts; nothing is computed."""
    made = jax.eval_shape(
        lambda key: policy_of(learner, learner.init(key, learner.environment.params)), jax.random.key(0)
    )
    return made


def environment_in(learner: Learner) -> list[bool]:
    """Return for each array of a learner's state whether it is a parameter of the environment."""
    given = learner.environment.params
    # An array that `init` passes through is the same variable at both ends of the traced program.
    traced = jax.make_jaxpr(learner.init)(jax.random.key(0), given).jaxpr
    passed = {id(x) for x in traced.invars[1:]}
    return [id(out) in passed for out in traced.outvars]


def merged_into(learner: Learner, whole: Params) -> list[bool]:
    """Return for each parameter array whether `absorb` may change it."""
    counts = learner.statistics
    assert counts is not None
    sums = jax.eval_shape(
        lambda key: jax.tree.map(
            lambda x: Double(x, x), counts.gathered(learner.init(key, learner.environment.params))
        ),
        jax.random.key(0),
    )
    # An array that `absorb` passes through is the same variable at both ends of the traced program.
    traced = jax.make_jaxpr(counts.absorb)(whole, sums).jaxpr
    return [out is not into for out, into in zip(traced.outvars, traced.invars, strict=False)]


def measures_of(learner: Learner) -> dict[str, Measure]:
    """Return all measures of training, keyed by name: the return, the environment's and the learner's.

    Raises:
        UnsoundError: Two measures have the same name.
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
