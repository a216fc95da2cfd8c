"""The states of agents in workers: fetched for checkpoints, of several runs at a time, and without growing memory."""

import threading
from dataclasses import replace

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.core.errors import ConfigError, RunError
from fedrl.engines.distributed import workers
from fedrl.engines.distributed.executor import Distributed
from fedrl.engines.distributed.workers import Workers
from fedrl.engines.executors.placement import Placement
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.records import checkpoint
from fedrl.server import uniform
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import fed_buff
from fedrl.stages import error_feedback, top_k
from tests.engines.combinations import learner_and_fleet
from tests.support.quadratic import FLEET, quadratic
from tests.support.workers_here import Here, differences, here, same

KINDS = {
    "resident": {},
    "packed": {"scheduler": Scheduler(selection=uniform(2))},
    "ahead": {"scheduler": fed_buff(2), "clock": clock(step_s=[1.0, 1.25, 1.5, 1.75], drop_out=0.2), "merges": 1},
}


def made(kind="resident", executor=None):
    federation = federate(quadratic(sgd(0.1)), mean(), error_feedback(top_k(0.4)))
    # Agents train ahead of time in seats that would be empty, so blocks have more than one.
    return simulate(federation, FLEET, block=2 if kind == "ahead" else 1, executor=executor, **KINDS[kind])


def after(simulation, rounds, run_state=None):
    run_state = simulation.init(3) if run_state is None else run_state
    for _ in range(rounds):
        run_state, _ = simulation.round(run_state)
    return run_state


