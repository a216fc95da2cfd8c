"""Agents in worker processes learn what they would learn in one process, to the last bit, also where workers die.

The workers are in this process: their commands and results cross as bytes, and they end at a chosen command. Those of
Ray are in test_ray.py.
"""

from typing import Any

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.core.errors import RunError
from fedrl.engines.distributed import workers
from fedrl.engines.distributed.shard import AgentShard
from fedrl.engines.executors.executor import Executor
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip
from fedrl.federation.federate import federate
from fedrl.learners import add_correction, chain, sgd
from fedrl.server import uniform
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import fed_buff, synchronous
from fedrl.stages import error_feedback, scaffold, top_k
from fedrl.topologies import metropolis, ring
from tests.engines.combinations import OPTIONS, Seen, trained
from tests.support.quadratic import FLEET, quadratic
from tests.support.workers_here import Here, differences, here, same

CHOSEN = """
compiled  server   fed_async   drop-outs all     constant none   top_k mean   delta
gymnasium tree     deadline    even      uniform linear   greedy none  median gradient
compiled  server   synchronous none      all     linear   greedy none  mean   gradient
gymnasium tree     bounded     drop-outs uniform constant none   top_k median delta
compiled  tree     fed_buff    even      uniform linear   none   top_k mean   delta
compiled  isolated synchronous none      all     constant none   none  mean   delta
compiled  server   deadline    even      all     constant greedy top_k median gradient
gymnasium gossip   synchronous drop-outs all     constant none   top_k mean   delta
compiled  tree     bounded     even      all     linear   greedy top_k mean   gradient
gymnasium tree     synchronous none      all     linear   greedy top_k median gradient
compiled  tree     deadline    drop-outs all     constant none   none  mean   delta
compiled  server   synchronous even      uniform constant none   top_k median gradient
compiled  server   bounded     drop-outs uniform linear   none   none  mean   gradient
compiled  gossip   synchronous none      all     constant none   top_k mean   delta
compiled  server   fed_buff    drop-outs all     constant greedy none  median delta
compiled  isolated synchronous drop-outs all     constant none   none  mean   delta
"""
COMBINATIONS = [dict(zip(OPTIONS, line.split(), strict=True)) for line in CHOSEN.split("\n") if line]
BY_NAME = {" ".join(list(chosen.values())[:4]): chosen for chosen in COMBINATIONS}
ROUNDS = 3


def told_apart(one: Seen, other: Seen) -> list[str]:
    """In what two recorded runs differ."""
    found = [name for name in ("held", "adopted", "server") if not same(getattr(one, name), getattr(other, name))]
    for i, (a, b) in enumerate(zip(one.rounds, other.rounds, strict=True)):
        found += [f"{name} of round {i}" for name in differences(a, b)]
    return found


def test_every_choice_of_every_option_is_among_the_combinations():
    assert {(name, chosen[name]) for chosen in COMBINATIONS for name in OPTIONS} == {
        (name, choice) for name, choices in OPTIONS.items() for choice in choices
    }
    assert len(BY_NAME) == len(COMBINATIONS) == 16


@pytest.mark.parametrize("name", BY_NAME)
def test_any_number_of_workers_gives_the_bits_of_one_process(name):
    alone = trained(BY_NAME[name], ROUNDS)
    for count in (1, 2, 5):
        assert told_apart(alone, trained(BY_NAME[name], ROUNDS, here(count))) == []


def test_agents_in_the_seats_beside_them_may_have_heard_other_rows_before():
    """Two neighbours of a block are due together in one round, and one alone in the next."""

    def ran(executor):
        devices = clock(step_s=1.0, drop_out=0.4)
        parts = {"topology": gossip(ring(), metropolis()), "clock": devices, "executor": executor}
        with simulate(federate(quadratic(sgd(0.1)), mean()), FLEET, block=2, **parts) as simulation:
            run_state, held = simulation.init(1), []
            for _ in range(6):
                run_state, _ = simulation.round(run_state)
                held.append(simulation.held(run_state))
        return held

    assert same(ran(None), ran(here(2)))


