"""The JSON Schema accepts what fedrl accepts, and refuses what it can refuse of the rest."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from fedrl.config import as_dict, load
from fedrl.config.build import build
from fedrl.config.catalogue import components
from fedrl.config.schema import schema
from fedrl.core.errors import ConfigError
from fedrl.shipped import TEMPLATES, examples

ROOT = Path(__file__).parents[2]
FILES = [path for path in [*examples().values(), TEMPLATES / "experiment.toml"] if path.suffix == ".toml"]
FRAGMENTS = [
    pytest.param(code, id=f"{path.stem}-{i}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for i, code in enumerate(re.findall(r"```toml[^\n]*\n(.*?)```", path.read_text(), re.DOTALL))
    if "imports = " not in code and "[project." not in code  # names that are imported are unknown to a schema
]
WRONG = [
    ("rounds = 0", "0 is less than the minimum"),
    ("rounds = 2.5", "2.5 is not of type 'integer'"),
    ("round = 5", "'round' was unexpected"),
    ("seeds = [0, -1]", "not valid under any"),
    ("environment = 'cartpol'", "not valid under any"),
    ("environment = {name = 'cartpole', max_steps = 0}", "not valid under any"),
    ("learner = {name = 'ppo', gamma = 1.5}", "not valid under any"),
    ("learner = {name = 'ppo', gama = 0.9}", "not valid under any"),
    ("learner = {name = 'ppo', network = {name = 'mlp', hidden = [0]}}", "not valid under any"),
    ("learner = {gamma = 0.9}", "not valid under any"),
    ("learner = 'personal'", "not valid under any"),
    ("learner = {name = 'ppo', optimizer = 'adam'}", "not valid under any"),
    ("federation = {agents = '2'}", "'2' is not of type 'integer'"),
    ("federation = {agents = 2, stages = 'sign'}", "'sign' is not of type 'array'"),
    ("federation = {agents = 2, stages = [{name = 'top_k', fraction = 2.0}]}", "not valid under any"),
    ("federation = {agents = 2, server_optimizer = {name = 'adam', learning_rate = 0.1}}", "not valid under any"),
    ("federation = {agents = 2, clock = {drop_out = 1.5}}", "not valid under any"),
    ("federation = {agents = 2, local_steps = 0}", "not valid under any"),
    ("fleet = {length = {rang = [0.1, 0.2]}}", "not valid under any"),
    ("baselines = {alone = true}", "'alone' was unexpected"),
    ("evaluation = {episodes = 0}", "0 is less than the minimum"),
]
SOUND = 'environment = "cartpole"\nlearner = "ppo"\nfederation = {agents = 2}\n'


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft7Validator:
    """Of the schema as it is printed."""
    found = json.loads(json.dumps(schema(), allow_nan=False))
    jsonschema.Draft7Validator.check_schema(found)
    return jsonschema.Draft7Validator(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_example_is_valid_as_written_and_with_all_defaults(path, validator):
    validator.validate(tomllib.loads(path.read_text()))
    validator.validate(json.loads(json.dumps(as_dict(build(load(path)).config))))


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_settings_of_the_documents_are_valid(fragment, validator):
    validator.validate(tomllib.loads(SOUND) | {"federation": {"agents": 2}} | _whole(tomllib.loads(fragment)))


def _whole(fragment):
    if "federation" in fragment:
        fragment["federation"] = {"agents": 2} | fragment["federation"]
    return fragment


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_what_is_wrong_is_refused_by_the_schema_and_by_fedrl(line, said, validator):
    data = tomllib.loads(SOUND) | tomllib.loads(line)
    messages = [error.message for error in validator.iter_errors(data)]
    assert any(said in message for message in messages), messages
    with pytest.raises(ConfigError):
        build(load({"name": "x"} | data))


@pytest.mark.parametrize("stage", ["mypkg.parts:halve", {"name": "mypkg.parts:halve", "factor": 0.25}])
def test_a_component_of_ones_own_is_not_refused(stage, validator):
    validator.validate(tomllib.loads(SOUND) | {"federation": {"agents": 2, "stages": [stage]}})


def test_every_component_and_every_parameter_is_in_the_schema():
    definitions = schema()["definitions"]
    for entry in components():
        there = set(definitions[f"{entry.kind}.{entry.name}"]["properties"])
        assert there == ({"name", *entry.signature.parameters} - {"environment"}), entry.name


def test_a_number_has_its_range_and_its_description():
    learner = schema()["definitions"]["learner.ppo"]["properties"]
    assert learner["clip"] | {"description": ""} == {
        "type": "number",
        "exclusiveMinimum": 0,
        "default": 0.2,
        "description": "",
    }
    assert "clip" not in learner["clip"]["description"]
    assert "probability ratio" in learner["clip"]["description"]
    assert learner["num_envs"]["minimum"] == 1
    assert learner["num_envs"]["type"] == "integer"
