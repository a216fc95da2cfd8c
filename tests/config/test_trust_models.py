"""Trust models in a configuration: what each requires, and that what it reads is what a run says of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedrl.aggregators import mean, median
from fedrl.config import as_dict, load
from fedrl.config.build import build
from fedrl.config.schema import schema
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.engines.topologies.choices import SingleServer
from fedrl.engines.trust_models import check_trust
from fedrl.federation.federate import federate
from fedrl.federation.trust_models import CURIOUS, NOBODY, TRUSTED
from fedrl.learners import sgd
from fedrl.runs.explain import explained
from fedrl.runs.run import resume, run
from fedrl.secure.grid import ring_sum
from fedrl.server.schedules import synchronous
from tests.support.quadratic import quadratic

NOISE = {"name": "local_gaussian", "clip": 1.0, "noise_multiplier": 1.0}
CENTRAL = {"name": "central_gaussian", "clip": 1.0, "noise_multiplier": 1.0, "expected": 4}
BUDGET = {"epsilon": 8.0, "delta": 1e-3, "mechanism": {"name": "local_gaussian", "clip": 1.0}}
STEPS = {
    "name": "reinforce",
    "episodes_per_step": 4,
    "baseline": "none",
    "trajectory_clip": 1.0,
    "noise_multiplier": 1.0,
}
EDGES = {"name": "tree", "branching": [2]}
RING = {"name": "ring_sum", "largest": 10.0}


def tables(trust: str | None = CURIOUS, learner: Any = "q_table", **federation: Any) -> dict[str, Any]:
    chosen = {"agents": 4, "aggregator": {"name": "mean", "weighting": "uniform"}, "trust": trust, **federation}
    return {
        "name": "x",
        "environment": "gridworld",
        "learner": learner,
        "rounds": 2,
        "seeds": 1,
        "federation": {key: value for key, value in chosen.items() if value is not None},
    }


ALLOWED = {
    "a sum that hides": (CURIOUS, {"summation": RING}, "it reads sums of 2 updates or more, and no single update"),
    "a sum that hides, in a tree of relays": (CURIOUS, {"summation": RING, "hierarchy": EDGES}, "sums of 2 updates"),
    "a sum that hides, with a minimum": (CURIOUS, {"summation": {**RING, "minimum": 3}}, "reads sums of 3 updates"),
    "noise of each agent": (CURIOUS, {"stages": [NOISE]}, "reads the update of each agent, with noise that the agent"),
    "noise, and a rule that sees each": (CURIOUS, {"stages": [NOISE], "aggregator": "median"}, "with noise that the a"),
    "both": (CURIOUS, {"stages": [NOISE], "summation": RING}, "2 updates or more, with noise that the agent adds, and"),
    "noise in steps, asynchronous": (
        CURIOUS,
        {"learner": STEPS, "schedule": {"name": "fed_buff", "buffer_size": 2}, "clock": {"step_s": 1.0}},
        "with noise in each local step",
    ),
    "noise in steps, among neighbours": (CURIOUS, {"learner": STEPS, "topology": "ring"}, "parameters, with noise in"),
    "neighbours": (NOBODY, {"topology": "ring"}, "There is no coordinator: neighbours read each other's whole param"),
    "anything": (TRUSTED, {"aggregator": "median", "stages": []}, "is trusted: it reads the update of each agent."),
    "nothing said": (None, {"aggregator": "median"}, "The coordinator is trusted: it reads the update of each agent."),
    "nothing said, neighbours": (None, {"topology": "ring"}, "There is no coordinator: neighbours read"),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_a_trust_model_allows_is_built_and_said_and_builds_again(case: str) -> None:
    trust, federation, said = ALLOWED[case]
    experiment = build(load(tables(trust, **federation)))
    found = explained(experiment)
    assert said in found["reads"], found["reads"]
    assert found["trust"] == trust or (
        trust is None and found["trust"] == (NOBODY if "topology" in federation else TRUSTED)
    )
    again = build(load(as_dict(experiment.config)))
    assert again.config == experiment.config
    assert again.config.federation.trust == trust


REFUSED = {
    "an exact sum": ({}, r"exact_sum\(\) shows the coordinator the update of each agent.*Use summation = ring_sum"),
    "a rule that sees each": ({"aggregator": "median"}, r"median\(\) reads the update of each agent.*local_gaussian"),
    "noise at the coordinator": (
        {"stages": [CENTRAL]},
        r"central_gaussian\(.* adds its noise at the coordinator, which has received.*ring_sum",
    ),
    "an asynchronous schedule": (
        {"schedule": {"name": "fed_buff", "buffer_size": 2}, "clock": {"step_s": 1.0}},
        r"exact_sum\(\) shows.*Under fed_buff\(.* no sum of a known cohort.*noise in its local steps",
    ),
    "a hidden sum, asynchronous": (
        {"summation": RING, "schedule": {"name": "fed_buff", "buffer_size": 2}, "clock": {"step_s": 1.0}},
        r"ring_sum\(.* hides updates in the sum of the agents that started together, and under fed_buff",
    ),
    "a hidden sum, and a rule that sees each": ({"summation": RING, "aggregator": "median"}, r"median\(\).*ring_sum\("),
    "a hidden sum, and reports": (
        {"summation": RING, "selection": {"name": "oort", "cohort": 2}},
        r"report \['norm'\] unprotected.*ring_sum",
    ),
    "neighbours": ({"topology": "ring"}, r"over ring\(\) neighbours read each other's whole.*Use 'no_coordinator'"),
    "a server where there is none": ({"trust": NOBODY}, r"'no_coordinator', and a server receives.*topology = 'ring'"),
    "a tree where there is no server": (
        {"trust": NOBODY, "hierarchy": EDGES},
        r"'no_coordinator', and tree\(\(2,\)\) receives",
    ),
    "a hidden sum and no server": ({"trust": NOBODY, "summation": RING}, r"and a server receives and merges"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_trust_model_does_not_allow_is_one_sentence_with_both_parts_and_a_cure(case: str) -> None:
    federation, said = REFUSED[case]
    with pytest.raises(UnsoundError, match=said) as refused:
        build(load(tables(**federation)))
    assert refused.value.reason
    # Nothing else is wrong with it.
    without = {key: value for key, value in federation.items() if key not in ("trust", "summation")}
    assert "selection" in without or build(load(tables(None, **without)))


def test_a_server_optimiser_without_a_server_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"server_optimizer is 'adam'. It needs a server, and there is none"):
        load(tables(NOBODY, topology="ring", server_optimizer="adam"))


def test_there_is_one_trust_model() -> None:
    with pytest.raises(
        ConfigError, match=r"federation.trust is 'trusted.* federation.privacy.trust is 'honest.*Leave out"
    ):
        load(tables(TRUSTED, privacy=BUDGET | {"trust": CURIOUS}))
    for trust, own in ((CURIOUS, None), (None, CURIOUS), (CURIOUS, CURIOUS)):
        given = BUDGET if own is None else BUDGET | {"trust": own}
        experiment = build(load(tables(trust, privacy=given)))
        assert experiment.guarantee is not None
        assert experiment.guarantee.trust == explained(experiment)["trust"] == CURIOUS
    central = BUDGET | {"mechanism": {"name": "central_gaussian", "clip": 1.0}}
    with pytest.raises(
        ConfigError, match=r"federation.trust is 'honest.*central_gaussian, whose noise the coordinator"
    ):
        build(load(tables(CURIOUS, privacy=central)))
    with pytest.raises(UnsoundError, match=r"federation.trust is 'no_coordinator', and a server"):
        build(load(tables(NOBODY, privacy=central)))


def test_an_editor_knows_the_trust_models_and_a_wrong_one_is_named() -> None:
    found = schema()["properties"]["federation"]["properties"]["trust"]
    assert found["enum"] == [TRUSTED, CURIOUS, NOBODY]
    with pytest.raises(
        ConfigError, match=r"federation.trust is 'trusted', which is not known. Did you mean 'trusted_c"
    ):
        load(tables("trusted"))


def test_a_run_says_what_is_read_in_its_summary_and_report_and_goes_on_with_the_same_model(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(tables(summation=RING), folder, verbose=0)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trust"] == CURIOUS
    assert "The coordinator is honest but curious: it reads sums of 2 updates or more" in summary["reads"]
    page = (folder / "report.html").read_text()
    assert summary["reads"].replace("'", "&#39;") in page
    assert f"<code>{CURIOUS}</code>" in page
    longer = resume(folder, rounds="+1", verbose=0)
    assert (longer["rounds"], longer["trust"]) == (3, CURIOUS)


@pytest.mark.parametrize(("minimum", "group_size"), [(0, 0), (1, 0), (1, 1)])
def test_a_summation_that_opens_the_sum_of_a_single_update_is_refused(minimum: int, group_size: int) -> None:
    """`ring_sum` has no such minimum; a summation of one's own may."""
    hiding = replace(ring_sum(4, 8.0), minimum=minimum, group_size=group_size)
    rule = median() if group_size else mean("uniform")
    with pytest.raises(UnsoundError, match="opens also the sum of a single update"):
        check_trust(CURIOUS, federate(quadratic(sgd(0.1)), rule, summation=hiding), SingleServer(), synchronous())