PARTS: dict[str, Any] = {
    "sums": (quadratic(sgd(0.1)), [], {}),
    "error feedback": (
        quadratic(sgd(0.1)),
        [error_feedback(top_k(0.4))],
        {"scheduler": Scheduler(synchronous(deadline_s=1.5, quorum=1)), "clock": clock(step_s=[1.0, 1.25, 1.5, 6.0])},
    ),
    "scaffold": (quadratic(chain(add_correction(), sgd(0.1))), [scaffold(0.1)], {}),
    "selected": (quadratic(sgd(0.1)), [error_feedback(top_k(0.4))], {"scheduler": Scheduler(selection=uniform(2))}),
    "ahead": (
        quadratic(sgd(0.1)),
        [error_feedback(top_k(0.4))],
        {"scheduler": fed_buff(2), "clock": clock(step_s=[1.0, 1.25, 1.5, 1.75], drop_out=0.2), "merges": 1},
    ),
}
BROKEN = FLEET._replace(minimum=np.where(np.arange(4)[:, None] == 2, np.float32(1e25), FLEET.minimum))
"""The updates of the third agent are beyond exact sums: they are dropped, and its stages get their memory back."""


def ran(kind: str, executor: Any = None, rounds: int = 6) -> tuple[list[Any], list[Any], list[Any]]:
    """Rounds of four agents in small blocks; what all agents have in the end, the rounds, and the deaths."""
    learner, stages, parts = PARTS[kind]
    weighting = "uniform" if kind == "scaffold" else "samples"
    federation = federate(learner, mean(weighting), *stages)
    size = 2 if kind == "ahead" else 1
    with simulate(federation, BROKEN, block=size, executor=executor, **parts) as simulation:
        run_state, seen = simulation.init(3), []
        for _ in range(rounds):
            run_state, result = simulation.round(run_state)
            seen.append(result)
        there = simulation.whole(run_state)
        team = there.engine_state.team._replace(ahead=())
        whole = there._replace(engine_state=there.engine_state._replace(team=team))
    return jax.tree.leaves(whole), seen, [death for each in seen for death in each.deaths]


def killed(kind: str, kill: dict[int, int], rounds: int = 6) -> tuple[list[str], list[Any]]:
    """What differs from an undisturbed run where workers end after so many commands, and the deaths."""
    transport = Here(2)
    transport.kill = dict(kill)
    leaves, seen, _ = ran(kind, rounds=rounds)
    found, told, deaths = ran(kind, here(2, transport), rounds)
    apart = ["arrays"] * (not same(leaves, found))
    apart += [
        f"{name} of round {i}" for i, pair in enumerate(zip(seen, told, strict=True)) for name in differences(*pair)
    ]
    return apart, deaths


KILLS = [{0: 1}, {1: 2}, {0: 3}, {1: 5}, {0: 6, 1: 6}, {0: 7, 1: 4}]


@pytest.mark.parametrize("saving", [20.0, 0.0], ids=["repeated from the start", "saved after every merge"])
@pytest.mark.parametrize("kind", PARTS)
def test_a_worker_that_dies_changes_no_bit_and_is_told(kind, saving, monkeypatch):
    monkeypatch.setattr(workers, "SHARE_OF_SAVING", saving)
    for kill in KILLS:
        apart, deaths = killed(kind, kill)
        assert apart == [], kill
        assert sorted({(d.worker, d.host, d.agents, d.reason) for d in deaths}) == [
            (worker, f"host{worker}", 2, "killed") for worker in sorted(kill)
        ]


def test_updates_are_dropped_in_these_runs():
    for kind in ("sums", "error feedback", "scaffold", "selected", "ahead"):
        assert any(each.rejected for each in ran(kind)[1])


def test_a_recovery_that_repeats_nothing_is_seen(monkeypatch):
    """Planted: the log is lost with the worker."""
    recover = workers.Workers._recover

    def forgetful(self, member, command, future, reason):
        for each in self._members[member.worker]:
            each.log = [known for known in each.log if known.future is not None or known.name in ("start", "prepared")]
        recover(self, member, command, future, reason)

    monkeypatch.setattr(workers.Workers, "_recover", forgetful)
    assert killed("scaffold", {0: 9})[0] != []


def test_an_older_snapshot_is_seen(monkeypatch):
    """Planted: a shard restores the first state that it has saved."""
    monkeypatch.setattr(workers, "SHARE_OF_SAVING", 0.0)
    restore, firsts = AgentShard.restore, []

    def older(self, content):
        restore(self, firsts[0] if firsts else content)

    saved = AgentShard.saved

    def noted(self):
        found = saved(self)
        if 0 in self.numbers:
            firsts.append(found[1])
        return found

    monkeypatch.setattr(AgentShard, "restore", older)
    monkeypatch.setattr(AgentShard, "saved", noted)
    assert killed("scaffold", {0: 12})[0] != []


