"""Selection of agents and schedules of local steps from a configuration file, to the run folder and back."""

import contextlib
import json
import re

import numpy as np
import pytest

import fedrl
from fedrl.config import as_dict, load, parse
from fedrl.config.build import build
from fedrl.core.errors import ConfigError
from tests.support.small import TOML, without_times

SELECTION = "federation.selection={name='power_of_choice', cohort=2, candidates=3, reference_return=1.0}"
UPLOAD_BUDGET = "federation.upload_budget={name='greedy', budget_bytes=200}"
SCHEDULE = "federation.local_steps={name='linear', first=3, last=1, rounds=3}"


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "corridor.toml"
    path.write_text(TOML.format(rounds=4))
    return path


def records(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def test_a_planned_run_counts_the_steps_and_bytes_of_those_who_were_asked(small, tmp_path):
    summary = fedrl.run(small, tmp_path / "run", overrides=[SELECTION, SCHEDULE])
    assert any("Cho" in line for line in summary["citations"])
    mine = [r for r in records(tmp_path / "run") if r["method"] == "federated" and r["seed"] == 0]
    taus = [3, 2, 1, 1]
    assert [r["environment_steps"] for r in mine] == (2 * 16 * np.cumsum(taus)).tolist()
    whole = build(load(small))
    alone = [r for r in records(tmp_path / "run") if r["method"] == "independent" and r["seed"] == 0]
    assert alone[-1]["environment_steps"] == 4 * 3 * 16 * 3  # baselines ask nobody
    assert whole.selection is None
    assert len({r["bytes_up"] for r in mine}) == 1


def test_a_planned_run_resumes_bit_for_bit(small, tmp_path):
    overrides = [SELECTION, SCHEDULE, "baselines.centralised=false", "seeds=1"]

    def stopped(event):
        if event.get("round") == 2 and event.get("method") == "federated":
            raise KeyboardInterrupt

    fedrl.run(small, tmp_path / "whole", overrides=overrides)
    with contextlib.suppress(KeyboardInterrupt):
        fedrl.run(small, tmp_path / "cut", overrides=overrides, sinks=[stopped])
    assert len(records(tmp_path / "cut")) < len(records(tmp_path / "whole"))
    fedrl.resume(tmp_path / "cut")
    assert without_times(records(tmp_path / "cut")) == without_times(records(tmp_path / "whole"))
    both = [(tmp_path / name / "params.safetensors").read_bytes() for name in ("cut", "whole")]
    assert both[0] == both[1]


def test_a_run_on_a_budget_keeps_to_it_and_says_whose_updates_were_sent(small, tmp_path):
    one = 4 * 4 * 4 + 4 + 4  # four states, four actions, a weight, a version
    fedrl.run(small, tmp_path / "run", overrides=[UPLOAD_BUDGET, SCHEDULE, "baselines.centralised=false"])
    mine = [r for r in records(tmp_path / "run") if r["method"] == "federated"]
    assert {r["bytes_up"] for r in mine} == {3 * 4 + 2 * one} <= set(range(201))
    assert {len(r["selected"]) for r in mine} == {2}
    assert len({tuple(r["selected"]) for r in mine}) > 1
    alone = [r for r in records(tmp_path / "run") if r["method"] == "independent"]
    assert not any("selected" in r for r in alone)


def test_local_steps_are_balanced_by_the_times_of_a_clock(small, tmp_path):
    proportional_to_speed = "federation.local_steps={name='proportional_to_measured_speed', most=4}"
    fedrl.run(
        small,
        tmp_path / "run",
        overrides=[proportional_to_speed, "federation.clock={step_s=[1.0, 2.0, 4.0]}", "baselines={}"],
    )
    mine = [r for r in records(tmp_path / "run") if r["seed"] == 0]
    assert [r["time_s"] for r in mine] == [4.0, 8.0, 12.0, 16.0]  # one step each, then 4, 2 and 1
    assert [r["environment_steps"] for r in mine] == [16 * n for n in (3, 10, 17, 24)]


def test_what_is_resolved_builds_the_same_plan(small):
    experiment = build(load(small, [SELECTION, SCHEDULE, UPLOAD_BUDGET]))
    again = build(parse(as_dict(experiment.config)))
    assert (again.selection, again.local_steps) == (experiment.selection, experiment.local_steps)
    assert again.upload_budget == experiment.upload_budget
    assert experiment.federation.call.arguments["reports"] == ("return", "norm")


def test_agents_tell_a_setting_that_a_file_asks_for(small):
    told = build(load(small, ["federation.aggregator={name='weight_by_environment', names=['slip']}"]))
    assert told.federation.aggregator.requested == ("setting/slip",)
    with pytest.raises(ConfigError, match=r"report 'setting/slope' is requested.*Did you mean 'slip'"):
        build(load(small, ["federation.aggregator={name='weight_by_environment', names=['slope']}"]))


@pytest.mark.parametrize(("asked", "bids"), [([], 3), ([SELECTION], 2)], ids=["everybody", "two of three"])
def test_a_budget_below_the_bids_and_one_update_is_refused_before_there_is_a_run(small, tmp_path, asked, bids):
    wrong = r"budget_bytes is 70\. Bids of 4 bytes from (\d) agents and one update of (\d+) bytes take (\d+)"
    with pytest.raises(ConfigError, match=wrong) as rejected:
        fedrl.run(small, tmp_path / "run", overrides=[UPLOAD_BUDGET.replace("200", "70"), *asked])
    assert not (tmp_path / "run").exists()
    named = re.search(wrong, str(rejected.value))
    assert named is not None
    said, update, least = map(int, named.groups())
    assert (said, least) == (bids, 4 * bids + update)
    assert build(load(small, [UPLOAD_BUDGET.replace("200", str(least)), *asked])).upload_budget is not None
    with pytest.raises(ConfigError, match=f"take {least}"):
        build(load(small, [UPLOAD_BUDGET.replace("200", str(least - 1)), *asked]))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("federation.selection={name='uniform', cohort=4}", r"cohort is 4 and a server selects from 3 agents"),
        ("federation.selection={name='unifrom', cohort=2}", r"federation.selection.name.*Did you mean 'uniform'"),
        ("federation.local_steps={name='linear', first=0, last=1, rounds=3}", r"first is 0"),
        ("federation.local_steps={name='proportional_to_speed', speeds=[1.0], most=2}", r"speeds has 1 entries"),
        (
            "federation.local_steps={name='proportional_to_measured_speed', most=4}",
            r"a simulation without a clock has no time",
        ),
        ("federation.upload_budget={name='greedy'}", r"federation.upload_budget lacks 'budget_bytes'"),
        ("federation.upload_budget={name='greedy', budget_bytes=9, usefulness='size'}", r"usefulness is 'size'"),
        ("federation.local_steps=0", r"federation.local_steps is 0"),
    ],
)
def test_a_plan_that_can_not_be_made_is_named(small, override, words):
    with pytest.raises(ConfigError, match=words):
        build(load(small, [override]))


def test_neighbours_have_no_server_to_plan(small):
    for plan in (SELECTION, UPLOAD_BUDGET):
        with pytest.raises(ConfigError, match=r"needs a server, and there is none"):
            load(small, [plan, "federation.topology='ring'"])
