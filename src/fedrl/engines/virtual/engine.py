"""The engine on a virtual clock: devices differ, drop out and come back; learning stays compiled.

    course (when) --sent for, arrived--> crew (what agents learn, in blocks) --updates--> office (what becomes of it)
         ^                                                                                     |
         +---------------------------------- merge, next version ------------------------------+

Time is simulated, learning is not: the same compiled program trains blocks of agents that were sent for at different
moments with different versions. What happens when follows from (seed, agent, turn), and what is learned from (seed,
agent, version). So nothing depends on devices, blocks or the order in which the computer gets to things.
"""

from __future__ import annotations

import math
import time as host_clock
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fedrl.core.aggregator import Arrivals
from fedrl.core.checks import check_positive
from fedrl.core.codec import size_bytes
from fedrl.core.errors import ConfigError
from fedrl.core.federation import Federation
from fedrl.core.shares import shares
from fedrl.core.types import Params, PyTree
from fedrl.engines.compute import COMPUTE, compute_of
from fedrl.engines.merging import accounting, messages, passed_over
from fedrl.engines.simulation import Population, Round, Simulation, Tick, chosen_size, iterations
from fedrl.engines.virtual.checks import check_clock
from fedrl.engines.virtual.clock import Clock, speeds_of
from fedrl.engines.virtual.crew import Desks, crew, free_places
from fedrl.engines.virtual.log import TIMES, Log
from fedrl.engines.virtual.server import Batch, office
from fedrl.engines.virtual.timetable import ARRIVES, AWAY, Timetable, at_work, course


class Between(NamedTuple):
    """What the engine keeps between two rounds.

    Attributes:
        table: Of the clock.
        desks: What agents have before them.
        before: The parameters before the last merge, for a look-ahead.
        iterations: Local steps behind all updates that arrived, `[1]`.
    """

    table: Timetable
    desks: Desks
    before: Params
    iterations: np.ndarray


