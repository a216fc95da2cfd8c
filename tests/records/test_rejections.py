"""Rejected updates are counted, named and told; what they leave behind counts in no mean."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fedrl.config import load
from fedrl.config.build import build
from fedrl.core.aggregator import on_time
from fedrl.engines.dissimilarity import dissimilarity, update_dissimilarity
from fedrl.engines.state import Rejection, RoundResult, no_uploads
from fedrl.records.folder import RunFolder
from fedrl.records.notices import notices_of, unmerged_in
from fedrl.records.rejections import MOST_WARNINGS, History, rejections_in, rejections_of
from fedrl.report import write_report
from fedrl.report.run import read_run
from fedrl.runs.run import resume, run
from fedrl.runs.session import record_of
from fedrl.runs.simulations import simulation_of
from fedrl.sinks.display import live, plain, warnings_only
from fedrl.sinks.final_summary import final_summary
from tests.support.broken import BROKEN, broken, hopeless
from tests.support.signals import send
from tests.support.small import without_times

NAN, FAR = "state.params['q'] is not finite", "update['q'] reaches 3e+38"


def seen(rejected: list[tuple[int, str]], **changes: Any) -> RoundResult:
    """A round of three agents in which those who were refused measured zero."""
    metrics = {"episodes": [2.0, 4.0, 2.0], "episode_return": [2.0, 8.0, 6.0], "loss": [1.0, 2.0, 4.0]}
    metrics["success"] = [1.0, 1.0, 2.0]
    for agent, _ in rejected:
        for column in metrics.values():
            column[agent] = 0.0
    columns = {name: np.array(column, np.float32) for name, column in metrics.items()}
    left_out, nobody = tuple(Rejection(*each) for each in rejected), on_time(np.zeros(0, int))
    return RoundResult(columns, 48.0, left_out, 0, 0, 0, 0, no_uploads(3), nobody)._replace(**changes)


def told(number: int, rejected: dict[str, list[int]], **changes: Any) -> dict[str, Any]:
    count = sum(map(len, rejected.values()))
    record = {"method": "federated", "seed": 0, "round": number, "rejected": count}
    return record | ({"rejections": rejected} if rejected else {}) | changes


@pytest.fixture(scope="module")
def federated() -> Any:
    return build(load(broken())).methods[0]


def test_a_record_names_who_was_refused_and_why_in_few_words(federated: Any) -> None:
    record = record_of(federated, 0, 1, seen([(0, NAN), (1, FAR), (2, NAN)]), 0.1)
    assert record["rejected"] == 3
    assert record["rejections"] == {NAN: [0, 2], FAR: [1]}
    fine = record_of(federated, 0, 1, seen([]), 0.1)
    assert fine["rejected"] == 0
    assert not {"rejections", "skipped", "merged"} & set(fine)


def test_who_was_refused_pulls_no_mean(federated: Any) -> None:
    record = record_of(federated, 0, 1, seen([(BROKEN, NAN)]), 0.1)
    assert record["loss"] == pytest.approx((1.0 + 4.0) / 2)  # not / 3
    assert record["return"] == pytest.approx((2.0 + 6.0) / 4)
    assert record["agents"] == [1.0, None, 3.0]
    nobody = record_of(federated, 0, 1, seen([(0, NAN), (1, NAN), (2, NAN)]), 0.1)
    assert (nobody["loss"], nobody["return"], nobody["episodes"]) == (None, None, 0)


def test_an_agent_whose_returns_are_no_numbers_pulls_no_mean(federated: Any) -> None:
    round = seen([])
    round.metrics["episode_return"][BROKEN] = np.nan
    record = record_of(federated, 0, 1, round, 0.1)
    assert record["return"] == pytest.approx((2.0 + 6.0) / 4)
    assert record["agents"] == [1.0, None, 3.0]


def test_a_record_says_that_nothing_was_merged_and_why_the_server_passed_over(federated: Any) -> None:
    why = "server params['q'] would not be finite"
    record = record_of(federated, 0, 1, seen([], weight=0.0, skipped=why), 0.1)
    assert record["merged"] is False
    assert record["skipped"] == why


def test_on_a_clock_an_agent_is_named_once_for_each_refusal() -> None:
    assert rejections_in(seen([(2, NAN), (2, NAN), (1, NAN)])) == {NAN: [2, 2, 1]}


def test_a_warning_is_due_when_an_agent_is_refused_twice_in_a_row_and_only_once() -> None:
    history = History("federated", 0, True)
    assert history.add(told(1, {NAN: [1, 2]})) == []
    (warning,) = history.add(told(2, {NAN: [1], FAR: [0]}))
    assert warning == {
        "event": "rejected", "method": "federated", "seed": 0, "round": 2, "agents": [1], "reason": NAN
    }  # fmt: skip
    assert history.add(told(3, {NAN: [1, 2]})) == []  # agent 2 was fine in between
    (warning,) = history.add(told(4, {FAR: [2], NAN: [1]}))
    assert (warning["agents"], warning["reason"]) == ([2], FAR)


def test_who_sits_a_round_out_is_still_refused_in_a_row() -> None:
    history = History("federated", 0, True)
    history.add(told(1, {NAN: [1, 2]}), np.array([1, 1, 1]))
    history.add(told(2, {}), np.array([1, 0, 1]))
    (warning,) = history.add(told(3, {NAN: [1, 2]}), np.array([1, 1, 1]))
    assert warning["agents"] == [1]


def test_a_storm_of_refusals_is_a_few_warnings() -> None:
    history = History("federated", 0, True)
    found = [w for i in range(40) for w in history.add(told(i + 1, {NAN: list(range(i // 2 + 1))}))]
    assert len(found) == MOST_WARNINGS


def test_reasons_that_differ_by_a_number_are_told_together() -> None:
    reasons = {
        f"update['q'] reaches {value}, and that is too far": [k] for k, value in enumerate(("3e+38", "-2.81e+19"))
    }
    history = History("federated", 0, True)
    history.add(told(1, reasons))
    (warning,) = history.add(told(2, reasons))
    assert (warning["agents"], warning["reason"]) == ([0, 1], next(iter(reasons)))
    lines = notices_of({"rejections": rejections_of([told(1, reasons)]), "seeds": [0]})
    assert lines[1] == f"federated: agents 0, 1 rejected in 1 of 1 rounds: {next(iter(reasons))}"


def test_an_agent_has_learned_if_it_was_merged_once() -> None:
    history = History("independent", 0, False)
    for number, rejected in enumerate(([1, 2], [1], [1, 2]), 1):
        history.add(told(number, {NAN: rejected}))
    assert list(history.unlearned) == [1]
    assert history.failed == ""


def test_a_federation_has_failed_until_something_is_merged() -> None:
    history = History("federated", 0, True)
    assert history.failed == ""
    history.add(told(1, {NAN: [0]}, merged=False))
    assert history.failed
    history.add(told(2, {}))
    assert history.failed == ""


def test_a_history_goes_on_after_a_resumption_without_warning_again() -> None:
    records = [told(1, {NAN: [1]}), told(2, {NAN: [1]}), told(1, {NAN: [2]}, seed=1)]
    history = History.of("federated", 0, True, records)
    assert list(history.unlearned) == [1]
    assert history.add(told(3, {NAN: [1, 2]})) == []


def test_the_summary_counts_updates_and_rounds_of_all_seeds() -> None:
    why = "server params['q'] would not be finite"
    records = [
        told(1, {NAN: [2, 2, 1]}),
        told(2, {FAR: [2]}, skipped=why, merged=False),
        told(1, {}, seed=1, merged=False),
        told(1, {}, method="independent"),
    ]
    assert rejections_of(records) == {
        "federated": {
            "updates": 4,
            "rounds": 3,
            "agents": [
                {"id": 1, "updates": 1, "rounds": 1, "reason": NAN},
                {"id": 2, "updates": 3, "rounds": 2, "reason": FAR},
            ],
            "skipped": 1,
            "skipped_because": why,
            "unmerged": [1],
        }
    }
    assert rejections_of([{"method": "federated", "seed": 0, "round": 1, "rejected": 0}]) == {}  # of an older run


def test_agents_alike_share_a_sentence_and_the_many_are_counted() -> None:
    records = [told(1, {NAN: [1, 2], **{f"part {k} is not finite": [k] for k in range(3, 9)}})]
    lines = notices_of({"rejections": rejections_of(records), "seeds": [0]})
    assert lines[0] == "8 updates rejected: 8 of federated."
    assert lines[1] == f"federated: agents 1, 2 rejected in 1 of 1 rounds: {NAN}"
    assert lines[-1].startswith("federated: 3 more agents rejected")
    assert notices_of({"seeds": [0]}) == []


@pytest.fixture(scope="module")
def events() -> list[Any]:
    return []


@pytest.fixture(scope="module")
def ran(events: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one broken agent of three."""
    folder = tmp_path_factory.mktemp("runs") / "broken"
    run(broken(), folder, sinks=[events.append])
    return folder


