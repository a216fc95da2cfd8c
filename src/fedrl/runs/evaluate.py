"""Greedy evaluation: returns and measures of a policy without exploration.

fleet --blocks of ten agents, the last one padded--> one compiled program, on all devices --> returns

The program is the same for any number of agents, so training and held-out fleets and the settings of a study share it.
A block stops when the last of its own episodes has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fedrl.core.checks import check_positive
from fedrl.core.environment import HostEnvironment, compiled
from fedrl.core.keys import Stream, keys_of, stream_key
from fedrl.core.learner import Learner
from fedrl.core.measures import Measure, counting, step_values
from fedrl.core.players import Seen, copies_of, mean_over_players, rows
from fedrl.core.types import Key, Params, PyTree
from fedrl.engines.environment_failures import EnvironmentFailure
from fedrl.engines.program_cache import Template, numbered_programs

BLOCK = 10
"""Agents per block: few enough for the cache and for stopping early, enough to outweigh the cost of a dispatch."""


class Played(NamedTuple):
    """Results of greedy episodes.

    Attributes:
        returns: The undiscounted return of each episode, `[agents, episodes]`; in a world the mean over its players.
        sums: Measures of the environment, summed over the episodes of each agent, by the names of their parts, with
            "episodes" and "steps": float64 `[agents]`.
        lengths: The steps of each episode, `[agents, episodes]`.
        failures: Failures of environments outside compiled programs. An episode that was not repeated has the return
            NaN.
    """

    returns: Any
    sums: dict[str, Any]
    lengths: Any = None
    failures: tuple[EnvironmentFailure, ...] = ()


def evaluated(learner: Learner) -> dict[str, Measure]:
    """Return the measures of a learner's environment that greedy episodes have: those per step or per episode."""
    return {name: m for name, m in learner.environment.measures.items() if m.per in ("step", "episode")}


def greedy_returns(
    learner: Learner, fleet: PyTree, params: Params, episodes: int, seed: int, stacked: bool = False
) -> Float[np.ndarray, "agents episodes"]:
    """Return the undiscounted return of each greedy episode; for compiled environments, like `greedy_episodes`."""
    return greedy_episodes(learner, fleet, params, episodes, seed, stacked).returns