def simulate_clock(
    federation: Federation,
    fleet: PyTree,
    clock: Clock,
    *,
    local_steps: Sequence[int] | np.ndarray | None = None,
    merges: int | None = None,
    block: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Simulation:
    """Prepare a federation to be simulated on a virtual clock.

    A round is so many merges; with the clock's own schedule `synchronous()` it is what
    `fedrl.engines.blocks.simulate` does. `Round.tick` tells the time. The metrics of a round have an entry for every
    agent, zero for those whose updates did not arrive in it; `Round.steps` says how many local steps are behind those
    that did. `cohort` are the agents that may be sent for.

    Args:
        federation: What to run.
        fleet: Parameters of each agent's environment, a leading agent axis on every leaf.
        clock: The devices, and when the server merges.
        local_steps: Local iterations of each agent, at most `federation.local_steps`, which is the default.
        merges: In a round; by default as many as it takes to merge one update per agent, and one if the server waits
            for all of them.
        block: Agents per compiled block; of no consequence but to float tolerance.
        devices: Where to train; all local devices by default.

    Raises:
        ConfigError: An argument does not fit the fleet.
        UnsoundError: The federation and the schedule do not go together.
    """
    agents = jax.tree.leaves(fleet)[0].shape[0]
    schedule = clock.schedule
    check_clock(federation, clock, agents)
    size = chosen_size(agents, block)
    places = list(jax.local_devices() if devices is None else devices)
    steps = iterations(federation, agents, local_steps)
    wire = messages(federation, fleet)
    team = crew(federation, fleet, steps, size, places, wire)
    host = office(federation, schedule, fleet, wire)
    account, dense = accounting(wire, agents), int(size_bytes(wire.decoded))
    speeds = speeds_of(clock, agents, wire.up_bytes or dense, wire.down_bytes)
    time = course(clock, speeds, steps)
    each = 1 if schedule.wait_for is None or not schedule.restart else max(1, agents // schedule.wait_for)
    count = each if merges is None else merges
    check_positive(merges=count)

    def init(seed: int) -> Population:
        first, desks = team.start(seed)
        before = jax.tree.map(np.asarray, first.server.params) if schedule.momentum < 1.0 else ()
        between = Between(time.start(seed), desks, before, np.zeros(1, np.int64))
        return Population(first.server, (), first.key, between)

    def round(
        population: Population, cohort: Sequence[int] | np.ndarray | None = None, talk: bool = True
    ) -> tuple[Population, Round]:
        if not talk:
            raise ConfigError(
                "talk is False. On a virtual clock agents meet when the schedule says so. "
                "Use fedrl.engines.blocks.simulate for agents that never talk."
            )
        allowed = np.ones(agents, bool) if cohort is None else np.isin(np.arange(agents), np.asarray(cohort))
        began, log = host_clock.perf_counter(), Log(agents, team.metrics)
        for _ in range(count):
            population = merge(population, allowed, log)
        between: Between = population.between
        between.iterations[0] += log.steps.sum()
        done = int(between.iterations[0])
        tick = Tick(float(between.table.now_s[0]), done * federation.learner.samples, *log.counts)
        uploads = log.uploads
        seen = Round(
            metrics=log.metrics,
            weight=log.weight,
            refused=tuple(sorted(log.refused)),
            bytes_up=int(uploads.size_bytes.sum()),
            bytes_down=log.sent * wire.down_bytes,
            messages_up=int(uploads.messages.sum()),
            messages_down=log.sent,
            uploads=uploads,
            arrivals=log.arrivals,
            steps=log.steps,
            iterations=done,
            tick=tick,
            skipped="; ".join(dict.fromkeys(log.skipped)),
            sums=compute_of(began, began + log.agents_s) | log.sums,
            turns=log.arrived,
        )
        return population, seen

    def merge(population: Population, allowed: np.ndarray, log: Log) -> Population:
        """Let time go on until the server merges, and merge."""
        server, key = population.server, population.key
        table, desks, before, iterations = population.between
        version, row = int(server.version), host.envelope(server, before)
        collected: list[tuple[np.ndarray, ...]] = []
        remembered: list[tuple[np.ndarray, np.ndarray]] = []
        failing = np.zeros(agents, bool)  # since an update last arrived

        def send(begun: np.ndarray, asked: int) -> None:
            desks.sent[begun] = row
            desks.again[begun] = np.where(desks.version[begun] == version, desks.again[begun] + 1, 0)
            desks.version[begun], desks.cohort[begun] = version, asked
            desks.waiting[begun] = table.ahead[begun] == ARRIVES
            desks.steps[begun], desks.work_s[begun] = table.steps[begun], table.work_s[begun]
            log.sent += len(begun)

        def receive(arrived: np.ndarray) -> int:
            """Who arrives has learned by now; a turn whose training failed is lost. Returns how many are not."""
            needed = arrived[desks.waiting[arrived]]
            if len(needed):
                if not schedule.restart:
                    remembered.append((needed, desks.states[needed, team.memory]))
                began = host_clock.perf_counter()
                others = _company(needed, table, desks, team.wave if schedule.restart else 1)
                team.learn(key, desks, needed, others)
                log.agents_s += host_clock.perf_counter() - began
            team.end(desks, arrived)
            failed = team.failed(desks, arrived)
            log.refused += failed
            sound = arrived[~np.isin(arrived, [agent for agent, _ in failed])]
            failing[:] &= not len(sound)
            failing[np.setdiff1d(arrived, sound)] = True
            collected.append((desks.updates[sound], sound, desks.sent[sound], desks.version[sound]))
            uploads = account(sound, team.uploads(desks, sound))
            came = Arrivals(sound.astype(np.int32), (version - desks.version[sound]).astype(np.int32))
            log.receive(came, desks.metrics[sound], uploads, desks.steps[sound], desks.work_s[sound])
            log.messages_s += float(speeds.messages_s[sound].sum())
            return len(sound)

        def give_back(lost: np.ndarray) -> None:
            """Stages of agents whose updates came to nothing remember what they did before, unless these went on."""
            for ids, rows in remembered:
                here = np.isin(ids, lost)
                desks.states[ids[here], team.memory] = rows[here]

        def begin() -> bool:
            begun = time.begin(table, allowed)
            send(begun, schedule.wait_for or len(begun))
            return len(begun) > 0 or bool(at_work(table).any())

        begun, got = begin(), 0
        deadline_s, need = table.now_s[0] + schedule.deadline_s, schedule.wait_for or agents
        while got < need:
            overdue = table.now_s[0] >= deadline_s
            if (overdue and got >= schedule.quorum) or (begun and not schedule.restart and not at_work(table).any()):
                break
            happened = time.step(
                table, allowed, (schedule.quorum if overdue else need) - got, math.inf if overdue else deadline_s
            )
            sound = receive(happened.arrived) if len(happened.arrived) else 0
            send(happened.begun, schedule.wait_for or agents)
            if sound < len(happened.arrived) and schedule.restart and got + sound < need:
                send(time.begin(table, allowed), schedule.wait_for or agents)
            got, log.lost = got + sound, log.lost + happened.lost
            if failing.any() and not (allowed & (table.ahead != AWAY) & ~failing).any():
                break  # whoever is there fails: nobody is worth waiting for
            if not begun:
                begun, deadline_s = begin(), table.now_s[0] + schedule.deadline_s
        if schedule.late == "discard":
            log.late += int(at_work(table).sum())
            time.recall(table)
        if got < max(schedule.quorum, 1):
            give_back(np.arange(agents))
            return population._replace(server=passed_over(server))
        updates, senders, sent, versions = (np.concatenate(rows) for rows in zip(*collected, strict=True))
        arrivals = Arrivals(senders.astype(np.int32), (version - versions).astype(np.int32))
        log.staleness.append(version - versions)
        merged = host.merge(key, server, Batch(updates, arrivals, sent))
        give_back(merged.lost(senders))
        log.weight += merged.weight
        log.refused += merged.refused
        log.skipped += [merged.skipped] if merged.skipped else []
        earlier = jax.tree.map(np.asarray, server.params) if schedule.momentum < 1.0 else ()
        return Population(merged.server, (), key, Between(table, desks, earlier, iterations))

    def assign(population: Population, wanted: np.ndarray) -> Population:
        population.between.table.steps[:] = wanted
        population.between.desks.share[:] = shares(federation, wanted)
        return population

    def adopt(population: Population) -> Population:
        desks = team.adopt(population.between.desks, jax.tree.map(np.asarray, population.server.params))
        return population._replace(between=population.between._replace(desks=desks))

    return Simulation(
        init,
        round,
        params_of=lambda population: team.params_of(population.between.desks),
        agents=agents,
        block=size,
        adopt=adopt,
        assign=assign,
        states_of=lambda population: team.states_of(population.between.desks),
        measures=COMPUTE | TIMES,
    )


def _company(needed: np.ndarray, table: Timetable, desks: Desks, wave: int) -> np.ndarray:
    """Who learns ahead of time beside those who are needed: as many, by their time, as fill the devices."""
    seats = -len(needed) % wave
    if not seats:
        return needed[:0]
    others = np.setdiff1d(np.flatnonzero(desks.waiting & (table.ahead == ARRIVES)), needed)
    return others[np.argsort(table.due_s[others], kind="stable")][: min(seats, len(free_places(desks)))]