def test_a_run_tells_who_was_refused(ran: Path, events: list[Any]) -> None:
    summary = json.loads((ran / "summary.json").read_text())
    for method in ("federated", "independent"):
        found = summary["rejections"][method]
        assert (found["updates"], found["rounds"], found["unmerged"]) == (3, 3, [])
        (agent,) = found["agents"]
        assert (agent["id"], agent["updates"], agent["rounds"]) == (BROKEN, 3, 3)
        assert "['q']" in agent["reason"]
    warnings = [event for event in events if event.get("event") == "rejected"]
    assert [(w["method"], w["round"], w["agents"]) for w in warnings if w["method"] != "centralised"] == [
        ("federated", 2, [BROKEN]),
        ("independent", 2, [BROKEN]),
    ]
    assert unmerged_in(summary) == []


def test_the_terminal_tells_it_in_eighty_columns(ran: Path, events: list[Any]) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, _environ={"TERM": "dumb"})
    sink = plain(console)
    for event in events:
        sink(event)
    text = " ".join(out.getvalue().split())
    assert "warning: federated, seed 0, round 2: agent 1 rejected twice in a row: " in text
    assert text.count("warning: federated") == 1
    assert "3 of federated, 3 of independent" in text
    assert "! federated: agent 1 rejected in 3 of 3 rounds: " in text
    table = out.getvalue()[out.getvalue().index("greedy returns") :]
    assert max(map(len, table[: table.index("run folder")].splitlines())) <= 80
    assert any(line.split()[:2] == ["!", "1"] for line in table.splitlines())


