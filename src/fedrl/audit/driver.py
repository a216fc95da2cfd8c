"""Drive the functions of a run with a canary, thousands of times side by side, and look at what is released.

    broadcast -> begin -> (canary) -> report -> decode -> partial_sums --host: total, mean_of--> commit -> next round
                                                   |                                                |
                                     noise of agents: the message                     noise of a server: the change

These are the functions of an agent's half, a server's half and `fedrl.engines.aggregation`, with keys derived as in a
run, whose noise root differs in each repetition. Only the training is left out: agents send the same update each time.
The other agents send zeros, which moves no release; one of them is simulated, or as many as the price counts on where
agents add noise together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from fedrl.audit.canary import AuditedMechanism, canary_update
from fedrl.core import exact
from fedrl.core.double import split64
from fedrl.core.keys import (
    Keys,
    Stream,
    derived,
    keys_of,
    noise_of_seed,
    server_data,
    server_noise,
    server_secret,
    turn_keys,
    turns,
    turns_noise,
)
from fedrl.core.reports import nothing_measured
from fedrl.core.summation import hidden
from fedrl.core.types import PyTree
from fedrl.engines.aggregation import BlockSums, commit_programs, partial_sums, weight_scale
from fedrl.engines.messages import messages
from fedrl.engines.program_cache import shapes
from fedrl.federation.federation import ServerState

AT_ONCE, NUMBERS_AT_ONCE = 1000, 1 << 21
"""The most repetitions, and the most numbers of their updates, that are computed at a time: a bound of the memory."""


class World(NamedTuple):
    """One of two neighbouring datasets.

    Attributes:
        pushes: `[rounds]`, the factor of the canary's update in each round; 0 if it has no such data.
        takes_part: Whether the canary is there at all.
        sampled: Whether it is in a round only if the selection says so; else in every one.
    """

    pushes: tuple[float, ...]
    takes_part: bool = True
    sampled: bool = True


class Directions(NamedTuple):
    """Where the canary moves a release: a unit vector in each array that it moves, and by how much.

    Attributes:
        unit: A tree like a release, of NumPy arrays.
        moved: `[arrays]`, of the arrays that are moved at all.
        which: `[arrays]`, their positions among the leaves.
    """

    unit: PyTree
    moved: np.ndarray
    which: np.ndarray


class Driver:
    """Releases of a mechanism, for a canary and one agent more, or all with whom it adds noise."""

    def __init__(self, mechanism: AuditedMechanism) -> None:
        self.mechanism, self.federation = mechanism, mechanism.federation
        others = [agent for agent in range(mechanism.agents) if agent != mechanism.canary]
        others = others[: 1 if mechanism.noise.grid is None else mechanism.noise.grid.least - 1]
        self.ids = np.array([mechanism.canary, *others])
        self.push = canary_update(mechanism)
        federation, keys = self.federation, keys_of(0)
        start = federation.init_server(_key(keys, Stream.SERVER))
        # A release is what the server adds to its parameters; from zero it is read without rounding.
        self.start = start._replace(params=jax.tree.map(jnp.zeros_like, start.params))
        self.agents = jax.tree.map(
            lambda *leaves: jnp.stack(leaves),
            *(
                federation.init_agent(
                    _key(keys, Stream.AGENTS, int(i), 0), jnp.int32(i), mechanism.setting, jnp.int32(1)
                )
                for i in self.ids
            ),
        )
        fleet = jax.tree.map(lambda leaf: np.asarray(leaf)[None], mechanism.setting)
        self.like = messages(federation, fleet).decoded
        self.size = sum(leaf.size for leaf in jax.tree.leaves(self.like.value))
        # With error feedback, or a clip that the server adapts, an update depends on the rounds before.
        self.remembers = bool(jax.tree.leaves((start.stage_states, self.agents.stage_states)))
        self.at_once = max(1, min(AT_ONCE, NUMBERS_AT_ONCE // (max(self.size, 1) * len(self.ids))))
        self._sent, self._committed = self._programs()

    @property
    def by_agents(self) -> bool:
        """Whether agents add the noise, so that an attacker sees the canary's own message."""
        return self.mechanism.noise.at == "agent" and self.mechanism.noise.grid is None

    @property
    def draws_on_agents(self) -> bool:
        """Whether what agents draw reaches a release."""
        return self.mechanism.noise.at == "agent"

    def releases(self, world: World, keys: Sequence[Keys]) -> list[PyTree]:
        """Return what is released in each round, `[runs, agents, ...]` on every leaf.

        Args:
            world: The dataset.
            keys: The keys of each repetition, with a noise root.
        """
        runs = len(keys)
        here = self.participation(world, keys)
        stage_states = _repeated(self.start.stage_states, runs)
        memory = _repeated(self.agents.stage_states, runs)
        found = []
        for number, push in enumerate(world.pushes):
            version, who = np.int32(number), here[:, number]
            states = (stage_states, memory) if self.remembers else (self.start.stage_states, self.agents.stage_states)
            # Without memory and noise, what agents send depends on nothing but who is there.
            rows, of_row = (who, np.arange(runs)) if self.remembers or self.draws_on_agents else _distinct(who)
            if not self.remembers:
                states = _repeated(states, len(rows))
            decoded, after = self._sent(
                *states,
                version,
                self._pushes(push),
                rows,
                self._agents_noise(keys, len(rows), number),
                self._turns(number),
            )
            if self.by_agents:
                memory = after
                found.append(decoded)
                continue
            if self.remembers:
                memory = after
            flat, weight = (each[of_row] for each in self._means(decoded))
            data = server_data(server_secret(keys[0]), number)
            server_keys = np.stack([_given(server_noise(each, number)) for each in keys])
            params, stage_states, fault = self._committed(stage_states, version, data, server_keys, flat, weight)
            if int(np.asarray(fault).max()):
                raise FloatingPointError("A release of the audited federation is not finite.")
            found.append(jax.tree.map(lambda leaf: leaf[:, None], params))
        return found

    def _pushes(self, push: float) -> np.ndarray:
        pushes = np.zeros(len(self.ids), np.float32)
        pushes[0] = push
        return pushes

    def participation(self, world: World, keys: Sequence[Keys]) -> Bool[np.ndarray, "runs rounds agents"]:
        """Return who is in each round, as the selection of a run says."""
        rounds, scheduler = len(world.pushes), self.mechanism.scheduler
        here = np.ones((len(keys), rounds, len(self.ids)), bool)
        # Where a round is priced as if the canary were in it for certain, it is.
        if world.sampled and self.mechanism.sampling < 1.0:
            board = scheduler.init(np.ones(self.mechanism.agents, int), (0, 0, 0))
            for run, each in enumerate(keys):
                raw = derived(each.run.tobytes(), Stream.SELECTION)[0]
                board = board._replace(key=np.append(raw, 0).astype(np.int64))
                for number in range(rounds):
                    chosen = scheduler.chosen(board, number + 1, each.noise)
                    here[run, number] = (chosen == self.ids[:, None]).any(1)
        here[:, :, 0] &= world.takes_part
        return here

    def directions(self, keys: Keys) -> Directions:
        """Return where the canary moves a release, from two releases with the same noise."""
        high, low = self.mechanism.worlds
        copies = [keys] * self.at_once  # as many as elsewhere, so that one program serves all
        with_it = self.releases(World((high,), sampled=False), copies)[0]
        without = self.releases(World((low,), self.mechanism.takes_part(low), False), copies)[0]
        gap = jax.tree.map(lambda one, other: np.asarray(one - other, np.float64)[0, 0], with_it, without)
        leaves, structure = jax.tree.flatten(gap)
        moved = np.array([np.linalg.norm(leaf) for leaf in leaves])
        which = np.flatnonzero(moved > 1e-9 * max(moved.max(initial=0.0), 1e-30))
        unit = [leaf / np.linalg.norm(leaf) if i in which else np.zeros_like(leaf) for i, leaf in enumerate(leaves)]
        return Directions(jax.tree.unflatten(structure, unit), moved[which], which)

    def projections(
        self, world: World, keys: Sequence[Keys], directions: Directions
    ) -> Float[np.ndarray, "runs rounds agents arrays"]:
        """Return the releases along the directions, `at_once` runs at a time."""
        at_once = self.at_once
        unit = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), directions.unit)
        found = []
        for first in range(0, len(keys), at_once):
            chunk = list(keys[first : first + at_once])
            padded = chunk + chunk[-1:] * (at_once - len(chunk))
            rounds = [np.asarray(_along(each, unit)) for each in self.releases(world, padded)]
            found.append(np.stack(rounds, 1)[: len(chunk), ..., directions.which].astype(np.float64))
        return np.concatenate(found)

    def _programs(self) -> tuple[Any, Any]:
        federation, learner, push = self.federation, self.federation.learner, self.push
        commit_mean = commit_programs(federation, shapes(self.like))[1]
        nothing = split64(np.zeros(sum(leaf.size for leaf in jax.tree.leaves(self.like.statistics))))

        def one(sent: Any, agent: Any, memory: PyTree, turn: jax.Array, noise: Any, amount: jax.Array) -> Any:
            before = federation.remember(agent._replace(stage_states=memory))
            task, begun = federation.begin(turn_keys(turn, noise), sent, before, jnp.int32(len(self.ids)))
            total = federation.descent(sent.params)
            if federation.payload == "gradient":
                total = jax.tree.map(lambda x, p: x + amount * p, total, push)
            else:
                pushed = jax.tree.map(lambda x, p: x + amount * p, learner.params(begun.learner), push)
                begun = begun._replace(learner=learner.adopt(begun.learner, pushed))
            update, after, _ = federation.report(task, before, begun, total, nothing_measured())
            return federation.decode(sent, update), after.stage_states

        def sent(
            stage_states: PyTree,
            memory: PyTree,
            version: jax.Array,
            pushes: jax.Array,
            here: jax.Array,
            noise: Any,
            turn: jax.Array,
        ) -> Any:
            broadcast = federation.broadcast(self.start._replace(stage_states=stage_states, version=version))
            each = jax.vmap(one, (None, 0, 0, 0, 0, 0))
            decoded, after = each(broadcast, self.agents, memory, turn, noise, pushes)
            # Stages remember only what was sent.
            after = jax.tree.map(
                lambda new, old: jnp.where(here.reshape(-1, *[1] * (new.ndim - 1)), new, old), after, memory
            )
            return (decoded.value if self.by_agents else partial_sums(federation, decoded, here)), after

        def committed(
            stage_states: PyTree, version: jax.Array, data: Any, noise: Any, flat: jax.Array, weight: jax.Array
        ) -> Any:
            server: ServerState = self.start._replace(stage_states=stage_states, version=version)
            after, fault = commit_mean((data, noise), server, flat, weight, nothing)
            return after.params, after.stage_states, fault

        return (
            jax.jit(jax.vmap(sent, (0, 0, None, None, 0, 0, None))),
            jax.jit(jax.vmap(committed, (0, None, None, 0, 0, 0))),
        )

    def _means(self, sums: BlockSums) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the weight of each run, as a merge computes them from exact sums."""
        updates, federation = np.asarray(sums.updates), self.federation
        flat = np.empty((len(updates), self.size), np.float32)
        weight = np.empty(len(updates), np.float32)
        total = federation.summation.total
        if hidden(federation.summation) is None:
            # Runs are columns beside each other: a total is computed number by number.
            totals = total([updates.transpose(1, 0, 2).reshape(updates.shape[1], -1)]).reshape(len(updates), -1)
        else:
            totals = np.stack([total([each]) for each in updates])
        for run, each in enumerate(totals):
            flat[run], units = exact.mean_of(each)
            weight[run] = units * weight_scale(federation)
        # A round of nobody is merged as if all agents had sent zero, so that noise does not tell it.
        return flat, np.where(weight > 0.0, weight, self.mechanism.agents).astype(np.float32)

    def _agents_noise(self, keys: Sequence[Keys], rows: int, number: int) -> Any:
        versions, again = [number] * len(self.ids), [0] * len(self.ids)
        ids = self.ids.tolist()
        if not self.draws_on_agents:
            # Nothing of what agents draw reaches a release, so their keys are those of the first repetition.
            own = _given(turns_noise(keys[0], ids, versions, again))
            return np.broadcast_to(own, (rows, *own.shape))
        return np.stack([_given(turns_noise(each, ids, versions, again)) for each in keys])

    def _turns(self, number: int) -> np.ndarray:
        return turns(keys_of(0), self.ids.tolist(), [number] * len(self.ids), [0] * len(self.ids))


def run_keys(seed: int, series: int, runs: int) -> list[Keys]:
    """Return the keys of repetitions, each those of a run with a seed and a noise root of its own."""
    found = []
    for run in range(runs):
        # Hashed as text in `keys_of`, so no two triples have a key in common.
        keys = keys_of((seed << 64) + (series << 32) + run)
        found.append(keys._replace(noise=noise_of_seed(keys)))
    return found


@jax.jit
def _along(release: PyTree, unit: PyTree) -> jax.Array:
    """Return the product of each array with its direction, `[runs, agents, arrays]`."""
    products = jax.tree.map(lambda x, u: jnp.tensordot(x, u, u.ndim), release, unit)
    return jnp.stack(jax.tree.leaves(products), -1)


def _key(keys: Keys, stream: Stream, *numbers: int) -> jax.Array:
    return jax.random.wrap_key_data(derived(keys.run.tobytes(), stream, *numbers)[0])


def _distinct(who: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all sets of agents that there are, in a fixed order, and which of them each run has."""
    count = who.shape[1]
    every = (np.arange(2**count)[:, None] >> np.arange(count)) % 2 == 1
    return every, who @ (1 << np.arange(count))


def _repeated(tree: PyTree, runs: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (runs, *jnp.shape(leaf))), tree)


def _given(data: np.ndarray | None) -> np.ndarray:
    assert data is not None
    return data
