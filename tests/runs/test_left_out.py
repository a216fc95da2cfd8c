"""No mean, baseline or comparison takes in what is not finite or never learned; each says what it goes without."""

import io
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from fedrl.config import load
from fedrl.config.build import build
from fedrl.environments import gridworld
from fedrl.learners import q_table
from fedrl.records.folder import RunFolder
from fedrl.records.statistics import interval, pooled_interval, probability_of_improvement, seed_means
from fedrl.report.run import read_run
from fedrl.runs import session as module
from fedrl.runs.evaluate import Played
from fedrl.runs.post_training import averaged, fine_tuned, mixed
from fedrl.runs.run import run
from fedrl.runs.seed_result import SeedResult
from fedrl.runs.session import NO_RETURN, NOT_FINITE, Policies, Session, Timing, greedy, seed_result, sound
from fedrl.runs.summary import over_seeds
from fedrl.runs.warnings import warnings_of
from fedrl.sinks.final_summary import final_summary
from tests.support.broken import BROKEN, broken

NAN = math.nan
NOBODY = {"mean": None, "low": None, "high": None}
UNLEARNED = {BROKEN: "it learned nothing"}
"""Finite parameters, of an agent that was refused in every round."""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(build(load(broken(fleet={}))), RunFolder(tmp_path), [], Timing(0.0))


def tables(broken_one: float) -> dict[str, np.ndarray]:
    """Q-tables of three agents that go right, `[agents, states, actions]`; the broken one wants to go left."""
    right, left = np.eye(4, dtype=np.float32)[[2, 0]]
    return {
        "q": np.stack([right, np.where(left > 0.0, np.float32(broken_one), 0.0), right])[:, None, :].repeat(4, axis=1)
    }


@pytest.mark.parametrize(("value", "unlearned"), [(NAN, {}), (np.inf, {}), (1e6, UNLEARNED)])
@pytest.mark.parametrize("made", [averaged, mixed])
def test_what_is_made_of_independent_agents_leaves_out_the_broken_one(
    session: Session, made: Any, value: float, unlearned: dict[int, str]
) -> None:
    policies = Policies(tables(value), True, None, unlearned=unlearned)
    before = seed_result(session, 0, 3, policies)
    assert before.greedy[BROKEN] is None
    (after,) = made(session, [before])
    assert min(value for value in after.greedy if value is not None) > 0.9
    assert None not in after.greedy  # its policy is left out, not its environment
    assert min(value for value in after.held_out if value is not None) > 0.9
    (omission,) = after.left_out
    assert (omission.what, omission.agents) == ("policy", (BROKEN,))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))
    (record,) = RunFolder(session.folder.path).records()
    assert record["messages_up"] == 2
    assert record["bytes_up"] == 2 * tables(0.0)["q"][0].nbytes


@pytest.mark.parametrize("made", [averaged, mixed])
def test_what_is_made_of_nobody_is_nothing(session: Session, made: Any) -> None:
    policies = Policies(tables(1.0), True, None, unlearned=dict.fromkeys(range(3), "it learned nothing"))
    (after,) = made(session, [seed_result(session, 0, 3, policies)])
    assert after.greedy == [None] * 3
    assert [omission.what for omission in after.left_out] == ["everything"]
    assert RunFolder(session.folder.path).records()[0]["bytes_up"] == 0


