"""A measure that one component declares reaches every place where numbers are shown, and no other file knows it."""

from __future__ import annotations

import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from fedrl import component, run, sweep
from fedrl.config import load
from fedrl.config.build import build
from fedrl.config.coordination import measure_names
from fedrl.core.environment import Environment
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.measures import Measure, added, value_of
from fedrl.environments import gridworld
from fedrl.records import Event
from fedrl.records.folder import RunFolder
from fedrl.report import write_report
from fedrl.runs.simulations import simulation_of
from fedrl.sinks.display import plain
from fedrl.sinks.final_summary import final_summary
from fedrl.studies.plan import plan_of, running_order


@component("environment", reference="")
def bumpy() -> Environment:
    """A corridor in which steps that lead nowhere are bumps."""
    inner = gridworld("S..G", max_steps=20)

    def step(noise: Any, params: Any, state: Any, action: Any) -> Any:
        timestep, after = inner.step(noise, params, state, action)
        bump = (after.state.cell == state.state.cell).astype(jnp.float32)
        return timestep._replace(measures={"bumps": bump}), after

    return replace(inner, step=step, measures={"bumps": Measure("episode", "bumps", "lower")})


BUMPY: dict[str, Any] = {
    "name": "bumpy",
    "rounds": 10,
    "seeds": 3,
    "checkpoint_s": 0,
    "environment": {"name": "bumpy"},
    "learner": {"name": "q_table", "num_envs": 2, "num_steps": 16, "learning_rate": 0.5, "epsilon": 0.3},
    "federation": {"agents": 2},
    "baselines": {"independent": True, "average_once": True},
    "evaluation": {"episodes": 4, "every": 2, "film": False},
}
STUDY = {"federation.local_steps": [1, 2]}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    heard: list[Event] = []
    place = tmp_path_factory.mktemp("run") / "bumpy"
    run(BUMPY, place, sinks=[heard.append])
    return place, heard


def printed(what: Any) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def test_it_is_in_records_with_the_sums_it_is_made_of(done: tuple[Path, list[Event]]) -> None:
    records = RunFolder(done[0]).records()
    trained = [record for record in records if record["method"] in ("federated", "independent")]
    assert len(trained) == 2 * 3 * 10
    for record in trained:
        sums = record["sums"]["bumps"]
        assert sums["episodes"] == record["episodes"]
        assert record["measures"]["bumps"] == (sums["bumps"] / sums["episodes"] if record["episodes"] else None)
    assert [r["round"] for r in records if "greedy_measures" in r and r["method"] == "federated" and not r["seed"]] == [
        2,
        4,
        6,
        8,
        10,
    ]
    assert [r["greedy_measures"].keys() for r in records if r["method"] == "average_once"] == [{"bumps"}] * 3


def test_the_summary_has_it_by_method_seed_and_agent(done: tuple[Path, list[Event]]) -> None:
    found = RunFolder(done[0]).summary()["measures"]["bumps"]
    assert (found["per"], found["unit"], found["better"], found["source"]) == ("episode", "bumps", "lower", "greedy")
    assert found["methods"].keys() == {"federated", "independent", "average_once"}
    records = RunFolder(done[0]).records()
    last = [r["greedy_measures"]["bumps"] for r in records if r["method"] == "federated" and r["round"] == 10]
    assert sorted(found["methods"]["federated"]["seeds"]) == sorted(last)
    assert np.mean(found["agents"]["federated"]) == pytest.approx(np.mean(last))  # as many episodes each


def test_what_only_training_has_is_that_of_the_last_tenth(done: tuple[Path, list[Event]]) -> None:
    found = RunFolder(done[0]).summary()["measures"]["loss"]
    assert found["source"] == "training"
    last = [r for r in RunFolder(done[0]).records() if r["method"] == "federated" and r["round"] == 10]
    last.sort(key=lambda record: record["seed"])  # seeds run side by side
    assert found["methods"]["federated"]["seeds"] == pytest.approx([r["loss"] for r in last])  # 1 of 10 rounds