@pytest.mark.parametrize("kind", ["scaffold", "error feedback", "selected"])
def test_a_memory_that_is_not_given_back_is_seen(kind, monkeypatch):
    """Planted: workers forget `give_back`; the process does not."""
    give_back = AgentShard.give_back
    apart = [killed(kind, {0: 6})[0]]
    monkeypatch.setattr(AgentShard, "give_back", lambda self, run, calls, dropped: None)
    apart.append(killed(kind, {0: 6})[0])
    monkeypatch.setattr(AgentShard, "give_back", give_back)
    assert apart[0] == []
    assert apart[1] != []


class TestDeath:
    def test_a_worker_that_ends_again_and_again_ends_the_run_with_its_host_and_the_reason(self):
        transport = Here(2)
        transport.fatal = lambda name: name == "train"
        with pytest.raises(RunError, match=r"Worker 0 on host0 ended 4 times in a row \(killed\).*may lack memory"):
            ran("sums", here(2, transport))
        assert transport.starts[0] == workers.MOST_DEATHS

    @pytest.mark.parametrize("name", ["open", "start", "prepared", "rows", "restore", "saved", "give_back", "load"])
    def test_a_worker_may_die_in_any_command(self, name, monkeypatch):
        monkeypatch.setattr(workers, "SHARE_OF_SAVING", 0.0)
        transport, left, saved = Here(2), [2], []

        def fatal(command):
            saved.extend([command] * (command == "saved"))
            # Of a restoration there is need only after another death.
            before = name == "restore" and command == "give_back" and bool(saved) and left[0] == 2
            here_now = command == name or before
            left[0] -= here_now
            return here_now and left[0] >= 0

        transport.fatal = fatal
        leaves, seen, _ = ran("scaffold")
        if name == "load":
            return self.loaded(transport)
        found, told, deaths = ran("scaffold", here(2, transport))
        assert same(leaves, found)
        assert [differences(*pair) for pair in zip(seen, told, strict=True)] == [[]] * len(seen)
        assert sum(transport.starts) == 2
        assert len(deaths) == 2 or name == "rows"  # which nobody asks for but at the end
        return None

    def loaded(self, transport):
        federation = federate(quadratic(sgd(0.1)), mean())
        with (
            simulate(federation, FLEET, block=1) as alone,
            simulate(federation, FLEET, block=1, executor=here(2, transport)) as there,
        ):
            first, _ = alone.round(alone.init(1))
            moved, _ = there.round(there.placed(first))
            assert same(there.held(moved), alone.held(alone.round(first)[0]))
        assert sum(transport.starts) == 2

    def test_an_error_in_a_worker_arrives_with_its_type_and_text(self, monkeypatch):
        def broken(self, *given, **more):
            raise ZeroDivisionError("nothing to divide by")

        for name in ("train", "restarted", "give_back", "start"):
            # In the shard's executor alone: that of the process has the names, too, but another class.
            with monkeypatch.context() as patched:
                patched.setattr(AgentShard, name, broken)
                if name == "restarted":
                    continue
                with pytest.raises(ZeroDivisionError, match="nothing to divide by"):
                    ran("scaffold", here(2))

    def test_an_error_when_a_shard_is_made_arrives(self, monkeypatch):
        def broken(self, setup):
            raise MemoryError("of a worker")

        monkeypatch.setattr(AgentShard, "__init__", broken)
        with pytest.raises(MemoryError, match="of a worker"):
            ran("sums", here(2))


def test_an_agent_in_a_worker_that_restarts_begins_as_another_draw(monkeypatch):
    """And the executor's own `restarted` runs in the worker, once for each restart."""
    calls, restarted = [], Executor.restarted

    def counted(self, keys, agents, ids, policy=None):
        calls.extend(self.numbers[ids].tolist())
        return restarted(self, keys, agents, ids, policy)

    PARTS["restarts"] = (quadratic(sgd(0.1)), [], {"clock": clock(step_s=1.0, restart=0.3)})
    try:
        leaves, _, _ = ran("restarts")
        monkeypatch.setattr(Executor, "restarted", counted)
        found, told, _ = ran("restarts", here(2))
    finally:
        del PARTS["restarts"]
    assert same(leaves, found)
    assert len(calls) == sum(each.clock_stats.restarted for each in told) > 0
