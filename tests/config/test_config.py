import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from fedrl.config import Config, as_dict, catalogue, dump, load
from fedrl.config.build import build
from fedrl.config.coerce import coerce
from fedrl.config.overrides import override
from fedrl.core.component import CATALOGUE, calls_in
from fedrl.core.errors import ConfigError

CARTPOLE: dict[str, Any] = {
    "name": "cartpole",
    "environment": {"name": "cartpole"},
    "learner": {"name": "ppo"},
    "federation": {"agents": 4},
}

WRONG = [
    ("learner.clp=0.1", ["learner.clp is 0.1", "Did you mean 'clip'?"]),
    ("learner.clip=high", ["learner.clip is 'high'", "a number"]),
    ("learner.clip=true", ["learner.clip is true", "a number"]),
    ("learner.num_epochs=2.5", ["learner.num_epochs is 2.5", "a whole number"]),
    ("learner.name=pppo", ["learner.name is 'pppo'", "Did you mean 'ppo'?"]),
    ("learner.num_minibatches=3", ["[learner]", "num_minibatches is 3", "divisor"]),
    ("learner.network={name='mpl'}", ["learner.network.name is 'mpl'", "Did you mean 'mlp'?"]),
    ("learner.network={name='mlp', hidden=[64, 'x']}", ["learner.network.hidden[1] is 'x'", "a whole number"]),
    ("learner.optimizer=adam", ["learner.optimizer lacks 'learning_rate'", "Add learner.optimizer.learning_rate"]),
    ("rounds=-3", ["rounds is -3", "1 or more"]),
    ("rounds='many'", ["rounds is 'many'", "a whole number"]),
    ("round=3", ["round is 3", "Did you mean 'rounds'?"]),
    ("seeds=0", ["seeds is 0", "1 or more"]),
    ("seeds=[1, 1]", ["seeds is [1, 1]", "none twice"]),
    ("federation.agents=0", ["federation.agents is 0"]),
    ("federation.local_steps=[1, 2]", ["federation.local_steps is [1, 2]", "one number per agent (4)"]),
    ("federation.aggregator=meen", ["federation.aggregator.name is 'meen'", "Did you mean 'mean'?"]),
    ("federation.stages=['clap']", ["federation.stages[0].name is 'clap'", "Did you mean 'clip'?"]),
    ("federation.payload=deltas", ["payload is 'deltas'", "Did you mean 'delta'?"]),
    ("federation=3", ["federation is 3", "a table"]),
    ("fleet.lenght=1", ["[fleet]", "'lenght'", "Did you mean 'length'?"]),
    ("evaluation.episodes=0", ["evaluation.episodes is 0", "1 or more"]),
    ("baseline.independent=true", ["baseline is not a key", "Did you mean 'baselines'?"]),
    ("learner.optimizer=[]", ["[learner.optimizer]", "chain"]),
    ("environment={}", ["environment has no name", "cartpole"]),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[change for change, _ in WRONG])
def test_a_wrong_value_is_named_with_what_is_allowed(change: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(load(CARTPOLE, [change]))
    for words in said:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_section_is_named() -> None:
    with pytest.raises(ConfigError, match=r"federation.agents is missing"):
        load({**CARTPOLE, "federation": {}})


def test_a_missing_file_names_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "cartpole.toml").write_text("")
    with pytest.raises(ConfigError, match=r"cartpol.toml does not exist. Did you mean 'cartpole.toml'"):
        load(tmp_path / "cartpol.toml")


def test_a_folder_in_place_of_a_file_names_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "pole"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"pole is a folder, and a file is needed\. Name a TOML file\.$"):
        load(folder)
    (folder / "experiment.toml").touch()
    with pytest.raises(ConfigError, match=r"Name the file: .*pole/experiment\.toml\.$"):
        load(folder)
    (folder / "config.toml").touch()
    with pytest.raises(ConfigError, match=r"Continue the run in it with --resume .*pole, or repeat it from .*config"):
        load(folder)


def test_broken_toml_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("rounds = 3\nseeds = [")
    with pytest.raises(ConfigError, match=r"a.toml is not valid TOML.*"):
        load(tmp_path / "a.toml")


def test_an_experiment_without_a_name_is_called_as_its_file(tmp_path: Path) -> None:
    text = dump(load(CARTPOLE)).replace('name = "cartpole"\n', "", 1)
    (tmp_path / "poles.toml").write_text(text)
    assert load(tmp_path / "poles.toml").name == "poles"