def test_sums_of_rounds_give_the_value_over_all_of_them(done: tuple[Path, list[Event]]) -> None:
    rows = [r["sums"]["bumps"] for r in RunFolder(done[0]).records() if r["method"] == "federated"]
    pooled = value_of("bumps", Measure("episode"), added(rows))
    assert pooled == sum(row["bumps"] for row in rows) / sum(row["episodes"] for row in rows)


def test_the_closing_table_marks_the_least_where_less_is_better(done: tuple[Path, list[Event]]) -> None:
    place, heard = done
    end = next(event for event in heard if event.get("event") == "end")
    (line,) = [row for row in printed(final_summary(end)).splitlines() if row.strip().startswith("bumps")]
    means = [each["mean"] for each in RunFolder(place).summary()["measures"]["bumps"]["methods"].values()]
    cells = re.findall(r"(\* )?([\d.]+) bumps", line)
    assert [float(value) for _, value in cells] == pytest.approx(means, rel=1e-3)
    starred = [i for i, (star, _) in enumerate(cells) if star]
    assert [means[i] for i in starred] == [min(means)]


def test_it_is_told_while_a_run_goes_on_if_asked_for(done: tuple[Path, list[Event]]) -> None:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    sink = plain(console, every_s=0.0, measures=["bumps"])
    with console.capture() as capture:
        for event in done[1]:
            if event.get("event") in ("start", None):
                sink(event)
    assert re.search(r"bumps [\d.]+ bumps", capture.get())
    with pytest.raises(ConfigError, match=r"--show is 'bump'.*Did you mean 'bumps'"):
        plain(console, measures=["bump"])(done[1][0])