def test_a_policy_that_is_not_finite_is_never_played(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def played(learner: Any, fleet: Any, params: Any, *rest: Any) -> Played:
        seen.append(params)
        return Played(np.ones((3, 4)), {})

    monkeypatch.setattr(module, "played", played)
    common = {"q": np.full((4, 4), NAN, np.float32)}
    assert greedy(session, 0, Policies(common, False, common)) == [None] * 3
    assert seen == []
    assert greedy(session, 0, Policies(tables(NAN), True, None)) == [1.0, None, 1.0]
    assert np.isfinite(seen[0]["q"]).all()
    assert sound(Policies(tables(NAN), True, None)).unlearned == {BROKEN: NOT_FINITE}


def test_a_common_policy_that_is_not_finite_is_no_result_on_held_out_environments_either(session: Session) -> None:
    common = {"q": np.full((4, 4), NAN, np.float32)}
    found = seed_result(session, 0, 3, Policies(common, False, common))
    assert found.greedy == [None] * 3
    assert found.held_out == [None] * 2
    assert found.left_out[0].what == found.held_out_left_out[0].what == "everything"


def test_a_return_that_is_no_number_is_left_out_and_told(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    returns = np.array([[1.0, 1.0], [1.0, NAN], [np.inf, -np.inf]])
    monkeypatch.setattr(module, "played", lambda *_: Played(returns, {}))
    found = seed_result(session, 0, 3, Policies({"q": np.zeros((4, 4))}, False, None))
    assert found.greedy == [1.0, None, None]
    assert found.left_out == (module.Omission("return", (1, 2), NO_RETURN),)


def test_means_over_agents_and_seeds_say_whom_they_are_about() -> None:
    assert over_seeds([[1.0, None, 3.0], [4.0, 5.0, 6.0]])["mean"] == pytest.approx((2.0 + 5.0) / 2)
    assert over_seeds([[None, None], [4.0, 6.0]])["mean"] == 5.0  # a seed that failed
    assert over_seeds([[1.0, None], [None, 2.0]]) == NOBODY  # no agent is in both
    assert over_seeds([[None, None]]) == NOBODY == over_seeds([])
    assert seed_means([[np.inf, 2.0]]).tolist() == [2.0]


@pytest.mark.parametrize("missing", [NAN, np.inf, -np.inf, None])
def test_intervals_are_those_of_the_values_that_are_there(missing: float | None) -> None:
    values: list[float | None] = [1.0, 4.0, missing, 7.0]
    kept = [value for value in values if value != missing and value is not None and math.isfinite(value)]
    assert interval(values).mean == interval(kept).mean
    assert all(math.isfinite(end) for end in interval(values))
    assert all(math.isnan(x) for x in interval([missing, missing]))
    assert probability_of_improvement(values, [0.0, missing, 0.0]).mean == 1.0
    table = np.array([[1.0, 2.0], [missing, 2.0], [1.0, 3.0]], float)
    assert all(math.isfinite(x) for x in pooled_interval(table))


def test_the_alarm_compares_those_whom_both_sides_have() -> None:
    learner, draw = q_table(gridworld("S.G")), np.random.default_rng(0)
    ours: Any = (10 + draw.normal(size=(5, 4))).tolist()
    theirs: Any = (20 + draw.normal(size=(5, 4))).tolist()
    for row in theirs:
        row[BROKEN] = None
    ours[2][3] = None
    (warning,) = warnings_of(learner, ours, theirs)
    assert [agent["id"] for agent in warning["agents"]] == [0, 2]
    assert warning["everybody"]
    assert "nan" not in warning["message"]
    ours[0] = [None] * 4
    (warning,) = warnings_of(learner, ours, theirs)
    assert "4 seeds" in warning["message"]
    ours[1] = ours[2] = [None] * 4
    assert warnings_of(learner, ours, theirs) == []


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "broken"
    run(broken(evaluation={"episodes": 2, "fine_tune": 1}), folder)
    return folder


@pytest.fixture(scope="module")
def summary(ran: Path) -> Any:
    return json.loads((ran / "summary.json").read_text())


def test_a_run_with_a_broken_agent_says_who_has_no_part_in_what(summary: Any) -> None:
    for name in ("average_once", "mixture"):
        without = [item["agents"] for item in summary["left_out"][name] if item["what"] == "policy"]
        assert without == [[BROKEN]]
    for name in ("federated", "average_once", "mixture", "independent"):
        assert [i["agents"] for i in summary["left_out"][name] if i["what"] == "return"] == [[BROKEN]]
    alone = [agent["return"] for agent in summary["baseline_agents"]["independent"]]
    assert alone[BROKEN] is None
    assert None not in (alone[0], alone[2])
    assert summary["baselines"]["independent"]["mean"] == pytest.approx((alone[0] + alone[2]) / 2)
    assert summary["final_return"]["mean"] > 0.5


def test_its_page_compares_over_the_same_agents_and_counts_them(ran: Path) -> None:
    read = read_run(ran)
    ours, theirs = read.compared_returns("independent")
    assert np.isfinite([*ours, *theirs]).all()
    assert read.seed_returns("federated") == pytest.approx([read.summary["final_return"]["mean"]])
    page = (ran / "report.html").read_text().split("<script")[0]
    assert "2 of 3" in page
    assert "computed without agent 1" in page
    assert ">nan<" not in page


def test_a_method_about_fewer_agents_is_compared_over_those(summary: Any) -> None:
    whole = {**summary, "agents": [{"id": k, "return": 1.0 + k} for k in range(3)]}
    whole["compared"] = {
        "independent": {"agents": 2, "federated": NOBODY | {"mean": 2.0}, "baseline": NOBODY | {"mean": 0.5}}
    }
    out = io.StringIO()
    Console(file=out, width=80).print(final_summary({"event": "end", "summary": whole, "folder": "x", "report": None}))
    text = " ".join(out.getvalue().split())
    assert "over the 2 agents for which both have a return, federated returns 2 and independent 0.5" in text
    lines = [line.split() for line in out.getvalue().splitlines()]
    (counts,) = (line[1:] for line in lines if line[:1] == ["of"])
    assert counts[:2] == ["3", "2"] or "2" in counts


def test_compared_is_there_exactly_where_agents_differ() -> None:
    from fedrl.runs.summary import _compared

    def ended(*returns: float | None) -> list[SeedResult]:
        return [SeedResult(0, 1, {}, False, list(returns), [])]

    found = _compared(
        {"federated": ended(1.0, 2.0, 6.0), "independent": ended(1.0, None, 3.0), "mixture": ended(1, 2, 3)}
    )
    assert set(found) == {"independent"}
    assert found["independent"]["agents"] == 2
    assert (found["independent"]["federated"]["mean"], found["independent"]["baseline"]["mean"]) == (3.5, 2.0)
    assert _compared({"federated": ended(None, None), "independent": ended(1.0, None)}) == {}


def test_a_learner_of_all_data_that_learned_nothing_has_no_result(tmp_path: Path) -> None:
    found = run(broken(fleet={"step_cost": [3e38, 3e38, 3e38]}, baselines={"centralised": True}), tmp_path / "run")
    (item,) = found["left_out"]["centralised"]
    assert item["what"] == "everything"
    assert found["baselines"]["centralised"] == NOBODY
    assert [agent["return"] for agent in found["baseline_agents"]["centralised"]] == [None] * 3
    page = (tmp_path / "run" / "report.html").read_text()
    assert "centralised: no result: it learned nothing, rejected in every round; it pools the data of all" in page


def test_tuning_that_was_refused_is_no_tuning(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrl.core.aggregator import on_time
    from fedrl.engines.state import Rejection, RoundResult, Simulation, no_uploads
    from fedrl.records import checkpoint
    from fedrl.runs import post_training as afterwards

    def tuned(experiment: Any, states: Any, seed: int, note: Any, stopped: Any) -> Any:
        for rejected in ((0, BROKEN), (BROKEN,)):
            left_out = tuple(Rejection(k, "state is not finite") for k in rejected)
            note(RoundResult({}, 0.0, left_out, 0, 0, 0, 0, no_uploads(3), on_time(np.zeros(0, int))))
        return tables(1.0)

    def same(run_state: Any) -> Any:
        return run_state

    def with_states(run_state: Any, states: Any) -> Any:
        return run_state

    still = Simulation(same, same, same, 3, 3, adopt=same, held=same, states_of=same, with_states=with_states)
    monkeypatch.setattr(afterwards, "tuned", tuned)
    monkeypatch.setattr(checkpoint, "load", lambda path, like: like)
    monkeypatch.setattr(Session, "first_state", lambda *given: 0)
    session.folder.append({"method": "federated", "seed": 0, "round": 3, "environment_steps": 9})
    before = SeedResult(0, 3, {}, False, [], [])
    (after,) = fine_tuned(session, still, [before])
    assert [value is None for value in after.greedy] == [False, True, False]
    record = RunFolder(session.folder.path).records()[-1]
    assert (record["rejected"], record["rejections"]) == (3, {"state is not finite": [0, BROKEN, BROKEN]})