def test_overrides_reach_into_components_given_by_name_alone() -> None:
    data: dict[str, Any] = {"learner": "ppo"}
    override(data, "learner.clip=0.1")
    override(data, "learner.network.hidden=[8, 8]")
    assert data == {"learner": {"name": "ppo", "clip": 0.1, "network": {"hidden": [8, 8]}}}


@pytest.mark.parametrize("text", ["learner.clip", "=3", "learner..clip=1", "a=[1", "learner.clip=0.1.2"])
def test_an_override_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        override({}, text)


def test_the_resolved_configuration_builds_the_same_experiment_and_resolves_to_itself() -> None:
    changes = [
        "learner.network={name='mlp', hidden=[8]}",
        "learner.optimizer=[{name='fedprox', strength=0.1}, {name='adam', learning_rate=0.01}]",
        "federation.stages=[{name='clip', norm=1.0}]",
        "federation.server_optimizer=fedavgm",
        "fleet.length={range=[0.4, 0.6]}",
    ]
    experiment = build(load(CARTPOLE, changes))
    again = build(load(tomllib.loads(dump(experiment.config))))
    assert again.federation == experiment.federation
    assert again.config == experiment.config
    assert as_dict(experiment.config)["learner"]["clip"] == 0.2  # a default, filled in
    assert "chain(fedprox(0.1), adam(0.01))" in repr(experiment.federation)


def test_components_may_be_given_as_objects() -> None:
    from fedrl.environments import cartpole
    from fedrl.learners import ppo

    environment = cartpole(max_steps=100)
    given = load({**CARTPOLE, "environment": environment, "learner": ppo(environment, clip=0.1)})
    written = load({**CARTPOLE, "environment": {"name": "cartpole", "max_steps": 100}}, ["learner.clip=0.1"])
    assert build(given).federation == build(written).federation


def test_an_object_without_a_constructor_call_is_refused() -> None:
    from fedrl.environments import cartpole
    from fedrl.learners import ppo

    altered = dataclasses.replace(ppo(cartpole()))
    with pytest.raises(ConfigError, match=r"was not built by a component.*@fedrl.component"):
        load({**CARTPOLE, "learner": altered})


@pytest.mark.parametrize("kind", sorted({c.kind for c in catalogue.components()}))
def test_every_component_without_required_parameters_survives_the_round_trip(kind: str) -> None:
    from fedrl.environments import gridworld, navigation

    for entry in catalogue.components(kind):
        # The critic of mappo reads an overview, which a world has.
        world = navigation() if entry.name == "mappo" else gridworld("S.G")
        given = {"environment": world} if kind == "learner" else {}
        parameters = entry.signature.parameters.values()
        if any(p.kind is p.VAR_POSITIONAL or (catalogue.required(p) and p.name not in given) for p in parameters):
            continue
        built = catalogue.build(kind, {"name": entry.name}, kind, given)
        table = catalogue.table_of(built, list(given.values()))
        again = catalogue.build(kind, tomllib.loads(_toml(table)), kind, given)
        assert [call.digest for call in calls_in(again)] == [call.digest for call in calls_in(built)], entry.name


def _toml(table: dict[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps(table)


def test_the_catalogue_lists_every_room() -> None:
    catalogue.fill()
    kinds = {kind for kind, _ in CATALOGUE}
    assert {"environment", "learner", "aggregator", "stage", "network", "optimizer", "server_optimizer"} <= kinds


@pytest.mark.parametrize(
    ("value", "annotation", "made"),
    [
        (3, float, 3.0),
        ([1, 2], Sequence[int], (1, 2)),
        ([1, 2], int | tuple[int, ...], (1, 2)),
        ([0.5, 1], tuple[float, float], (0.5, 1.0)),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ("b", Literal["a", "b"], "b"),
        (None, int | None, None),
    ],
)
def test_a_value_takes_its_declared_type(value: Any, annotation: Any, made: Any) -> None:
    assert coerce(value, annotation, "x") == made
    assert type(coerce(value, annotation, "x")) is type(made)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (True, int),
        (True, float),
        (1, bool),
        (1.0, int),
        ("1", float),
        (float("nan"), float),
        ([1], tuple[int, int]),
        (3, Sequence[int]),
        ([], dict[str, int]),
        ("c", Literal["a", "b"]),
        ("c", int | bool),
    ],
)
def test_a_value_of_another_type_is_refused(value: Any, annotation: Any) -> None:
    with pytest.raises(ConfigError, match=r"^x"):
        coerce(value, annotation, "x")


def test_a_configuration_is_frozen_and_takes_keywords_only() -> None:
    config = load(CARTPOLE)
    with pytest.raises(AttributeError):
        config.rounds = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Config("name")  # type: ignore[call-arg,misc]