def test_the_page_has_a_chart_a_row_with_its_direction_and_a_column_of_agents(
    done: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    page = write_report([done[0]], tmp_path / "page.html").read_text()
    charts = json.loads(re.search(r'<script type="application/json" id="charts">(.*?)</script>', page)[1])
    titles = {name: chart["layout"]["yaxis"]["title"]["text"] for name, chart in charts.items()}
    (mine,) = [name for name, title in titles.items() if title == "bumps, bumps per episode"]
    assert any(len(trace["x"]) == 10 for trace in charts[mine]["data"])
    text = html.unescape(re.sub(r"<[^>]+>", " ", page.split("<script")[0]))
    assert "bumps, bumps per episode  (lower is better)" in text
    assert text.count("bumps, bumps per episode") >= 2  # also over a column of the agents' table


def test_runs_are_compared_by_it(done: tuple[Path, list[Event]], tmp_path: Path) -> None:
    run({**BUMPY, "rounds": 1, "baselines": {}, "seeds": [7]}, tmp_path / "other")
    page = write_report([done[0], tmp_path / "other"], tmp_path / "both.html").read_text()
    means = [
        RunFolder(p).summary()["measures"]["bumps"]["methods"]["federated"]["mean"]
        for p in (done[0], tmp_path / "other")
    ]
    card = page.split("<h2>Measures</h2>")[1].split("</section>")[0]
    marked = [float(x) for x in re.findall(r'class="number best">([\d.]+) bumps', card)]
    assert marked == [pytest.approx(min(means), rel=1e-3)]


def test_a_study_compares_and_times_by_it(tmp_path: Path) -> None:
    study = sweep({**BUMPY, "seeds": 2, "baselines": {}}, STUDY, tmp_path / "study", target=1e9, quantity="bumps")
    assert study["quantity"] == {"name": "bumps", "unit": "bumps", "better": "lower", "source": "greedy"}
    for result in study["settings"]:
        summary = json.loads((tmp_path / "study" / result["folder"] / "summary.json").read_text())
        assert result["measures"]["bumps"] == summary["measures"]["bumps"]["methods"]["federated"]
        assert result["target"]["rounds"]["median"] == 2.0  # at most so many: at the first evaluation
    text = (tmp_path / "study" / "report.html").read_text()
    assert "final bumps" in text
    assert "is first at most" in text
    assert 'quantity = "bumps"' in (tmp_path / "study" / "study.toml").read_text()


def test_a_study_of_what_is_not_measured_is_refused_with_what_is() -> None:
    with pytest.raises(ConfigError, match=r"study.quantity is 'success'.*Allowed: agents_compute, bumps, loss, return"):
        running_order(plan_of(BUMPY, STUDY, quantity="success"))


@pytest.mark.parametrize(
    "federation",
    [
        {},
        {"topology": "ring"},
        {"hierarchy": {"name": "tree", "branching": [2]}},
        {"clock": {"step_s": 1.0}},
        {"selection": {"name": "uniform", "cohort": 2}},
        {"upload_budget": {"name": "greedy", "budget_bytes": 10_000}},
    ],
)
def test_what_a_user_may_ask_for_is_what_every_engine_measures(federation: dict[str, Any]) -> None:
    agents = 4
    experiment = build(load({**BUMPY, "baselines": {}, "federation": {"agents": agents, **federation}}))
    with simulation_of(experiment, experiment.methods[0]) as simulation:
        _, seen = simulation.round(simulation.init(0))
        engine = set(simulation.measures)
        assert engine | {"return", "loss", "bumps"} == set(measure_names(experiment.learner, experiment.coordination))
        for name, measure in simulation.measures.items():
            parts = [part for part in (*(measure.parts or (name,)),) if part != "rounds"]
            assert all(np.isfinite(seen.sums[part]) for part in parts)
            assert all(seen.sums[part] >= 0.0 for part in parts)
        assert seen.sums["agents_compute"] > 0.0
        assert seen.sums["server_compute"] > 0.0


def test_the_clock_knows_work_and_latency(tmp_path: Path) -> None:
    clock = {"step_s": 2.0, "latency_s": 0.25}
    config = {**BUMPY, "baselines": {}, "federation": {"agents": 2, "local_steps": 3, "clock": clock}}
    summary = run({**config, "rounds": 2, "seeds": 1}, tmp_path / "run")
    assert summary["measures"]["work"]["methods"]["federated"]["mean"] == pytest.approx(6.0)
    assert summary["measures"]["latency"]["methods"]["federated"]["mean"] > 0.0


def test_a_learner_that_does_not_return_what_it_declares_is_refused() -> None:
    from fedrl import federate
    from fedrl.aggregators import mean
    from fedrl.config.methods import Method
    from fedrl.runs.session import record_of

    experiment = build(load({**BUMPY, "baselines": {}}))
    learner = replace(experiment.learner, measures={"entropy": Measure("iteration", "nat")})
    method = Method("federated", federate(learner, mean()), experiment.fleet, (1, 1), True)
    with simulation_of(experiment, experiment.methods[0]) as simulation:
        _, seen = simulation.round(simulation.init(0))
    with pytest.raises(UnsoundError, match=r"declares the measure 'entropy', computed from 'entropy'.*among .*'loss'"):
        record_of(method, 0, 1, seen, 0.1)


def test_a_run_folder_without_measures_still_opens(done: tuple[Path, list[Event]], tmp_path: Path) -> None:
    """As earlier versions wrote it."""
    old = tmp_path / "old"
    old.mkdir()
    new = ("measures", "sums", "greedy_measures")
    records = [{k: v for k, v in r.items() if k not in new} for r in RunFolder(done[0]).records()]
    (old / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = {k: v for k, v in RunFolder(done[0]).summary().items() if k != "measures"}
    (old / "summary.json").write_text(json.dumps(summary))
    page = write_report([old], tmp_path / "old.html").read_text()
    assert "Final returns" in page
    assert "bumps per episode" not in page.split("<script")[0]


def test_an_interrupted_run_shows_what_its_records_have(done: tuple[Path, list[Event]], tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "records.jsonl").write_text((done[0] / "records.jsonl").read_text())
    page = write_report([cut], tmp_path / "cut.html").read_text()
    assert '"text":"bumps"' in page  # the title of its chart, without the unit that the summary would know