def greedy_episodes(
    learner: Learner, fleet: PyTree, params: Params, episodes: int, seed: int, stacked: bool = False
) -> Played:
    """Play whole episodes with the greedy policy in the environment of every agent.

    Args:
        learner: The learner whose `act` chooses actions.
        fleet: Parameters of the environments, a leading agent axis on every leaf.
        params: Parameters of one policy for all agents, or of one per agent if `stacked`.
        episodes: Episodes per agent.
        seed: Seed of the episodes. First states depend only on it and on the agent's number, so all policies are
            evaluated from the same ones.
        stacked: Whether every leaf of `params` has a leading agent axis.
    """
    check_positive(episodes=episodes)
    play, key = _program(learner, episodes, stacked), stream_key(keys_of(seed), Stream.EVALUATION)
    fleet, params = jax.tree.map(np.asarray, (fleet, params))
    agents, devices = jax.tree.leaves(fleet)[0].shape[0], jax.local_devices()
    # Blocks go to the devices in turn; dispatch is asynchronous, so all devices work before the first is read.
    blocks = []
    for i in range(-(-agents // BLOCK)):
        ids = np.minimum(np.arange(i * BLOCK, (i + 1) * BLOCK), agents - 1)  # pad with the last agent
        settings, acting = jax.tree.map(itemgetter(ids), (fleet, params if stacked else None))
        with jax.default_device(devices[i % len(devices)]):
            blocks.append(play(key, ids, settings, acting if stacked else params))
    found = jax.tree.map(lambda *parts: np.concatenate([np.asarray(x) for x in parts])[:agents], *blocks)
    sums = {name: column.astype(np.float64) for name, column in found.sums.items()}
    return Played(found.returns, sums | {"episodes": np.full(agents, float(episodes))}, found.lengths)


def played(
    learner: Learner,
    fleet: PyTree,
    params: Params,
    episodes: int,
    seed: int,
    stacked: bool = False,
    restarts: int = 0,
) -> Played:
    """Play greedy episodes as `greedy_episodes` does, in a compiled or a host environment.

    On the host, an episode whose environment fails is repeated up to `restarts` times.
    """
    if not isinstance(learner.environment, HostEnvironment):
        return greedy_episodes(learner, fleet, params, episodes, seed, stacked)
    from fedrl.engines.executors.host_evaluation import played_host

    return Played(*played_host(learner, fleet, params, episodes, seed, stacked=stacked, restarts=restarts))


def returns_of(
    learner: Learner, fleet: PyTree, params: Params, episodes: int, seed: int, stacked: bool = False
) -> Float[np.ndarray, "agents episodes"]:
    """Return the undiscounted return of each greedy episode, in a compiled or a host environment."""
    return played(learner, fleet, params, episodes, seed, stacked).returns


class Game(NamedTuple):
    """State of all episodes of a block.

    `over`, `returned` and `lengths` are `[agents, episodes]`, each of `sums` is `[agents]`.
    """

    time: jax.Array
    over: jax.Array
    returned: jax.Array
    state: PyTree
    seen: Seen
    sums: dict[str, jax.Array]
    lengths: jax.Array


RESET, STEP, ACT = 0, 1, 2


class Turns(NamedTuple):
    """The parts of greedy episodes that are played side by side.

    Attributes:
        begin: `(key, env_params) -> seen, state`.
        step: `(key, env_params, params, time, state, seen) -> seen, reward, done, state, measures`.
    """

    begin: Callable[[Key, PyTree], tuple[Seen, PyTree]]
    step: Callable[
        [Key, PyTree, Params, jax.Array, PyTree, Seen],
        tuple[Seen, jax.Array, jax.Array, PyTree, dict[str, jax.Array]],
    ]


def turns(learner: Learner, episodes: int) -> Turns:
    """Return how a number of episodes begin and go on; every array has them on the last axis."""
    environment = compiled(learner.environment)
    parts, players = counting(environment.measures).parts, environment.players
    copies = copies_of(environment, None, episodes)

    def begin(key: Key, env_params: PyTree) -> tuple[Seen, PyTree]:
        timestep, state = copies.reset(environment.draw_reset(jax.random.fold_in(key, RESET), (episodes,)), env_params)
        return Seen(timestep.observation, timestep.alive), state

    def step(
        key: Key, env_params: PyTree, params: Params, time: jax.Array, state: PyTree, seen: Seen
    ) -> tuple[Seen, jax.Array, jax.Array, PyTree, dict[str, jax.Array]]:
        noise = environment.draw_step(jax.random.fold_in(jax.random.fold_in(key, STEP), time), (episodes,))
        # A greedy policy may still be random (a Q-table draws among equal values), so acting has keys of its own.
        choice = jax.random.fold_in(jax.random.fold_in(key, ACT), time)
        action = learner.act(choice, params, rows(seen.observation, players), True)
        timestep, state = copies.step(noise, env_params, state, seen.alive, action)
        values = step_values(parts, timestep.measures, environment)
        reward, done = mean_over_players(timestep.reward, players), timestep.terminated | timestep.truncated
        return Seen(timestep.observation, timestep.alive), reward, done, state, values

    return Turns(begin, step)


@numbered_programs
def _program(
    template: Template[Learner], episodes: int, stacked: bool
) -> Callable[[Key, np.ndarray, PyTree, Params], Played]:
    """Return the program for a block of agents with this learner, compiled at its first call on a device."""
    environment = compiled(template.like.environment)
    how = counting(environment.measures)

    def play(learner: Learner, key: Key, ids: jax.Array, fleet: PyTree, params: Params) -> Played:
        begin, step = turns(learner, episodes)
        keys = jax.vmap(lambda agent: jax.random.fold_in(key, agent))(ids)
        advance = jax.vmap(step, (0, 0, 0 if stacked else None, None, 0, 0))
        seen, state = jax.vmap(begin)(keys, fleet)

        def going(game: Game) -> jax.Array:
            return (game.time < environment.max_steps) & ~game.over.all()

        def body(game: Game) -> Game:
            given = (keys, fleet, params, game.time, game.state, game.seen)
            seen, reward, done, state, values = advance(*given)
            # Episodes that have ended are stepped along with the others, but no longer counted.
            returned = game.returned + jnp.where(game.over, 0.0, reward)
            playing, ends = ~game.over, ~game.over & (done | (game.time + 1 >= environment.max_steps))
            counted = {name: jnp.where(ends if name in how.last else playing, x, 0.0) for name, x in values.items()}
            counted |= {"steps": playing} if how.steps else {}
            sums = {name: game.sums[name] + x.sum(-1, dtype=jnp.float32) for name, x in counted.items()}
            lengths = game.lengths + playing
            return Game(game.time + 1, game.over | done, returned, state, seen, sums, lengths)

        none, names = jnp.zeros((*ids.shape, episodes)), (*how.parts, *(("steps",) if how.steps else ()))
        sums, lengths = dict.fromkeys(names, none[:, 0]), jnp.zeros(none.shape, jnp.int32)
        start = Game(jnp.int32(0), none > 0.0, none, state, seen, sums, lengths)
        end = jax.lax.while_loop(going, body, start)
        return Played(end.returned, end.sums, end.lengths)

    return template.jit(play)
