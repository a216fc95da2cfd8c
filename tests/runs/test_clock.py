"""Runs on a virtual clock, from TOML to the run folder and back."""

import json
import threading
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from fedrl.config import dump, load
from fedrl.config.build import build
from fedrl.core.component import cite
from fedrl.core.errors import FedrlError
from fedrl.runs.run import resume, run
from fedrl.runs.simulations import simulation_of
from fedrl.sinks import final_summary
from tests.support.small import TOML, without_times

ROUNDS, SAMPLES = 6, 16  # of one agent in one local step
SLOW = "federation.clock={step_s={name='stragglers', typical=1.0, fraction=0.3}, drop_out=0.2}"
BUFFERED = ["federation.schedule={name='fed_buff', buffer_size=2}", SLOW]
UNSTEADY = [
    "federation.schedule={name='afedpg', alpha=0.5}",
    "federation.server_optimizer={name='normalized_momentum', alpha=0.5}",
    "federation.clock={step_s=[1, 2, 3], jitter=0.3, drop_out=0.2, online_s=9.0, offline_s=2.0}",
]
TRACE = "federation.clock={availability_trace=[[0, 0.0, 5.5], [2, 1.0, 9.0]], step_s={name='lognormal', median=2}}"
ALONE = "baselines={}"
FAULTS = "hang=0.1, hang_s=2.0, restart=0.1, duplicate=0.5, malformed=0.2, latency_s=0.2"
FAULTY = ["federation.schedule={name='fed_buff', buffer_size=2}", f"federation.clock={{step_s=[1, 2, 3], {FAULTS}}}"]
DELAYED = ["federation.delay_rounds={name='uniform_between', low=0.6, high=2.4}"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "corridor.toml"
    path.write_text(TOML.format(rounds=ROUNDS))
    return path


@pytest.fixture(scope="module")
def buffered(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything: a clock and all baselines."""
    out = tmp_path_factory.mktemp("runs") / "buffered"
    run(config, out, overrides=BUFFERED)
    return out


def records(out: Path, method: str | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    return [line for line in lines if method in (None, line["method"])]


def params(out: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(out / "params.safetensors")


def test_a_clock_resolves_to_itself_and_cites_its_schedule(config: Path) -> None:
    for changes in (BUFFERED, UNSTEADY, FAULTY, ["federation.clock=clock"], [TRACE]):
        experiment = build(load(config, changes))
        again = build(load(tomllib.loads(dump(experiment.config))))
        assert again.coordination == experiment.coordination
        assert again.config == experiment.config
        assert cite(experiment.coordination.scheduler.schedule)


def test_records_tell_time_and_average_over_those_who_arrived(config: Path, buffered: Path) -> None:
    experiment = build(load(config, BUFFERED))
    method = experiment.methods[0]
    simulation = simulation_of(experiment, method, jax.devices()[:1])
    mine = [record for record in records(buffered, "federated") if record["seed"] == 0]
    run_state, arrived, partial = simulation.init(0), 0, 0
    for record in mine:
        run_state, seen = simulation.round(run_state)
        assert record["time_s"] == seen.clock_stats.time_s
        arrived += record["arrived"]
        assert record["environment_steps"] == SAMPLES * arrived == seen.clock_stats.environment_steps
        came = seen.steps > 0
        partial += not came.all()
        assert record["loss"] == pytest.approx(float((seen.metrics["loss"][came] / seen.steps[came]).mean()))
        assert [value is not None for value in record["agents"]] == list(seen.metrics["episodes"] > 0)
        assert not seen.metrics["episodes"][~came].any()
    assert partial, "a round in which somebody did not arrive"
    assert [record["time_s"] for record in mine] == sorted(record["time_s"] for record in mine)
    assert not any("heterogeneity" in record for record in mine)


def test_the_summary_adds_up_what_the_clock_saw(buffered: Path) -> None:
    summary = json.loads((buffered / "summary.json").read_text())
    mine = records(buffered, "federated")
    found = summary["virtual_time"]
    assert found["time_s"] == np.mean([record["time_s"] for record in mine if record["round"] == ROUNDS])
    for name in ("arrived", "dropped"):
        assert found[name] == sum(record[name] for record in mine) / 2 > 0
    assert found["staleness"] > 0
    assert any("Nguyen" in line for line in summary["citations"])


def test_what_goes_wrong_is_told_in_records_summary_report_and_terminal(config: Path, tmp_path: Path) -> None:
    run(config, tmp_path / "faulty", overrides=[*FAULTY, ALONE])
    summary = json.loads((tmp_path / "faulty" / "summary.json").read_text())
    mine, found = records(tmp_path / "faulty", "federated"), summary["virtual_time"]
    for name in ("hung", "restarted", "duplicates", "malformed"):
        assert found[name] == sum(record.get(name, 0) for record in mine) / 2 > 0
    rejected = summary["rejections"]["federated"]
    assert rejected["updates"] == sum(record.get("malformed", 0) for record in mine)
    assert {agent["reason"] for agent in rejected["agents"]} == {"its message could not be read"}
    page = (tmp_path / "faulty" / "report.html").read_text()
    for words in ("jobs that hung", "an agent restarted", "duplicate updates", "messages that could not be decoded"):
        assert words in page
    costs = final_summary._costs(summary)
    for words in ("jobs hung", "restarts", "duplicates", "unreadable"):
        assert words in costs


@pytest.mark.parametrize("delays", [DELAYED, ["federation.delay_rounds=[0, 1, 2]"], ["federation.delay_rounds=2"]])
def test_delays_resolve_to_themselves_and_are_told_without_a_clock(
    delays: list[str], config: Path, tmp_path: Path
) -> None:
    experiment = build(load(config, delays))
    again = build(load(tomllib.loads(dump(experiment.config))))
    assert (again.coordination, again.config) == (experiment.coordination, experiment.config)
    run(config, tmp_path / "cancelled", overrides=[*delays, ALONE])
    mine = [record for record in records(tmp_path / "cancelled", "federated") if record["seed"] == 0]
    assert ["staleness" in record for record in mine] == [False, *[True] * (ROUNDS - 1)]
    assert "time_s" not in mine[0]


def test_baselines_wait_for_nobody_and_are_what_they_are_without_a_clock(
    config: Path, buffered: Path, tmp_path: Path
) -> None:
    run(config, tmp_path / "plain")
    for method in ("independent", "average_once", "centralised"):
        assert without_times(records(buffered, method)) == without_times(records(tmp_path / "plain", method))
    assert not any("time_s" in record for record in records(tmp_path / "plain"))


def test_like_devices_in_step_learn_what_they_learn_without_a_clock(config: Path, tmp_path: Path) -> None:
    run(config, tmp_path / "plain", overrides=[ALONE])
    run(config, tmp_path / "clock", overrides=[ALONE, "federation.clock={step_s=0.5, latency_s=0.25}"])
    for name, value in params(tmp_path / "plain").items():
        np.testing.assert_array_equal(params(tmp_path / "clock")[name], value)
    mine = records(tmp_path / "clock")
    assert [r["time_s"] for r in mine if r["seed"] == 0] == [1.0 * i for i in range(1, ROUNDS + 1)]
    told = ("greedy", "return", "agents", "loss", "environment_steps", "bytes_up", "bytes_down")
    both = [without_times(records(tmp_path / name)) for name in ("plain", "clock")]
    for plain, timed in zip(*both, strict=True):
        assert [plain.get(name) for name in told] == [timed.get(name) for name in told]


@pytest.mark.parametrize(
    "clock", [BUFFERED, UNSTEADY, [*FAULTY, *DELAYED]], ids=["fed_buff", "afedpg", "faults and delays"]
)
def test_an_interrupted_run_resumes_bit_for_bit(clock: list[str], config: Path, tmp_path: Path) -> None:
    stop = threading.Event()

    def interrupt(event: Any) -> None:
        if event.get("method") == "federated" and event.get("round") == 2:
            stop.set()

    changes = [*clock, ALONE, "evaluation.every=2"]
    run(config, tmp_path / "whole", overrides=changes)
    run(config, tmp_path / "cut", overrides=changes, sinks=[interrupt], stop=stop)
    assert len(records(tmp_path / "cut")) < len(records(tmp_path / "whole"))
    resume(tmp_path / "cut")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert (cut / "params.safetensors").read_bytes() == (whole / "params.safetensors").read_bytes()
    assert without_times(records(cut)) == without_times(records(whole))


def test_personalised_agents_on_a_clock_are_evaluated_with_what_each_acts_with(config: Path, tmp_path: Path) -> None:
    learner = "{name='interpolate', share=0.3, learner={name='q_table', num_envs=2, num_steps=8}}"
    changes = [*BUFFERED, ALONE, f"learner={learner}", "evaluation.held_out=0", "seeds=1", "rounds=3"]
    summary = run(config, tmp_path / "run", overrides=changes)
    held = {name: value for name, value in params(tmp_path / "run").items() if not name.startswith("common/")}
    assert all(value.shape[0] == 3 for value in held.values())
    assert not all(np.array_equal(value[0], value[1]) for value in held.values())
    assert len(summary["agents"]) == 3


NETWORK = "{name='a2c', num_envs=2, num_steps=8, network={name='mlp', hidden=[4]}}"
WRONG = [
    ([*BUFFERED, "evaluation.held_out=0", "federation.topology=ring"], ["fed_buff", "needs a server's decision"]),
    (["federation.clock={schedule='fed_buff'}"], ["federation.clock.schedule is 'fed_buff'", "federation.schedule"]),
    (["federation.schedule=fed_buff"], ["fed_buff()", "without a clock all arrive at once"]),
    (["federation.schedule={name='synchronous', deadline_s=2.0}"], ["deadline of 2 s", "no time passes"]),
    (["federation.clock={step_s=[1, 2]}"], ["step_s has 2 entries", "3 agents"]),
    (["federation.clock={availability_trace=[[3, 0, 1]]}"], ["agent 3", "3 agents"]),
    ([SLOW, "federation.schedule={name='synchronous', buffer_size=4}"], ["waits for 4 updates", "3 agents"]),
    (["federation.clock={step_s={name='straglers', usual=1}}"], ["step_s.name is 'straglers'", "'stragglers'"]),
    (["federation.clock={hang=0.1}"], ["hang is 0.1 and hang_s is inf", "would stop the run", "deadline_s"]),
    (["federation.clock={restart=1}"], ["[federation.clock] restart is 1.0"]),
    (["federation.delay_rounds=[1, 2]"], ["delay_rounds has 2 entries", "3 agents"]),
    (["federation.delay_rounds=1", "federation.topology=ring"], ["federation.delay_rounds is 1", "needs a server"]),
    (["federation.clock={drop_out=1}"], ["[federation.clock] drop_out is 1.0", "below 1"]),
    (
        [SLOW, "federation.schedule=fed_async", "federation.payload=gradient", f"learner={NETWORK}"],
        ["fed_async()", "gradient"],
    ),
    (
        [*BUFFERED, f"learner={{name='normalize', observations=false, learner={NETWORK}}}"],
        ["are relative to the moments its agents received", "synchronous()"],
    ),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[changes[-1] for changes, _ in WRONG])
def test_what_makes_no_sense_is_refused_when_it_is_built(changes: list[str], said: list[str], config: Path) -> None:
    with pytest.raises(FedrlError) as caught:
        build(load(config, [ALONE, *changes]))
    for words in said:
        assert words in str(caught.value)