@pytest.mark.usefixtures("ran")
def test_a_live_display_warns_above_its_picture(events: list[Any]) -> None:
    out = io.StringIO()
    with live(Console(file=out, force_terminal=True, width=100, _environ={"TERM": "xterm"})) as sink:
        for event in events:
            sink(event)
    assert out.getvalue().count("agent 1 rejected twice in a row") == 2


@pytest.mark.usefixtures("ran")
def test_where_nothing_else_is_shown_warnings_are(events: list[Any]) -> None:
    out = io.StringIO()
    with warnings_only(Console(file=out, width=80)) as sink:
        for event in events:
            sink(event)
    lines = out.getvalue().splitlines()
    assert len(lines) == sum(event.get("event") == "rejected" for event in events)
    assert all(line.startswith("warning: ") for line in lines)


def test_the_page_has_a_table_of_them_and_marks_the_agent(ran: Path) -> None:
    page = (ran / "report.html").read_text().split("<script")[0]
    assert "Rejected updates" in page
    assert "federated: agent 1 rejected in 3 of 3 rounds: " in page
    assert 'scope="row">1<b title="rejected or left out, see above"> !</b></th>' in page
    assert 'scope="row">0</th>' in page


def test_a_page_without_a_summary_has_them_from_the_records(ran: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.toml", "records.jsonl"):
        (copy / name).write_bytes((ran / name).read_bytes())
    assert read_run(copy).rejections == json.loads((ran / "summary.json").read_text())["rejections"]
    assert "Rejected updates" in write_report([copy], tmp_path / "page.html").read_text()


def test_a_page_without_refusals_has_no_table_of_them(tmp_path: Path) -> None:
    from tests.support.made_runs import make_run

    page = write_report([make_run(tmp_path / "run")], tmp_path / "page.html").read_text().split("<script")[0]
    assert "Rejected updates" not in page
    assert "rejected or left out" not in page


def test_a_federation_that_never_merged_has_no_result(tmp_path: Path) -> None:
    summary = run(hopeless(seeds=2), tmp_path / "run")
    assert summary["rejections"]["federated"]["unmerged"] == [0, 1]
    assert summary["final_return"] == {"mean": None, "low": None, "high": None}
    assert [agent["return"] for agent in summary["agents"]] == [None] * 3
    (sentence,) = unmerged_in(summary)
    assert sentence.startswith("Nothing was ever merged in seeds 0, 1, so the federation has no result there (")
    out = io.StringIO()
    Console(file=out, width=80).print(
        final_summary({"event": "end", "summary": summary, "folder": "x", "report": None})
    )
    assert "Nothing was ever merged in seeds 0, 1" in " ".join(out.getvalue().split())
    assert "Nothing was ever merged" in (tmp_path / "run" / "report.html").read_text()


def test_a_resumed_run_says_the_same(ran: Path, tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        at = [event.get(name) for name in ("event", "method", "seed", "round")]
        if at == [None, "independent", 0, 2]:  # the record, not a warning about it
            send()

    run(broken(), tmp_path / "run", sinks=[interrupt])
    resume(tmp_path / "run")
    whole, resumed = (json.loads((path / "summary.json").read_text()) for path in (ran, tmp_path / "run"))
    for name in ("rejections", "left_out", "compared", "agents", "baseline_agents"):
        assert resumed[name] == whole[name]
    assert without_times(RunFolder(tmp_path / "run").records()) == without_times(RunFolder(ran).records())


def test_refused_updates_are_none_of_those_whose_spread_is_measured() -> None:
    experiment = build(load(broken(fleet={})))
    with simulation_of(experiment, experiment.methods[0]) as simulation:
        run_state = simulation.init(0)
        begun = simulation.held(run_state)
        before = simulation.params_of(run_state)["q"].reshape(3, -1).astype(np.float64)
        run_state, _ = simulation.round(run_state)
        deltas = simulation.params_of(run_state)["q"].reshape(3, -1) - before
    left = update_dissimilarity(begun, simulation.held(run_state), [BROKEN])
    assert left is not None
    assert left == pytest.approx(dissimilarity(deltas[[0, 2]]), rel=1e-5)
    assert left != pytest.approx(dissimilarity(deltas), rel=1e-2)
