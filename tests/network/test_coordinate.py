"""A coordinator's run: its folder, its interruption at any point, and its bits."""

import asyncio
import io
import json
import threading

import jax
import numpy as np
import pytest
import safetensors.numpy
from rich.console import Console

import fedrl
from fedrl.config import load
from fedrl.config.build import build
from fedrl.core import durable, imports
from fedrl.core.errors import ConfigError, RunError
from fedrl.engines.simulate import simulate
from fedrl.federation.downlink import sent_params
from fedrl.network.log import ReplayClock, entries_of, replaying
from fedrl.records.folder import EVENTS, RECORDS
from fedrl.runs.coordinate import coordinate
from fedrl.sinks.display import plain
from fedrl.transport.local import LocalTransport
from tests.support.distant_agents import DistantAgent

TABLES = {
    "name": "corridor",
    "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 20},
    "learner": {"name": "q_table", "num_steps": 16},
    "federation": {"agents": 3},
    "rounds": 5,
    "seeds": [7],
    "baselines": {},
    "evaluation": {"episodes": 4},
}


BUDGET = 180
"""Bytes for the bids of three agents and two of their updates."""


def seat_of(name):
    return int(name.split("-")[1])


class World:
    """Agents that begin as soon as a coordinator listens, and stay through its restarts."""

    def __init__(self, tables, address="world", **behaviour):
        experiment = build(load(tables))
        bids = None if experiment.upload_budget is None else experiment.upload_budget.requested
        self.address = f"{address}-{id(self)}"
        self.agents = [
            DistantAgent(experiment.federation, experiment.fleet, k, 7, self.address, bids, **behaviour)
            for k in range(experiment.config.federation.agents)
        ]

    def watch(self, bridge):
        for agent in self.agents:
            agent.ended = None
            asyncio.run_coroutine_threadsafe(agent.live(), bridge._loop)

    def coordinate(self, tables, out, **more):
        more = {"seat_of": seat_of, "replayable": True, "verbose": 0, "watch": self.watch} | more
        return coordinate(tables, out, LocalTransport(), self.address, **more)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run in one process, in blocks of one agent."""
    tables = {**TABLES, "federation": {"agents": 3, "block": 1, "clock": {}}}
    return fedrl.run(tables, tmp_path_factory.mktemp("alone") / "run", verbose=0)


def bits(result):
    return safetensors.numpy.load((result.folder / "params.safetensors").read_bytes())


def same_bits(one, other):
    one, other = bits(one), bits(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_run_has_the_folder_and_the_bits_of_a_simulation(tmp_path, alone, monkeypatch):
    flushed, sync = [], durable.sync
    monkeypatch.setattr(durable, "sync", lambda path: flushed.append(path.name) or sync(path))
    result = World(TABLES).coordinate(TABLES, tmp_path / "run")
    assert all(flushed.count(name) >= 5 for name in (RECORDS, EVENTS)), "before each of five checkpoints"
    same_bits(alone, result)
    assert (result.folder / "report.html").exists()
    records = [json.loads(line) for line in (result.folder / "records.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [1, 2, 3, 4, 5]
    # What agents keep to themselves is not there, rather than zero.
    assert all("episodes" not in record and record["return"] is None for record in records)
    assert all(record["bytes_up"] > 0 and record["greedy"] for record in records[-1:])


def test_what_people_read_calls_real_time_real(tmp_path, alone):
    console = Console(file=io.StringIO(), width=100)
    result = World(TABLES).coordinate(TABLES, tmp_path / "run", sinks=[plain(console)])
    shown, page = console.file.getvalue(), (result.folder / "report.html").read_text()
    assert "waiting for agents" in shown
    assert "on the run's clock" in shown
    assert "compil" not in shown
    assert "time is real" in page
    for text in (shown, page):
        assert "virtual clock" not in text
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary["real_time"] is True
    assert summary["compile_s"] is None
    # How long messages travel is not known apart from the work, and not 0.
    assert "latency" not in summary["measures"]
    assert "latency" not in json.loads((result.folder / "records.jsonl").read_text().splitlines()[0])["sums"]
    assert summary["measures"]["work"]["methods"]["federated"]["mean"] > 0
    simulated = json.loads((alone.folder / "summary.json").read_text())
    assert "real_time" not in simulated
    assert "virtual clock" in (alone.folder / "report.html").read_text()


def test_a_run_that_is_stopped_at_any_round_goes_on_to_the_same_bits(tmp_path, alone):
    world, stop = World(TABLES), threading.Event()

    def sink(event):
        if event.get("round") == 2:
            stop.set()

    world.coordinate(TABLES, tmp_path / "run", stop=stop, sinks=[sink])
    result = world.coordinate(TABLES, tmp_path / "run")
    same_bits(alone, result)
    assert all(sorted(agent.trained) == agent.trained for agent in world.agents)


def test_a_stop_is_heard_while_agents_are_waited_for(tmp_path, alone):
    world, stop = World(TABLES), threading.Event()
    threading.Timer(3.0, stop.set).start()
    first = coordinate(TABLES, tmp_path / "run", LocalTransport(), world.address, stop=stop, verbose=0, replayable=True)
    assert not (first.folder / "records.jsonl").read_text()
    same_bits(alone, world.coordinate(TABLES, tmp_path / "run"))


def test_a_run_that_goes_on_takes_the_same_changes_and_no_others(tmp_path):
    world, stop = World(TABLES), threading.Event()

    def sink(event):
        if event.get("round") == 1:
            stop.set()

    out, same = tmp_path / "run", ["rounds=2"]
    world.coordinate(TABLES, out, stop=stop, sinks=[sink], overrides=same)
    with pytest.raises(ConfigError, match="rounds=3 would change it"):
        world.coordinate(TABLES, out, overrides=["rounds=3"])
    other = {**TABLES, "learner": {"name": "q_table", "num_steps": 8}}
    with pytest.raises(
        ConfigError, match=r"^learner\.num_steps is 8 in this experiment, and 16 in that of the run in "
    ):
        world.coordinate(other, out, overrides=same)
    assert len((world.coordinate(TABLES, out, overrides=same).folder / EVENTS).read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"gather": 4}, "begin with 4 agents, and the experiment has 3"),
        ({"gather": 0}, "begin with 0 agents"),
        ({"patience_s": -1.0}, "patience is -1 s"),
        ({"hang_s": float("nan")}, "time without progress is nan s"),
    ],
)
def test_what_a_coordinator_can_not_wait_for_is_said_before_there_is_a_folder(tmp_path, given, cause):
    with pytest.raises(ConfigError, match=cause):
        World(TABLES).coordinate(TABLES, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


OWN = {
    "name": "own",
    "environment": {"name": "tests.chaos.learner:bowl"},
    "learner": {"name": "tests.chaos.learner:descent"},
    "federation": {"agents": 3},
    "rounds": 3,
    "seeds": [7],
    "baselines": {},
    "evaluation": {"episodes": 1},
}


def test_a_run_of_ones_own_components_goes_on_in_a_new_process_that_is_given_them_again(tmp_path, monkeypatch):
    world, stop, out = World(OWN), threading.Event(), tmp_path / "run"
    world.coordinate(OWN, out, stop=stop, sinks=[lambda event: stop.set() if "round" in event else None])
    # What a new process has: it has not imported anything that an experiment names.
    monkeypatch.setattr(imports, "_known", {})
    with pytest.raises(ConfigError, match="nothing that a run folder names is imported"):
        world.coordinate(tmp_path / "gone.toml", out)
    result = world.coordinate(OWN, out)
    assert len((result.folder / EVENTS).read_text().splitlines()) == 3


def test_several_seeds_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="one run has one seed"):
        World(TABLES).coordinate({**TABLES, "seeds": 2}, tmp_path / "run")


def replayed(tables, folder, rounds, bytes_down=None):
    """The parameters that a simulation computes from the log in a run folder; it adds the bytes of each round."""
    experiment = build(load(tables))
    clock = ReplayClock(entries_of((folder / EVENTS).read_text().splitlines()))
    again = simulate(
        experiment.federation,
        experiment.fleet,
        executor=replaying(clock),
        scheduler=experiment.coordination.scheduler,
        block=1,
        merges=1,
    )
    state = again.init(7)
    for _ in range(rounds):
        state, found = again.round(state)
        if bytes_down is not None:
            bytes_down.append(found.bytes_down)
    assert clock.finished
    return [np.asarray(leaf) for leaf in jax.tree.leaves(sent_params(state.server.down, state.server.params))]


SCHEDULES = {
    "synchronous": {},
    "FedBuff": {"schedule": {"name": "fed_buff", "buffer_size": 2}},
    "FedAsync": {"schedule": {"name": "fed_async"}},
    "late": {"schedule": {"name": "synchronous", "buffer_size": 2, "stragglers": "keep"}},
    "bids": {"upload_budget": {"name": "greedy", "budget_bytes": BUDGET}},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_coordinator_that_is_stopped_again_and_again_computes_what_its_log_says(tmp_path, schedule):
    tables = {**TABLES, "rounds": 9, "federation": {**TABLES["federation"], "clock": {}, **SCHEDULES[schedule]}}
    world, result = World(tables), None
    for last in (2, 5, 6, 100):
        stop = threading.Event()

        def sink(event, last=last, stop=stop):
            if event.get("round") == last:
                stop.set()

        result = world.coordinate(tables, tmp_path / "run", stop=stop, sinks=[sink])
    found = bits(result)
    expected = replayed(tables, tmp_path / "run", 9)
    arrays = [found[name] for name in sorted(found)]
    assert len(arrays) == len(expected)
    for one, other in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    for agent in world.agents:
        assert len(set(agent.trained)) == len(agent.trained), "a job was computed twice"


def test_a_coordinator_that_is_stopped_while_it_waits_for_updates_asks_for_bids_again(tmp_path):
    tables = {**TABLES, "rounds": 6, "federation": {**TABLES["federation"], **SCHEDULES["bids"]}}
    alone = fedrl.run(
        {**tables, "federation": {**tables["federation"], "block": 1, "clock": {}}}, tmp_path / "alone", verbose=0
    )
    stop, asked = threading.Event(), []

    async def withhold(agent, link, answer):
        asked.append(answer.job)
        if answer.job == 3:
            stop.set()
        return answer.job == 3 and asked.count(3) <= 2

    world = World(tables, withhold=withhold)
    world.coordinate(tables, tmp_path / "run", stop=stop)
    assert len((tmp_path / "run" / EVENTS).read_text().splitlines()) == 2
    same_bits(alone, world.coordinate(tables, tmp_path / "run"))
    assert asked.count(3) > 2
    for agent in world.agents:
        assert len(agent.trained) == 6, "a job was computed twice"
        assert len(agent.asked) < 6


def test_a_run_is_continued_with_its_own_kind_of_keys_and_not_after_its_end(tmp_path):
    world, stop = World(TABLES), threading.Event()
    world.coordinate(
        TABLES, tmp_path / "run", stop=stop, sinks=[lambda event: stop.set() if "round" in event else None]
    )
    with pytest.raises(ConfigError, match="Add --replayable"):
        world.coordinate(TABLES, tmp_path / "run", replayable=False)
    world.coordinate(TABLES, tmp_path / "run")
    with pytest.raises(RunError, match="is complete"):
        world.coordinate(TABLES, tmp_path / "run")


def test_seconds_that_a_coordinator_does_not_know_are_absent(tmp_path):
    """How long other machines compute, and how much of a round is waiting for them."""
    result = World(TABLES).coordinate(TABLES, tmp_path / "run")
    records = [json.loads(line) for line in (result.folder / "records.jsonl").read_text().splitlines()]
    said = json.dumps(records) + (result.folder / "summary.json").read_text()
    assert not [name for name in ("agents_compute", "server_compute", "latency") if name in said]
    assert '"work"' in said
