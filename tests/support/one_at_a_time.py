"""What a schedule means: a virtual clock that deals with one event at a time, and trains one agent at a time.

    idle --sent for--> at work --its update arrives, or it is lost--> idle
    idle --sent for, but not there--> away --comes back--> idle
                       at work --hangs--> until that is noticed, or it is called back, or for ever
                       at work --restarts--> idle, as in the beginning

The loop in `fedrl.engines.simulate` has to give the same bits at the same seconds. There, events are dealt with in
batches, agents train in blocks and ahead of their time, and what arrives is added up many at a time. Here none of that
is done, so that what is meant can be read off: who is sent for when, what an agent hears, which update is merged with
which scale, what becomes of those who come late, and of the memory of their stages; what a restart leaves of an agent,
that an update is merged once however often it arrives, and of which version an agent hears.

What a device does in its n-th turn is data and is not tested here: it is drawn by the functions of the engine.
Federations whose agents fail, or count statistics, are left to other tests.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.clocks.counter_rng import Purpose, exponential, normal, uniform
from fedrl.clocks.devices import Clock
from fedrl.clocks.distributions import draw
from fedrl.core import exact
from fedrl.core.aggregator import NOBODY, Arrivals
from fedrl.core.keys import (
    Stream,
    agent_secret,
    derived,
    keys_of,
    server_data,
    server_keys,
    server_secret,
    stream_key,
    turn_below,
    turn_data,
    turn_keys,
)
from fedrl.core.types import Broadcast, Update
from fedrl.federation.federation import AgentState, Federation, ServerState
from fedrl.federation.shares import shares
from fedrl.server.schedules import Schedule
from fedrl.wire.codec import codec, size_bytes

IDLE, WORKS, AWAY = "idle", "works", "away"
COMES, GARBLED, DROPS, RESTARTS, HANGS = "comes", "garbled", "drops", "restarts", "hangs"


@dataclass
class Agent:
    """An agent and its device.

    `due_s` is when its next event is: the end of a turn, which `ends` so, or the end of an absence. At `copy_s` the
    update of turn `copy_of` arrives once more; `counted` is the last turn whose update the server has had. It has
    restarted `restarts` times, and hears what the server held `delay` versions ago.
    `turns` counts how often it was sent for, `done` how many turns it has ended. It is away in even phases; the phase
    of now ends at `until_s`. It has heard `heard`, for the `again`-th time after the first.
    """

    number: int
    steps: int
    state: AgentState
    until_s: float
    doing: str = IDLE
    due_s: float = np.inf
    ends: str = COMES
    delay: int = 0
    copy_s: float = np.inf
    copy_of: int = 0
    counted: int = 0
    restarts: int = 0
    turns: int = 0
    done: int = 0
    phase: int = 0
    heard: Broadcast | None = None
    version: int = -1
    again: int = 0
    cohort: int = 1


class Arrival(NamedTuple):
    """An update that has arrived, decoded: whose, what that agent had heard, and what its stages remembered before."""

    agent: Agent
    update: Update
    heard: Broadcast
    remembered: Any


class Programs(NamedTuple):
    """The steps of a federation, compiled for one agent and one update at a time."""

    init_server: Any
    init_agent: Any
    broadcast: Any
    ahead: Any
    train: Any
    digits: Any
    commit: Any
    commit_mean: Any


@functools.lru_cache
def programs(federation: Federation) -> Programs:
    def init_agent(key: Any, first: Any, agent: Any, settings: Any, steps: Any) -> AgentState:
        """All agents start from the first global parameters."""
        state = federation.init_agent(jax.random.wrap_key_data(key), agent, settings, steps)
        return state._replace(learner=federation.learner.adopt(state.learner, first))

    def train(keys: Any, heard: Broadcast, state: AgentState, cohort: Any) -> tuple[Update, AgentState]:
        update, after, _ = federation.agent(turn_keys(keys), heard, state, cohort)
        return federation.decode(heard, update), after

    def commit(keys: Any, server: ServerState, merged: Update, memory: Any) -> ServerState:
        return federation.commit(server_keys(keys), server, merged, memory)

    def commit_mean(keys: Any, server: ServerState, whole: Update) -> ServerState:
        nobody = Arrivals(jnp.full(1, NOBODY), jnp.zeros(1, jnp.int32))
        return commit(keys, server, *federation.aggregate(server_keys(keys).rule, nobody, server, whole))

    return Programs(
        jax.jit(federation.init_server),
        jax.jit(init_agent),
        jax.jit(federation.broadcast),
        jax.jit(lambda params, before, far: jax.tree.map(lambda x, old: x + far * (x - old), params, before)),
        jax.jit(train),
        jax.jit(lambda terms: exact.partial_sum(terms[None], jnp.ones(1, bool))),
        jax.jit(commit),
        jax.jit(commit_mean),
    )


class OneAtATime:
    """A federation on a virtual clock; `merge` goes on until the server has merged once, or has given it up."""

    def __init__(
        self,
        federation: Federation,
        fleet: Any,
        schedule: Schedule,
        clock: Clock,
        steps: list[int],
        seed: int,
        delays: list[int] | None = None,
    ) -> None:
        self.federation, self.clock, self.schedule, self.seed = federation, clock, schedule, seed
        self.programs, self.now_s, count = programs(federation), 0.0, len(steps)
        self.keys = keys_of(seed)
        self.server = self.programs.init_server(stream_key(self.keys, Stream.SERVER))
        self.before = self.server.params
        joins_s = draw(clock.joins_s, count, clock.devices_seed, Purpose.JOIN, "joins_s")
        self.weights, self.agents, self.fleet = shares(federation, np.array(steps)), [], fleet
        self.first, self.seen = self.server.params, dict.fromkeys((GARBLED, RESTARTS, HANGS, "duplicates"), 0)
        for k in range(count):
            born = self.born(k, steps[k], self.key_to_begin(k, 0))
            self.agents.append(Agent(k, steps[k], born, float(joins_s[k]), delay=delays[k] if delays else 0))
        self.held: list[Broadcast] = []
        self.step_s = draw(clock.step_s, count, clock.devices_seed, Purpose.STEP, "step_s")
        self.messages_s = self.message_seconds(count)
        self.latency_s = draw(clock.latency_s, count, clock.devices_seed, Purpose.LATENCY, "latency_s")
        self.drawn: dict[tuple[Purpose, int], np.ndarray] = {}

    def key_to_begin(self, k: int, restarts: int) -> np.ndarray:
        """Of an agent that has begun anew so often."""
        return derived(self.keys.run.tobytes(), Stream.AGENTS, k, restarts)[0]

    def born(self, k: int, steps: int, key: Any) -> AgentState:
        """An agent in the beginning."""
        settings = jax.tree.map(lambda leaf: leaf[k], self.fleet)
        state: AgentState = self.programs.init_agent(key, self.first, k, settings, steps)
        return state._replace(share=self.weights[k])

    # --- devices -----------------------------------------------------------------------------------------------------

    def message_seconds(self, count: int) -> np.ndarray:
        """What the two messages of a turn take on each device."""
        clock, first = self.clock, self.agents[0].state
        sent = self.programs.broadcast(self.server)
        update, _, _ = jax.eval_shape(self.federation.agent, turn_below(jax.random.key(0)), sent, first, jnp.int32(1))
        decoded = jax.eval_shape(self.federation.decode, sent, update)
        up_bytes, down_bytes = codec(update).size_bytes or int(size_bytes(decoded)), int(size_bytes(sent))
        both = 2.0 * draw(clock.latency_s, count, clock.devices_seed, Purpose.LATENCY, "latency_s")
        both = both + down_bytes / draw(clock.down_bytes_per_s, count, clock.devices_seed, Purpose.DOWN, "down")
        return both + up_bytes / draw(clock.up_bytes_per_s, count, clock.devices_seed, Purpose.UP, "up")

    def draw(self, how: Any, purpose: Purpose, agent: Agent, number: int) -> float:
        """An agent's number for its so-manieth turn or absence; those of all agents are drawn together."""
        if (purpose, number) not in self.drawn:
            everybody = np.arange(len(self.agents))
            self.drawn[purpose, number] = how(self.seed, purpose, everybody, np.full(len(everybody), number))
        return float(self.drawn[purpose, number][agent.number])

    def there(self, agent: Agent) -> bool:
        """Whether an agent is there now. It comes and goes, whatever it is asked."""
        while agent.until_s <= self.now_s:
            agent.phase += 1
            mean_s = self.clock.online_s if agent.phase % 2 else self.clock.offline_s
            agent.until_s += mean_s * self.draw(exponential, Purpose.STAY, agent, agent.phase)
        return agent.phase % 2 == 1

    def seconds_of_work(self, agent: Agent) -> float:
        jitter = self.clock.jitter
        pace = float(np.exp(jitter * self.draw(normal, Purpose.JITTER, agent, agent.turns))) if jitter else 1.0
        return agent.steps * float(self.step_s[agent.number]) * pace

    # --- agents ------------------------------------------------------------------------------------------------------

    def working(self) -> list[Agent]:
        return [agent for agent in self.agents if agent.doing == WORKS]

    def send_for(self, agent: Agent) -> bool:
        """Send an agent what the server holds now, if it is there: then its turn begins, and how it ends is settled."""
        if not self.there(agent):
            agent.doing, agent.due_s = AWAY, agent.until_s
            return False
        end_s = self.now_s + float(self.messages_s[agent.number]) + self.seconds_of_work(agent)
        agent.ends = self.how_it_ends(agent)
        if agent.ends == HANGS and agent.until_s >= end_s:
            end_s += self.clock.hang_s * self.draw(exponential, Purpose.HANG_S, agent, agent.turns)
            self.seen[HANGS] += 1
        elif agent.until_s < end_s:
            agent.ends = DROPS
        agent.doing, agent.due_s, agent.turns = WORKS, min(end_s, agent.until_s), agent.turns + 1
        agent.heard = self.sent(agent.delay)
        version = int(agent.heard.version)
        agent.again = agent.again + 1 if agent.version == version else 0
        agent.version = version
        return True

    def how_it_ends(self, agent: Agent) -> str:
        """What becomes of a turn, if its agent stays."""
        chances = (
            (HANGS, Purpose.HANG, self.clock.hang),
            (RESTARTS, Purpose.RESTART, self.clock.restart),
            (DROPS, Purpose.DROP_OUT, self.clock.drop_out),
            (GARBLED, Purpose.MALFORMED, self.clock.malformed),
        )
        found = (end for end, draw, chance in chances if self.draw(uniform, draw, agent, agent.turns) < chance)
        return next(found, COMES)

    def sent(self, delay: int) -> Broadcast:
        """What an agent hears now: what the server sent out so many versions ago, or in the beginning."""
        while len(self.held) <= int(self.server.version):
            self.held.append(self.sends())
        return self.held[max(int(self.server.version) - delay, 0)]

    def sends(self) -> Broadcast:
        """What the server sends out now: what it holds, or where its momentum will have carried that."""
        sent, alpha = self.programs.broadcast(self.server), self.schedule.momentum
        if alpha == 1.0:
            return sent
        return sent._replace(params=self.programs.ahead(sent.params, self.before, (1.0 - alpha) / alpha))

    def fill(self) -> list[Agent]:
        """Send for idle agents while there is room, those who had the fewest turns first; who was there to begin."""
        begun: list[Agent] = []
        while room := (self.schedule.concurrency or len(self.agents)) - len(self.working()):
            idle = [agent for agent in self.agents if agent.doing == IDLE and self.near(agent)]
            if not idle:
                break
            chosen = idle if len(idle) <= room else [min(idle, key=self.place_in_turn)]
            begun += [agent for agent in chosen if self.send_for(agent)]
        for agent in begun:
            agent.cohort = self.schedule.buffer_size or (len(self.agents) if self.schedule.redispatch else len(begun))
        return begun

    def place_in_turn(self, agent: Agent) -> float:
        """Who had fewer turns comes first; a lot is drawn among equals."""
        return agent.turns + self.draw(uniform, Purpose.TURN, agent, agent.turns)

    def near(self, agent: Agent) -> bool:
        """Whether an agent is not too far ahead of the slowest one that is not away."""
        bound = self.schedule.bound
        return bound is None or agent.done - self.least_done() <= bound

    def least_done(self, but: Agent | None = None) -> int:
        present = [agent.done for agent in self.agents if agent.doing != AWAY and agent is not but]
        return min(present, default=0)

    def train(self, agent: Agent) -> Arrival:
        """What an agent makes of what it heard: its own half of the federation, on its own."""
        assert agent.heard is not None
        remembered, own = agent.state.stage_states, self.keys_of_turn(agent)
        state = agent.state._replace(steps=np.int32(agent.steps))
        update, agent.state = self.programs.train(own, agent.heard, state, np.int32(agent.cohort))
        return Arrival(agent, jax.tree.map(np.asarray, update), agent.heard, remembered)

    def keys_of_turn(self, agent: Agent) -> np.ndarray:
        """Others for an agent that hears a version again."""
        secret = agent_secret(self.keys, agent.number)
        return turn_data(self.keys.run.tobytes(), secret, agent.version, agent.number, agent.again)

    # --- server ------------------------------------------------------------------------------------------------------

    def merge(self) -> None:
        schedule = self.schedule
        need = schedule.buffer_size or len(self.agents)
        got: list[Arrival] = []
        began, deadline_s = self.began(), self.now_s + schedule.deadline_s
        while len(got) < need:
            if began and not schedule.redispatch and not self.working():
                break  # whoever began is done
            agent = min(self.agents, key=lambda agent: (agent.due_s, agent.number))
            copy = min(self.agents, key=lambda agent: (agent.copy_s, agent.number))
            if min(agent.due_s, copy.copy_s) > deadline_s and len(got) >= schedule.quorum:
                self.now_s = max(self.now_s, deadline_s)
                break
            if copy.copy_s < agent.due_s:
                self.repeated(copy)
                continue
            got += self.next_event(agent)
            if schedule.redispatch and len(got) < need:
                self.fill()  # whose update completes the merge hears of what comes of it
            if not began:
                began, deadline_s = self.began(), self.now_s + schedule.deadline_s
        if schedule.stragglers == "cancel":
            for agent in self.working():
                agent.doing, agent.due_s = IDLE, np.inf
        if len(got) >= max(schedule.quorum, 1) and self.commit(got):
            return
        self.server = self.server._replace(version=np.int32(int(self.server.version) + 1))
        if not schedule.redispatch:  # who has gone on since has nothing left to give back
            for arrival in got:
                arrival.agent.state = arrival.agent.state._replace(stage_states=arrival.remembered)

    def began(self) -> bool:
        """Send for whoever is idle; whether anybody is at work then."""
        self.fill()
        return bool(self.working())

    def next_event(self, agent: Agent) -> list[Arrival]:
        """Time goes on to the next event; the update that it brings, if it brings one."""
        was, self.now_s = agent.doing, agent.due_s
        assert np.isfinite(self.now_s), "everybody has left for good"
        agent.doing, agent.due_s = IDLE, np.inf
        if was == AWAY:  # nobody waits for an agent to catch up
            agent.done = max(agent.done, self.least_done(but=agent))
            return []
        agent.done += 1
        if agent.ends == COMES:
            if self.draw(uniform, Purpose.DUPLICATE, agent, agent.turns - 1) < self.clock.duplicate:
                later = self.draw(uniform, Purpose.COPY, agent, agent.turns - 1)
                agent.copy_s = self.now_s + 2.0 * float(self.latency_s[agent.number]) * later
                agent.copy_of = agent.turns
            return self.arrives(agent, agent.turns)
        if agent.ends == GARBLED:  # nobody can read it; the agent has learned, and its stages are told
            remembered = self.train(agent).remembered
            agent.state = agent.state._replace(stage_states=remembered)
        if agent.ends == RESTARTS:
            agent.restarts += 1
            key = self.key_to_begin(agent.number, agent.restarts)
            agent.state = self.born(agent.number, agent.steps, key)
        if agent.ends in (GARBLED, RESTARTS):
            self.seen[agent.ends] += 1
        return []

    def repeated(self, agent: Agent) -> None:
        """An update arrives once more, and is known."""
        self.now_s, agent.copy_s = agent.copy_s, np.inf
        assert self.arrives(agent, agent.copy_of) == []

    def arrives(self, agent: Agent, turn: int) -> list[Arrival]:
        """The update of a turn, if the server has not had it yet."""
        if turn <= agent.counted:
            self.seen["duplicates"] += 1
            return []
        agent.counted = turn
        return [self.train(agent)]

    def commit(self, got: list[Arrival]) -> bool:
        """Merge updates, each scaled by its age; false if they have no weight."""
        ages = np.array([int(self.server.version) - int(arrival.update.version) for arrival in got])
        by_age = np.asarray(self.schedule.staleness.weight(ages))
        updates = [self.scaled(arrival, scale) for arrival, scale in zip(got, by_age, strict=True)]
        if not sum(float(update.weight) for update in updates) > 0.0:
            return False
        earlier = self.server.params
        keys = server_data(server_secret(self.keys), int(self.server.version))
        if self.federation.aggregator.needs == "sum":
            self.server = self.programs.commit_mean(keys, self.server, self.mean_of(updates))
        else:
            order = np.argsort([arrival.agent.number for arrival in got], kind="stable")
            stack = jax.tree.map(lambda *leaves: np.stack(leaves), *(updates[i] for i in order))
            senders = np.array([got[i].agent.number for i in order], np.int32)
            arrivals = Arrivals(senders, np.asarray(ages, np.int32)[order])
            merged, memory = self.federation.aggregate(server_keys(keys).rule, arrivals, self.server, stack)
            self.server = self.programs.commit(keys, self.server, merged, memory)
        self.before = earlier
        return True

    def scaled(self, arrival: Arrival, by_age: np.float32) -> Update:
        """What the server makes of an update that may be late."""
        schedule, update = self.schedule, arrival.update
        mixing = 1.0 / len(self.agents) if schedule.mixing is None else schedule.mixing
        scale, value = np.float32(mixing) * by_age, update.value
        if schedule.mix_models:  # where to go, not how far
            now = jax.tree.map(np.asarray, self.server.params)
            value = jax.tree.map(lambda v, old, new: v + (np.asarray(old) - new), value, arrival.heard.params, now)
        return update._replace(value=jax.tree.map(lambda v: np.asarray(v * scale), value))

    def mean_of(self, updates: list[Update]) -> Update:
        """The weighted mean, by sums of integers: the same whatever the order. A stack of one."""
        aggregator, learner = self.federation.aggregator, self.federation.learner
        unit = exact.nearest_power_of_two(aggregator.weight_scale(learner.samples * self.federation.local_steps))
        digits = []
        for update in updates:
            weight = np.float32(update.weight / unit)
            terms = [np.ravel(x * weight) for x in jax.tree.leaves(update.value)]
            digits.append(self.programs.digits(np.concatenate([*terms, [weight]]).astype(np.float32)))
        mean, units = exact.mean_of(exact.total(digits))
        leaves, structure = jax.tree.flatten(updates[0].value)
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = [mean[end - x.size : end].reshape(1, *x.shape) for end, x in zip(ends, leaves, strict=True)]
        version = np.asarray(self.server.version)[None]
        return Update(jax.tree.unflatten(structure, parts), np.float32([units * unit]), version)
