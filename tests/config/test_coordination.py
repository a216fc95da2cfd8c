"""Runs without a server, with a tree of servers, and of agents that keep something to themselves, from TOML."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from fedrl.config import dump, load
from fedrl.config.build import build
from fedrl.core.component import cite
from fedrl.core.errors import ConfigError, FedrlError
from fedrl.records.formatting import short
from fedrl.runs.evaluate import returns_of
from fedrl.runs.reading import trained
from fedrl.runs.run import resume, run
from fedrl.runs.simulations import simulation_of
from tests.support.signals import send
from tests.support.small import TOML, without_times

ROUNDS = 6
ALONE = ["baselines={}", "evaluation.held_out=0"]
RING = [*ALONE, "federation.topology=ring", "federation.agents=5", "fleet.slip=0.1"]
ONE_WAY = [*RING, "federation.topology={name='ring', directed=true}", "federation.gossip=push_sum"]
TREE = ["federation.agents=8", "fleet.slip=0.1", "baselines={}"]
EDGES = "federation.hierarchy={name='tree', branching=[2, 2], latency_s=[0.01, 0.1, 0.5]}"
RARELY = "federation.hierarchy={name='tree', branching=[2, 2], periods=[1, 1, 3]}"
NETWORK = "{name='a2c', num_envs=2, num_steps=8, network={name='mlp', hidden=[4]}}"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "corridor.toml"
    path.write_text(TOML.format(rounds=ROUNDS))
    return path


def ran(config: Path, out: Path, *changes: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    summary = run(config, out, overrides=changes)
    return dict(summary), records(out)


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def params(out: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(out / "params.safetensors")


def test_neighbours_keep_parameters_of_their_own_and_are_evaluated_with_them(config: Path, tmp_path: Path) -> None:
    summary, lines = ran(config, tmp_path / "ring", *RING, "baselines.independent=true")
    held = params(tmp_path / "ring")["seed0/q"]
    assert held.shape == (5, 4, 4)
    assert not np.array_equal(held[0], held[2])
    back = trained(tmp_path / "ring")
    assert back.stacked
    final = next(r for r in lines if r["method"] == "federated" and r["seed"] == 0 and r["round"] == ROUNDS)
    again = returns_of(back.experiment.learner, back.experiment.fleet, back.params[0], 4, 0, stacked=True).mean(1)
    np.testing.assert_allclose(final["greedy"], again, rtol=1e-6)
    assert summary["agents"][0]["return"] is not None
    assert summary["baselines"]["independent"]["mean"] is not None


def test_a_run_without_a_server_tells_of_consensus(config: Path, tmp_path: Path) -> None:
    summary, lines = ran(config, tmp_path / "ring", *RING, "federation.consensus_steps=2", "baselines.independent=true")
    for record in lines:
        told = {"messages", "drift", "consensus_distance"} <= set(record)
        assert told == (record["method"] == "federated")
        if told:
            assert record["messages"] == 2 * 2 * 5
            assert record["consensus_distance"] < record["drift"]
    found = summary["consensus"]
    expected = 1 / 3 + 2 / 3 * np.cos(2 * np.pi / 5)  # of a ring with weights 1/3
    assert found["contraction"] == pytest.approx(expected)
    assert found["spectral_gap"] == pytest.approx(1 - expected)
    assert 0 < found["measured_contraction"] <= expected + 1e-6
    assert found["messages"] == 20 * ROUNDS
    assert any("Xiao & Boyd" in line for line in summary["citations"])
    page = (tmp_path / "ring" / "report.html").read_text()
    assert "spectral gap" in page
    assert "in the long run, from the spectrum" in page
    row = page.split("factor per step in this run, mean over rounds; new disagreement decays faster")[1].split("</tr>")[
        0
    ]
    assert short(found["measured_contraction"]) in row
    assert "the same, as measured" not in page  # it is the factor of all modes, not of the slowest
    assert found["measured_contraction"] < 0.9 * expected


def test_everybody_hearing_everybody_is_federated_averaging(config: Path, tmp_path: Path) -> None:
    changes = [*ALONE, "federation.agents=4", "fleet.slip=0.1", "seeds=1"]
    ran(config, tmp_path / "server", *changes)
    summary, _ = ran(config, tmp_path / "complete", *changes, "federation.topology=complete")
    server, each = params(tmp_path / "server")["seed0/q"], params(tmp_path / "complete")["seed0/q"]
    np.testing.assert_allclose(each, np.broadcast_to(server, each.shape), atol=1e-6)
    assert summary["consensus"]["contraction"] == pytest.approx(0.0, abs=1e-9)


def test_a_tree_that_merges_every_round_gives_what_one_server_gives(config: Path, tmp_path: Path) -> None:
    flat, _ = ran(config, tmp_path / "flat", *TREE)
    summary, lines = ran(config, tmp_path / "tree", *TREE, EDGES, "baselines.independent=true")
    for name, value in params(tmp_path / "flat").items():
        np.testing.assert_array_equal(params(tmp_path / "tree")[name], value)
    assert summary["final_return"] == flat["final_return"]
    assert summary["held_out"] == flat["held_out"]
    levels = summary["hierarchy"]["levels"]
    assert [level["nodes"] for level in levels] == [8, 4, 2]
    assert sum(level["bytes_up"] for level in levels) == summary["bytes_up"]
    assert summary["hierarchy"]["latency_s"] == pytest.approx(2 * (0.01 + 0.1 + 0.5))
    assert all(("levels" in record) == (record["method"] == "federated") for record in lines)
    page = (tmp_path / "tree" / "report.html").read_text()
    assert "agents to servers 1" in page
    assert "Messages of a round take 1.2 s on average" in page


def test_between_two_merges_of_the_root_agents_act_with_the_parameters_of_their_edge(
    config: Path, tmp_path: Path
) -> None:
    summary, lines = ran(config, tmp_path / "tree", *TREE, RARELY, "rounds=5")
    held = params(tmp_path / "tree")["seed0/q"]
    assert held.shape == (8, 4, 4)
    assert np.array_equal(held[0], held[1])
    assert not np.array_equal(held[0], held[7])
    assert summary["held_out"]["mean"] is not None  # the root's policy
    sent = [record["levels"][2][0] for record in lines if record["seed"] == 0]
    assert [count > 0 for count in sent] == [False, False, True, False, False]


@pytest.mark.parametrize(
    "changes",
    [
        ONE_WAY,
        [*TREE, RARELY, "evaluation.every=2"],
        [*ALONE, "learner={name='accept_if_better', trials=2, learner={name='q_table', num_envs=2, num_steps=8}}"],
    ],
    ids=["push_sum", "tree", "accept_if_better"],
)
def test_an_interrupted_run_resumes_bit_for_bit(changes: list[str], config: Path, tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if [event.get(name) for name in ("method", "seed", "round")] == ["federated", 0, 2]:  # seeds run side by side
            send()

    run(config, tmp_path / "whole", overrides=changes)
    run(config, tmp_path / "stopped", overrides=changes, sinks=[interrupt])
    assert (tmp_path / "stopped" / "checkpoints").exists()
    resume(tmp_path / "stopped")
    whole, resumed = tmp_path / "whole", tmp_path / "stopped"
    assert (resumed / "params.safetensors").read_bytes() == (whole / "params.safetensors").read_bytes()
    assert without_times(records(resumed)) == without_times(records(whole))


@pytest.mark.parametrize(
    "learner",
    [
        f"{{name='personal', local=['actor/-1'], learner={NETWORK}}}",
        "{name='interpolate', share=0.3, learner={name='q_table', num_envs=2, num_steps=8}}",
        f"{{name='apfl', learner={NETWORK}}}",
    ],
    ids=["personal", "interpolate", "apfl"],
)
@pytest.mark.parametrize("topology", [[], ["federation.topology=complete"]], ids=["server", "neighbours"])
def test_personalised_agents_are_evaluated_with_what_they_act_with(
    learner: str, topology: list[str], config: Path, tmp_path: Path
) -> None:
    changes = [*ALONE, "seeds=1", f"learner={learner}", "rounds=2", *topology]
    summary, _ = ran(config, tmp_path / "run", *changes, "baselines.independent=true", "baselines.average_once=true")
    held = {name: value for name, value in params(tmp_path / "run").items() if not name.startswith("common/")}
    assert all(value.shape[0] == 3 for value in held.values())
    assert not all(np.array_equal(value[0], value[1]) for value in held.values())
    assert len(summary["agents"]) == 3
    assert set(summary["baselines"]) == {"independent", "average_once"}
    assert trained(tmp_path / "run").stacked


def test_the_resolved_configuration_names_who_coordinates() -> None:
    base = tomllib.loads(TOML.format(rounds=2))
    for changes in (
        RING,
        ONE_WAY,
        [*TREE, EDGES],
        [*ALONE, "federation.topology={name='time_varying', graphs=['ring', 'star']}"],
    ):
        experiment = build(load(base, changes))
        again = build(load(tomllib.loads(dump(experiment.config))))
        assert again.config == experiment.config
        assert again.coordination == experiment.coordination
    assert build(load(base, ONE_WAY)).config.federation.mixing == {"name": "column_stochastic"}
    assert cite(build(load(base, [*TREE, EDGES])).coordination.topology.tree)


def test_the_optimiser_of_upper_servers_comes_from_the_file(config: Path) -> None:
    roots = []
    for changes in ([], ["federation.global_optimizer={name='fedavg', learning_rate=0.5}"]):
        experiment = build(load(config, [*TREE, RARELY, *changes]))
        assert build(experiment.config).config == experiment.config
        simulation = simulation_of(experiment, experiment.methods[0])
        run_state = simulation.init(0)
        for _ in range(3):  # the root has merged once
            run_state, _ = simulation.round(run_state)
        roots.append(np.asarray(run_state.server.params["q"]))
    assert np.abs(roots[0]).max() > 0
    np.testing.assert_allclose(roots[1], roots[0] / 2, rtol=1e-6)


def test_the_size_of_blocks_comes_from_the_file(config: Path) -> None:
    for given, size in (("federation.block=3", 3), ("federation.block=5", 5)):
        experiment = build(load(config, ["federation.agents=4", "fleet.slip=0.1", given]))
        assert simulation_of(experiment, experiment.methods[0]).block == min(size, 4)


WRONG = [
    ("federation.topology=rung", ["federation.topology.name is 'rung'", "Did you mean 'ring'?"]),
    ("federation.mixing=metropolis", ["federation.mixing is 'metropolis'", "neighbours", "federation.topology"]),
    ("federation.consensus_steps=3", ["federation.consensus_steps is 3", "neighbours"]),
    ("federation.block=0", ["federation.block is 0", "1 or more"]),
    ("federation.block=100000", ["block is 100000", "exact"]),
    ("federation.consensus_steps=0", ["federation.consensus_steps is 0", "1 or more"]),
    ("federation={agents=3, topology='ring', server_optimizer='fedavgm'}", ["server_optimizer", "needs a server"]),
    (
        f"federation={{agents=3, {EDGES.partition('.')[2]}, global_optimizer='fedavgm'}}",
        ["global_optimizer", "periods"],
    ),
    ("federation.global_optimizer=fedavgm", ["federation.global_optimizer is 'fedavgm'", "federation.hierarchy"]),
    (
        "federation={agents=3, topology='ring', stages=[{name='error_feedback', stages=['sign']}]}",
        ["error_feedback(sign())", "no contraction", "would add it twice, which diverges"],
    ),
    ("federation={agents=3, topology='ring', stages=['sign'], gamma=1.5}", ["gamma is 1.5", "the bound is"]),
    ("federation={agents=3, topology='ring', gamma=0.5}", ["gamma is 0.5", "Leave it out, or compress"]),
    ("federation={agents=3, gamma=0.5}", ["federation.gamma is 0.5", "neighbours"]),
    ("federation={agents=3, topology='ring', payload='gradient'}", ["federation.payload", "needs a server"]),
    (
        "federation={agents=3, topology='ring', hierarchy={name='tree', branching=[2]}}",
        ["federation.topology and federation.hierarchy", "Leave one"],
    ),
    ("federation={agents=3, topology='ring', aggregator='median'}", ["median()", "without a server"]),
    ("federation={agents=3, topology='torus'}", ["torus", "3 agents"]),
    (
        "federation={agents=3, topology='ring', gossip={name='gradient_tracking', learning_rate=0.1}}",
        ["gradient_tracking", "add_correction"],
    ),
    ("federation={agents=3, topology={name='ring', directed=true}}", ["metropolis()", "push_sum()"]),
    ("federation.hierarchy={name='tree', branching=[2], periods=[2, 4]}", ["periods is [2, 4]", "Begin with 1"]),
    ("federation.hierarchy={name='given_tree', parents=[[0, 0]]}", ["parents[0]", "3 nodes"]),
    ("federation={agents=3, topology='ring'}", ["evaluation.held_out is 2", "its own policy"]),
    (f"learner={{name='personal', local=['actor'], learner={NETWORK}}}", ["evaluation.held_out is 2"]),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[change for change, _ in WRONG])
def test_what_makes_no_sense_is_refused_when_it_is_built(change: str, said: list[str]) -> None:
    base = tomllib.loads(TOML.format(rounds=2)) | {"baselines": {}}
    with pytest.raises(FedrlError) as caught:
        build(load(base, [change]))
    for words in said:
        assert words in str(caught.value)


def test_keys_that_exclude_each_other_are_a_fault_of_the_configuration() -> None:
    base = tomllib.loads(TOML.format(rounds=2))
    with pytest.raises(ConfigError, match=r"federation\.server_optimizer is 'fedadam'"):
        load(base, ["federation.topology=ring", "federation.server_optimizer=fedadam"])


def test_the_way_down_is_compressed_and_told_of(config: Path, tmp_path: Path) -> None:
    given = [*TREE, "federation.down_stages=['sign']", "federation.selection={name='uniform', cohort=6}"]
    _, lines = ran(config, tmp_path / "down", *given)
    one_seed = [record for record in lines if record["seed"] == 0 and record["round"] > 0]
    whole, coded = 1 + 4 + 4 * 16, 1 + 4 + 2 + 4
    for record in one_seed:
        late = record["whole_copies"]
        assert record["bytes_down"] == late * whole + (6 - late) * coded
    assert one_seed[0]["whole_copies"] == 6
    assert 0 < one_seed[1]["whole_copies"] < 6
    made = build(load(config, given))
    again = build(load(tomllib.loads(dump(made.config))))
    assert again.federation == made.federation
    assert again.federation.down_stages == made.federation.down_stages != ()
    assert any("1802.04434" in source for source in cite(made.federation))


def test_what_is_saved_is_what_agents_hold(config: Path, tmp_path: Path) -> None:
    ran(config, tmp_path / "down", *TREE, "federation.down_stages=[{name='top_k', fraction=0.05}]")
    saved = params(tmp_path / "down")["seed0/q"]
    experiment = build(load(config, [*TREE, "federation.down_stages=[{name='top_k', fraction=0.05}]"]))
    with simulation_of(experiment, experiment.methods[0]) as simulation:
        run_state = simulation.init(experiment.config.seed_list[0])
        for _ in range(ROUNDS):
            run_state, _ = simulation.round(run_state)
    np.testing.assert_array_equal(saved, run_state.server.down.held["q"])
    assert not np.array_equal(saved, run_state.server.params["q"])


def test_down_stages_need_a_server(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"down_stages is .*needs a server"):
        load(config, [*RING, "federation.down_stages=['sign']"])