def arrays(simulation, run_state):
    """All arrays but results ahead of time, which are computed again."""
    whole = simulation.whole(run_state)
    team = whole.engine_state.team._replace(ahead=())
    return jax.tree.leaves(whole._replace(engine_state=whole.engine_state._replace(team=team)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_has_the_arrays_of_one_process_and_continues_anywhere(kind, tmp_path):
    with made(kind) as alone, made(kind, here(2)) as two, made(kind, here(3)) as three:
        for i, (one, other) in enumerate([(alone, two), (two, alone), (two, three), (three, two)]):
            path, before = tmp_path / f"state{i}", after(one, 3)
            whole = one.whole(before)
            assert same(arrays(one, before), arrays(alone, after(alone, 3)))
            checkpoint.save(path, whole, 3)
            like = other.init(3)
            placed = other.placed(checkpoint.load(path, other.whole(like)))
            assert same(arrays(other, after(other, 4, placed)), arrays(alone, after(alone, 7)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_can_be_placed_in_a_simulation_that_has_not_begun(kind):
    with made(kind) as alone, made(kind, here(2)) as there:
        placed = there.placed(alone.whole(after(alone, 3)))
        assert same(arrays(there, after(there, 4, placed)), arrays(alone, after(alone, 7)))


def test_agents_did_train_ahead_of_time():
    with made("ahead", here(2)) as there:
        run_state, ahead = there.init(3), []
        for _ in range(6):
            run_state, _ = there.round(run_state)
            ahead.append(int(run_state.blocks[0].run.ahead.sum()))
    assert max(ahead) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_learning_of_another_simulation_is_continued_whichever_has_workers(kind):
    with made(kind) as alone, made(kind, here(2)) as there, made(kind, here(3)) as other:
        expected = arrays(alone, after(alone, 2, alone.init(5, earlier=after(alone, 3))))
        for one, next_one in [(alone, there), (there, alone), (there, other), (there, there)]:
            begun = next_one.init(5, earlier=after(one, 3))
            assert same(arrays(next_one, after(next_one, 2, begun)), expected)


def test_the_state_of_an_adopted_run_trains_on_as_in_one_process():
    ends = []
    for executor in (None, here(2)):
        with made("ahead", executor) as simulation:
            adopted = simulation.adopt(after(simulation, 3))
            ends.append(arrays(simulation, after(simulation, 3, adopted)))
    assert same(*ends)


def alternating(simulation, rounds=3):
    states, seen = [simulation.init(seed) for seed in (1, 2)], []
    for _ in range(rounds):
        for i in range(2):
            states[i], result = simulation.round(states[i])
            seen.append(result)
    return [arrays(simulation, each) for each in states], seen


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_in_turn_do_not_disturb_each_other(kind):
    with made(kind) as alone, made(kind, here(2)) as there:
        (one, records), (other, told) = alternating(alone), alternating(there)
    assert same(one, other)
    assert [differences(*pair) for pair in zip(records, told, strict=True)] == [[]] * 6


def test_two_runs_of_gymnasium_in_turn_begin_the_episodes_that_one_process_begins():
    learner, fleet = learner_and_fleet("gymnasium")
    found = []
    for executor in (None, here(2)):
        with simulate(federate(learner, mean()), fleet, executor=executor, workers=0) as simulation:
            found.append(alternating(simulation, 2)[0])
    assert same(*found)


@pytest.mark.parametrize("kill", [{}, {0: 9, 1: 20}], ids=["alive", "dying"])
def test_two_runs_in_two_threads_do_not_disturb_each_other(kill, monkeypatch):
    monkeypatch.setattr(workers, "SHARE_OF_SAVING", 0.0)
    transport, ends, faults = Here(2), {}, []
    transport.kill = dict(kill)

    def run(simulation, seed):
        try:
            run_state = simulation.init(seed)
            for _ in range(5):
                run_state, _ = simulation.round(run_state)
            ends[seed] = arrays(simulation, run_state)
        except Exception as fault:
            faults.append(fault)

    with made("ahead") as alone, made("ahead", here(2, transport)) as there:
        threads = [threading.Thread(target=run, args=(there, seed)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        threaded = dict(ends)
        for seed in (1, 2):
            run(alone, seed)
    assert faults == []
    assert all(same(threaded[seed], ends[seed]) for seed in (1, 2))
    assert transport.starts == [int(0 in kill), int(1 in kill)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_from_before_a_round_is_refused_whether_the_round_failed_or_not(kind, monkeypatch):
    with made(kind) as alone, made(kind, here(2)) as there:
        before = after(there, 3)
        kept = jax.tree.map(np.array, there.whole(before))
        latest = after(there, 1, before)
        uses = [there.round, there.whole, there.params_of, there.held, there.adopt]
        for use in (*uses, lambda state: there.init(5, earlier=state)):
            with pytest.raises(RunError, match=r"from before a later or a failed round.+`whole` returned earlier"):
                use(before)

        def interrupted(self, member, command):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Workers, "result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                there.round(latest)
        for use in uses:
            with pytest.raises(RunError, match="from before a later or a failed round"):
                use(latest)
        # What was fetched before the round goes on, to the bits of a run that was never interrupted.
        assert same(arrays(there, after(there, 4, there.placed(kept))), arrays(alone, after(alone, 7)))
        assert same(arrays(there, after(there, 2)), arrays(alone, after(alone, 2)))


class TestClosing:
    def test_the_last_simulation_that_is_closed_ends_the_workers_and_closing_twice_is_fine(self):
        transport = Here(2)
        shared = here(2, transport)
        one, other = made(executor=shared), made(executor=shared)
        one.close()
        one.close()
        assert transport.closed == 0
        after(other, 1)
        other.close()
        other.close()
        assert transport.closed == 1
        assert all(not each._shards for each in transport.workers)

    def test_a_closed_simulation_is_refused_and_starts_no_worker(self):
        transport = Here(2)
        simulation = made(executor=here(2, transport))
        run_state = after(simulation, 1)
        simulation.close()
        for use in (
            lambda: simulation.round(run_state),
            lambda: simulation.init(1),
            lambda: simulation.whole(run_state),
        ):
            with pytest.raises(RunError, match="The simulation was closed"):
                use()
        assert transport.starts == [0, 0]

    def test_workers_without_a_simulation_end_after_an_error_of_the_first(self):
        transport = Here(2)
        shared = Workers(transport)

        def build(*given, **options):
            return Distributed(*given, cluster=shared, **options)

        learner = quadratic(sgd(0.1))
        unsendable = replace(learner, act=threading.Lock().acquire)
        with pytest.raises(ConfigError, match="can't be sent"):
            simulate(federate(unsendable, mean()), FLEET, executor=Placement(build))
        shared.end_unused()
        assert transport.closed == 1


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_rounds(kind, monkeypatch):
    """Shards keep what two merges need, and members what came after the last saving."""
    monkeypatch.setattr(workers, "SHARE_OF_SAVING", 0.0)
    transport = Here(2)
    shared = Workers(transport)
    executor = Placement(lambda *given, **options: Distributed(*given, cluster=shared, **options))
    with made(kind, executor) as simulation:
        run_state, sizes = simulation.init(3), []
        for _ in range(12):
            run_state, _ = simulation.round(run_state)
            simulation.held(simulation.adopt(run_state))
            shards = [shard for each in transport.workers for shard in each._shards.values()]
            members = [member for each in shared._members for member in each]
            sizes.append(
                (
                    max(len(run.undo) for shard in shards for run in shard.runs.values()),
                    max(len(shard.runs) for shard in shards),
                    max(len(member.log) + len(member.waiting) for member in members),
                )
            )
    assert (np.max(sizes[6:], axis=0) <= [3, 3, 16]).all(), sizes
    assert (np.max(sizes[6:], axis=0) <= np.max(sizes[:6], axis=0) + 2).all(), sizes
