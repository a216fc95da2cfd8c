"""The section [federation.privacy]: what it calibrates, where the noise goes, and what it refuses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrl.config import as_dict, load
from fedrl.config.build import build, planning_of
from fedrl.config.guarantees import noise_of as noise_of_part
from fedrl.config.guarantees import private_learner, private_stages, unbudgeted
from fedrl.config.schema import schema
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.stage import Noise, Stage
from fedrl.environments import gridworld
from fedrl.learners import q_table
from fedrl.privacy.composition import epsilon_of
from fedrl.privacy.extra import accounting
from fedrl.server.decisions import Selection
from fedrl.stages import quantize, top_k

KINDS = accounting()
AGENTS, ROUNDS = 6, 20


def tables(**privacy: Any) -> dict[str, Any]:
    given = {"epsilon": 8.0, "delta": 1e-3, "mechanism": {"name": "central_gaussian", "clip": 0.5}} | privacy
    return {
        "name": "x",
        "environment": "gridworld",
        "learner": "q_table",
        "rounds": ROUNDS,
        "seeds": 1,
        "federation": {
            "agents": AGENTS,
            "aggregator": {"name": "mean", "weighting": "uniform"},
            "privacy": {name: value for name, value in given.items() if value is not None},
        },
    }


def noise_of(experiment: Any) -> Noise:
    (noise,) = [stage.noise for stage in experiment.federation.stages if stage.noise is not None]
    return noise


def sampling_of(how: dict[str, Any]) -> Selection:
    """A selection that says how it samples, in the attributes that prices are read from."""
    found = Selection(lambda rng, ids, number, state: ids[:2])
    for name, value in how.items():
        object.__setattr__(found, name, value)
    return found


def privately(selection: Selection | None, stages: tuple[Stage, ...] = (), **privacy: Any) -> Any:
    config = load(tables(**privacy))
    experiment = build(replace(config, federation=replace(config.federation, privacy=None)))
    return private_stages(config.federation, stages, experiment.learner, selection, ROUNDS)


def test_noise_is_calibrated_for_all_rounds_and_written_into_the_resolved_configuration() -> None:
    experiment = build(load(tables()))
    event = noise_of(experiment).event
    assert 7.99 < epsilon_of({event: ROUNDS}, 1e-3) <= 8.0 < epsilon_of({event: ROUNDS + 1}, 1e-3)
    assert experiment.federation.stages[-1].call.arguments["expected"] == AGENTS
    resolved = as_dict(experiment.config)
    assert resolved["federation"]["stages"] == []
    assert resolved["federation"]["privacy"]["mechanism"]["noise_multiplier"] == event.noise_multiplier
    again = build(load(resolved))
    assert again.config == experiment.config
    assert again.federation == experiment.federation
    assert again.guarantee == experiment.guarantee


def test_a_sampled_cohort_needs_less_noise_than_everybody_and_divides_by_its_mean_size() -> None:
    everybody, sampled = privately(None), privately(sampling_of({"sampling": 0.25, "fixed_size": None}))
    assert sampled.guarantee.noise_multiplier < everybody.guarantee.noise_multiplier
    assert sampled.stages[-1].call.arguments["expected"] == 0.25 * AGENTS
    assert isinstance(sampled.guarantee.price.events[0], KINDS.PoissonSampledDpEvent)
    assert not sampled.guarantee.price.participants
    assert any("stays a secret of the coordinator" in line for line in sampled.guarantee.assumptions())


def test_a_cohort_of_fixed_size_is_priced_for_agents_that_are_replaced() -> None:
    fixed = privately(sampling_of({"fixed_size": 2, "sampling": None}))
    price = fixed.guarantee.price
    assert price.relation == "replace-one"
    assert "replaced by any other" in fixed.guarantee.claim(8.0)
    (event,) = set(price.events)
    assert (event.source_dataset_size, event.sample_size) == (AGENTS, 2)
    # The sum moves by twice the clip.
    assert event.event.noise_multiplier == pytest.approx(fixed.guarantee.noise_multiplier / 2.0)
    assert fixed.stages[-1].call.arguments["expected"] == 2.0
    assert epsilon_of({event: ROUNDS}, 1e-3, "replace-one") <= 8.0


@pytest.mark.parametrize(
    "selection",
    [None, {"name": "poisson", "rate": 0.5}, {"name": "uniform", "cohort": 3}, {"name": "round_robin", "cohort": 3}],
)
def test_noise_that_is_adapted_is_paid_by_participants_and_not_amplified(selection: dict[str, Any] | None) -> None:
    given = tables(mechanism={"name": "progress_gaussian", "clip": 0.5, "noise_multiplier": 8.0, "least": 2.0})
    if selection is not None:
        given["federation"]["selection"] = selection
    guarantee = build(load(given)).guarantee
    assert guarantee is not None
    assert guarantee.price.relation == "add-remove"
    assert guarantee.price.participants == (selection is not None)
    # What is charged has the relation that is claimed: a cohort of fixed size would claim that data are replaced.
    for z in (8.0, 4.0):
        assert guarantee.next_events([np.float32(z)]) == (KINDS.GaussianDpEvent(z),) * AGENTS
    assert guarantee.price.events == guarantee.next_events([np.float32(8.0)])


def test_a_drawn_cohort_may_not_be_merged_only_if_it_is_large_enough() -> None:
    # Without one agent, the sum of two would not be opened: that changes what is released by the updates of all three.
    given = tables()
    given["federation"] |= {
        "summation": {"name": "ring_sum", "largest": 1.0, "minimum": 3},
        "selection": {"name": "poisson", "rate": 0.5},
    }
    with pytest.raises(UnsoundError, match=r"ring_sum.* merges no fewer than 3 updates, and poisson.*such as uniform"):
        build(load(given))
    given["federation"]["selection"] = {"name": "uniform", "cohort": 3}
    assert build(load(given)).guarantee is not None
    given["federation"] |= {"selection": {"name": "poisson", "rate": 0.5}, "summation": {"name": "exact_sum"}}
    assert build(load(given)).guarantee is not None


def test_a_drawn_cohort_may_not_share_noise_in_a_sum_of_a_least_size() -> None:
    given = tables(mechanism={"name": "distributed_skellam", "clip": 0.5}, trust="honest_but_curious_coordinator")
    given["federation"] |= {
        "summation": {"name": "ring_sum", "minimum": 3},
        "selection": {"name": "poisson", "rate": 0.5},
    }
    with pytest.raises(UnsoundError, match=r"ring_sum.* merges no fewer than 3 updates, and poisson"):
        build(load(given))
    given["federation"]["selection"] = {"name": "uniform", "cohort": 4}
    assert build(load(given)).guarantee is not None


@pytest.mark.parametrize("count", [AGENTS - 1, AGENTS + 1])
def test_clips_that_are_not_one_for_each_agent_are_refused(count: int) -> None:
    with pytest.raises(UnsoundError, match=f"clip has {count} norms, and there are {AGENTS} agents"):
        build(load(tables(mechanism={"name": "central_gaussian", "clip": [0.5] * count})))


def test_a_known_schedule_amplifies_nothing_and_participants_pay() -> None:
    config = load(
        {**tables(), "federation": tables()["federation"] | {"selection": {"name": "round_robin", "cohort": 2}}}
    )
    selection, _ = planning_of(config.federation)
    known = privately(selection)
    assert known.guarantee.price.participants
    assert known.guarantee.noise_multiplier == privately(None).guarantee.noise_multiplier
    assert known.stages[-1].call.arguments["expected"] == 2.0


def test_an_agent_that_asks_for_more_gets_a_smaller_clip_and_takes_part_in_all_rounds() -> None:
    experiment = build(load(tables(agents={"3": {"epsilon": 2.0}})))
    clip = experiment.guarantee.clip
    assert isinstance(clip, tuple)
    assert [c == 0.5 for c in clip] == [k != 3 for k in range(AGENTS)]
    spent = [epsilon_of({event: ROUNDS}, 1e-3) for event in experiment.guarantee.price.events]
    assert [round(x, 2) for x in spent] == [8.0, 8.0, 8.0, 2.0, 8.0, 8.0]
    ledger = experiment.guarantee.ledger()
    for _ in range(ROUNDS):
        assert ledger.charge().all()
    assert not ledger.may().any()


def test_or_it_takes_part_in_fewer_rounds_with_the_same_clip() -> None:
    experiment = build(load(tables(agents={"3": {"epsilon": 4.0}}, stronger_by="fewer_rounds")))
    assert experiment.guarantee.clip == 0.5
    ledger = experiment.guarantee.ledger()
    rounds = np.sum([ledger.charge() for _ in range(ROUNDS)], axis=0)
    assert rounds[3] < ROUNDS
    assert (np.delete(rounds, 3) == ROUNDS).all()
    assert ledger.spent()[3] <= 4.0


def test_if_all_agents_ask_for_more_the_most_generous_one_has_the_whole_clip() -> None:
    agents = {str(k): {"epsilon": 2.0 if k else 3.0} for k in range(AGENTS)}
    guarantee = build(load(tables(agents=agents))).guarantee
    assert guarantee is not None
    assert isinstance(guarantee.clip, tuple)
    assert guarantee.clip[0] == 0.5 > guarantee.clip[1]
    assert epsilon_of({guarantee.price.events[0]: ROUNDS}, 1e-3) <= 3.0
    assert epsilon_of({guarantee.price.events[1]: ROUNDS}, 1e-3) <= 2.0


def test_the_noise_of_agents_comes_before_compression_and_that_of_a_server_after_it() -> None:
    compressing = (top_k(0.5), quantize(8))
    local = privately(None, compressing, mechanism={"name": "local_gaussian", "clip": 0.5})
    assert [stage.noise is not None for stage in local.stages] == [True, False, False]
    central = privately(None, compressing)
    assert [stage.noise is not None for stage in central.stages] == [False, False, True]
    assert central.own() == local.own() == compressing


def test_the_noise_of_a_stage_is_priced_and_a_run_with_more_rounds_than_it_allows_refused() -> None:
    given = tables(mechanism=None)
    event = noise_of(build(load(tables()))).event
    stage = {"name": "central_gaussian", "clip": 1.0, "noise_multiplier": event.noise_multiplier, "expected": 6.0}
    given["federation"]["stages"] = [stage]
    experiment = build(load(given))
    assert experiment.guarantee.price.events == (event,) * AGENTS
    assert as_dict(experiment.config)["federation"]["privacy"].get("mechanism") is None
    with pytest.raises(
        ConfigError, match=f"rounds is {ROUNDS + 1}.* enough only for {ROUNDS} rounds of central_gaussian"
    ):
        build(load(given, [f"rounds={ROUNDS + 1}"]))


def test_laplace_noise_needs_no_delta() -> None:
    experiment = build(load(tables(delta=0.0, mechanism={"name": "local_laplace", "clip": 1.0})))
    assert noise_of(experiment).event.noise_multiplier == pytest.approx(ROUNDS / 8.0, rel=1e-3)


def test_rounds_of_other_episodes_need_the_noise_of_one() -> None:
    learner = replace(build(load(tables())).learner, clips_trajectories=0.25)
    found = [
        private_stages(
            load(tables(unit="trajectory", episodes_per_person=count, mechanism="local_gaussian")).federation,
            (),
            learner,
            None,
            ROUNDS,
        )
        for count in (1, 4)
    ]
    one, four = (each.guarantee for each in found)
    assert one.clip == 0.25
    assert 7.99 < epsilon_of({noise_of_stage(found[0].stages[0]).event: 1}, 1e-3) <= 8.0
    assert four.noise_multiplier == pytest.approx(4.0 * one.noise_multiplier, rel=1e-3)
    assert "4 episodes of one agent" in four.claim(8.0)
    assert any(line.startswith("One person, one episode") for line in one.assumptions())
    assert one.affords(10**6)


def noise_of_stage(stage: Stage) -> Noise:
    assert stage.noise is not None
    return stage.noise


def noisy_learner(multiplier: float | None) -> Any:
    """A learner that says that it adds noise in its local steps, if there is a multiplier."""
    learner = q_table(gridworld())
    if multiplier is not None:
        object.__setattr__(learner, "noise", Noise(KINDS.GaussianDpEvent(multiplier), 0.25, "agent", "trajectory"))
    return learner


def test_noise_in_local_steps_is_calibrated_for_the_one_round_that_learns_from_an_episode() -> None:
    section = load(tables(unit="trajectory", mechanism="steps")).federation
    learner = private_learner(section.privacy, ROUNDS, noisy_learner)
    event = noise_of_part(learner).event
    assert 7.99 < epsilon_of({event: 1}, 1e-3) <= 8.0
    found = private_stages(section, (), learner, None, ROUNDS)
    assert found.stages == ()
    assert found.guarantee.price.events == (event,) * AGENTS
    assert found.guarantee.price.parallel
    # A learner that has noise already is priced, and so is the same one without a mechanism.
    assert private_learner(section.privacy, ROUNDS, lambda z: noisy_learner(9.0 if z is None else z)) == noisy_learner(
        9.0
    )
    priced = load(tables(unit="trajectory", mechanism=None)).federation
    assert private_stages(priced, (), learner, None, ROUNDS).guarantee.price == found.guarantee.price
    with pytest.raises(
        ConfigError, match=r"mechanism is 'steps', and q_table.* adds no noise in its local steps. Use a"
    ):
        private_learner(section.privacy, ROUNDS, lambda z: noisy_learner(None))
    with pytest.raises(ConfigError, match=r"adds noise, too: one budget is for one mechanism"):
        private_stages(load(tables(unit="trajectory")).federation, (), learner, None, ROUNDS)
    assert "this run promises no epsilon" in unbudgeted((learner,), None)


LOCAL = {"name": "local_gaussian", "clip": 1.0, "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ({"epsilon": 0}, r"federation.privacy.epsilon is 0.0. It needs to be a number above 0"),
        ({"delta": -0.1}, r"federation.privacy.delta is -0.1. It needs to be a number, 0 or more"),
        ({"delta": 1.0}, r"delta is 1. It is a probability, and with 1 or more nothing is protected. Set it far below"),
        ({"delta": 0.0}, r"delta is 0, and at that delta no amount of noise of central_gaussian.* use Laplace noise"),
        ({"unit": "agents"}, r"federation.privacy.unit is 'agents', which is not known. Did you mean 'agent'"),
        (
            {"trust": "honest_but_curious_coordinator"},
            r"federation.privacy.trust is 'honest.*central_gaussian.*local_ga",
        ),
        ({"mechanism": "clip"}, r"mechanism.name is 'clip', and a mechanism has a noise_multiplier to calibrate"),
        ({"mechanism": {"name": "central_gaussian"}}, r"lacks 'clip', which central_gaussian needs"),
        ({"mechanism": None}, r"has no mechanism, and no stage adds noise, so nothing keeps the budget. Add one"),
        ({"agents": {"9": {"epsilon": 1.0}}}, r"agents.9 is given, and there are 6 agents, with numbers from 0 to 5"),
        ({"agents": {"x": {"epsilon": 1.0}}}, r"agents.x names no agent. Agents have numbers from 0"),
        ({"agents": {"3": {"epsilon": 8.0}}}, r"agents.3.epsilon is 8, and that of the federation is 8. An agent may"),
        ({"agents": {"3": {"eps": 1.0}}}, r"agents.3.eps is 1.0, but .* has no key 'eps'. Did you mean 'epsilon'"),
        ({"episodes_per_person": 2}, r"episodes_per_person is 2, and with unit = 'agent' all episodes"),
        (
            {"unit": "trajectory", "mechanism": {"name": "central_laplace", "clip": 1.0}},
            r"unit is 'trajectory', and central_laplace protects one agent. Set unit = 'agent'",
        ),
        ({"unit": "trajectory", "agents": {"3": {"epsilon": 1.0}}}, r"agents is given, and with unit = 'trajectory'"),
        (
            {"unit": "trajectory", "mechanism": "steps"},
            r"mechanism is 'steps', and q_table.* adds no noise in its local",
        ),
        ({"budget": 3}, r"federation.privacy.budget is 3, but federation.privacy has no key 'budget'"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_value_cause_and_cure(privacy: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(load(tables(**privacy)))


def test_one_budget_is_for_one_mechanism() -> None:
    given = tables()
    given["federation"]["stages"] = [LOCAL]
    with pytest.raises(ConfigError, match=r"one budget is for one mechanism. Leave one of them out; without the mech"):
        build(load(given))
    given = tables(mechanism=None)
    given["federation"]["stages"] = [LOCAL, LOCAL]
    with pytest.raises(ConfigError, match=r"both add noise, and one budget is for one mechanism"):
        build(load(given))


def test_noise_that_covers_fewer_rounds_than_there_are_is_refused() -> None:
    def correlated(rounds: int) -> Stage:
        noise = Noise(KINDS.GaussianDpEvent(2.0), 1.0, "server", rounds=rounds)
        return Stage(lambda key, context, server, agent, update: (update, agent), noise=noise)

    found = privately(None, (correlated(ROUNDS),), mechanism=None)
    assert found.guarantee.price.covers == ROUNDS
    assert found.guarantee.epsilon(0, ROUNDS) == epsilon_of({KINDS.GaussianDpEvent(2.0): 1}, 1e-3)
    with pytest.raises(
        ConfigError, match=rf"correlated between {ROUNDS - 1} rounds and covers no more. Set its rounds"
    ):
        privately(None, (correlated(ROUNDS - 1),), mechanism=None)


def test_noise_without_a_price_has_no_budget() -> None:
    own = Stage(lambda key, context, server, agent, update: (update, agent), noise=Noise("mine", 1.0, "agent"))
    with pytest.raises(ConfigError, match=r"has no price: it is no DpEvent of dp_accounting"):
        privately(None, (own,), mechanism=None)
    assert "this run promises no epsilon" in unbudgeted((own,), None)
    assert unbudgeted((), None) == ""
    assert unbudgeted((own,), load(tables()).federation.privacy) == ""


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"aggregator": "mean"}, r"Use mean\(weighting='uniform'\)"),
        ({"topology": "ring"}, r"there is no server"),
        ({"selection": {"name": "oort", "cohort": 2}}, r"report \['norm'\] unprotected"),
    ],
)
def test_parts_that_the_noise_does_not_cover_are_unsound(change: dict[str, Any], error: str) -> None:
    given = tables()
    given["federation"] |= change
    with pytest.raises(UnsoundError, match=error):
        build(load(given))


def test_an_editor_knows_the_keys() -> None:
    section = schema()["properties"]["federation"]["properties"]["privacy"]
    assert not section["additionalProperties"]
    assert section["properties"]["trust"] == schema()["properties"]["federation"]["properties"]["trust"] | {
        "description": section["properties"]["trust"]["description"]
    }
    assert section["properties"]["epsilon"]["exclusiveMinimum"] == 0
