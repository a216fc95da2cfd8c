"""Components of one's own: by reference, by import, from an installed package, and as objects of Python."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrl.config import Config, FederationConfig, dump, load
from fedrl.config.build import build
from fedrl.config.catalogue import fill
from fedrl.config.loading import as_dict, parse
from fedrl.core import imports
from fedrl.core.component import CATALOGUE, call_of
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.imports import importing, named, reference_to
from fedrl.environments import cartpole
from fedrl.learners import a2c
from fedrl.learners.parts.networks import network
from tests.support.own_parts import modules_in

NUMBERS = itertools.count()
FEDERATION = {"agents": 2}


@pytest.fixture(autouse=True)
def catalogue() -> Iterator[None]:
    """What a test adds to the catalogue is gone afterwards."""
    fill()
    before = dict(CATALOGUE)
    yield
    CATALOGUE.clear()
    CATALOGUE.update(before)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The ending of the names of modules that this test alone has."""
    ending = f"_r{os.getpid()}_{next(NUMBERS)}"
    monkeypatch.chdir(tmp_path)
    for name, text in (("a.csv", "1"), ("b.csv", "22")):
        (tmp_path / name).write_text(text)
    with modules_in(tmp_path, ending):
        yield ending


def tables(**given: Any) -> dict[str, Any]:
    return {"name": "own", "environment": "cartpole", "learner": "a2c", "federation": FEDERATION, **given}


def test_a_reference_builds_a_part_of_every_kind_and_is_written_as_it_was(own: str) -> None:
    parts = f"myparts{own}"
    data = tables(
        environment={"name": f"{parts}:short", "max_steps": 12},
        learner={"name": f"{parts}:learner", "learning_rate": 0.02},
        federation={**FEDERATION, "stages": [{"name": f"{parts}:halve", "factor": 0.25}]},
    )
    experiment = build(load(data))
    assert experiment.environment.max_steps == 12
    assert experiment.learner.samples == 8
    assert repr(experiment.federation.stages[0]) == "halve(factor=0.25)"
    text = dump(experiment.config)
    assert f'name = "{parts}:learner"' in text
    assert "learning_rate = 0.02" in text
    again = build(load(experiment.config))
    assert again.config == experiment.config
    assert again.federation == experiment.federation


def test_networks_and_optimisers_of_other_libraries_have_a_place_in_a_table(own: str) -> None:
    optimizer = {"name": "optax:adamw", "learning_rate": 0.001, "weight_decay": 0.1}
    data = tables(learner={"name": "a2c", "network": f"myparts{own}:linear", "optimizer": optimizer})
    resolved = build(load(data)).config.learner
    assert isinstance(resolved, dict)
    assert resolved["network"] == {"name": f"myparts{own}:linear", "scale": 0.1}
    assert resolved["optimizer"]["weight_decay"] == 0.1
    assert resolved["optimizer"]["b1"] == 0.9


def test_an_imported_module_gives_its_components_names(own: str) -> None:
    data = tables(imports=[f"myparts{own}"], federation={**FEDERATION, "stages": ["halve"]})
    experiment = build(load(data))
    assert repr(experiment.federation.stages[0]) == "halve()"
    assert experiment.config.imports == (f"myparts{own}",)


def test_bare_objects_are_written_by_a_reference_that_this_process_knows() -> None:
    environment = cartpole(max_steps=9)
    linear = network(lambda key, space, outputs, gain: jnp.zeros((outputs, *space.shape)), lambda w, x: w @ x)
    learner = a2c(environment, network=linear, optimizer=optax.chain(optax.clip(1.0), optax.adam(0.1)))
    config = Config(name="bare", environment=environment, learner=learner, federation=FederationConfig(agents=2))
    experiment = build(load(config))
    text = dump(experiment.config)
    assert "__main__:Network#" in text
    assert build(load(experiment.config)).config == experiment.config
    with importing(False):  # the same process has the objects, so nothing is imported
        assert build(load(experiment.config)).config == experiment.config
    given = as_dict(experiment.config)
    program = f"from fedrl.config import load; from fedrl.config.build import build\nbuild(load({given!r}))"
    done = _python(program)
    assert "was an object of another Python process" in done.stderr, done.stderr[-500:]


def test_equal_bare_objects_are_one_and_others_are_not() -> None:
    def made(rate: float) -> Any:
        return a2c(cartpole(), optimizer=optax.adam(rate))

    def name(rate: float) -> Any:
        learner = build(load(tables(learner=made(rate)))).config.learner
        return learner["optimizer"]["name"]  # type: ignore[index,call-overload]

    assert name(0.1) == name(0.1)
    assert name(0.1) != name(0.2)


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        ("myparts{}:lerner", ["Did you mean 'learner'?", "has no 'lerner'"]),
        ("myparts{}:broken", ["KeyError: 'sensor'", "line", "in broken"]),
        ("myparts{}:text", ["returned an object of the type str", "one of the type Learner"]),
        ("myparts{}:halve", ["a component of the kind stage", "needs a learner"]),
        ("myparts{}:jnp", ["of the type module", "needs to be a function or a class"]),
        ("nowhere{}:learner", ["there is no module 'nowhere", "Run the command where the module is"]),
        ("optax:adam", ["lacks 'learning_rate'"]),
    ],
)
def test_what_is_wrong_with_a_part_is_said(
    monkeypatch: pytest.MonkeyPatch, own: str, learner: str, said: list[str]
) -> None:
    # Without the folders of configurations that other tests of this process have read, fedrl's own examples among them.
    monkeypatch.setattr(imports, "_folders", [folder for folder in imports._folders if "src/fedrl" not in folder])
    with pytest.raises(ConfigError) as fault:
        build(load(tables(learner=learner.format(own))))
    for words in said:
        assert words in str(fault.value)
    assert "site-packages" not in str(fault.value)
    assert "src/fedrl" not in str(fault.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nosuchpackage", ["import nosuchpackage", "No module named 'nosuchpackage'"]),
        ("def f(:", ["line 1", "SyntaxError"]),
        ("def g():\n    return 1 / 0\ng()", ["line 2, in g", "ZeroDivisionError"]),
        ("import sys\nsys.exit(3)", ["SystemExit"]),
    ],
)
def test_a_module_that_fails_shows_its_own_lines(own: str, tmp_path: Path, text: str, said: list[str]) -> None:
    (tmp_path / f"bad{own}.py").write_text(text)
    with pytest.raises(ConfigError) as fault:
        load(tables(imports=[f"bad{own}"]))
    assert f"importing bad{own} failed" in str(fault.value)
    for words in said:
        assert words in str(fault.value)
    assert "Did you mean" not in str(fault.value)


def test_modules_beside_the_configuration_are_found(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = tmp_path / "elsewhere"
    beside.mkdir()
    (beside / f"beside{own}.py").write_text("VALUE = 7")
    (beside / "experiment.toml").write_text(
        f'imports = ["beside{own}"]\nenvironment = "cartpole"\nlearner = "a2c"\nfederation = {{agents = 2}}\n'
    )
    load(beside / "experiment.toml")
    assert sys.modules[f"beside{own}"].VALUE == 7


def test_an_installed_package_adds_components_and_a_broken_one_is_named(tmp_path: Path) -> None:
    for package, text in (
        (
            "good",
            "import fedrl\nfrom fedrl.aggregators import mean\n"
            "@fedrl.component('aggregator')\ndef goodmean():\n    '''Build it.'''\n    return mean()\n",
        ),
        ("bad", "raise OSError('no licence')"),
    ):
        (tmp_path / f"{package}plugin.py").write_text(text)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[fedrl.components]\n{package} = {package}plugin\n")
    found = _python(
        "from fedrl.config import catalogue\nprint(catalogue.build('aggregator', 'goodmean', 'x'))", tmp_path
    )
    assert found.stdout.strip() == "goodmean()", found.stderr[-500:]
    missing = _python(
        "from fedrl.config import catalogue\ncatalogue.build('aggregator', 'median', 'x')\n"
        "import sys; assert 'goodplugin' not in sys.modules\n"
        "catalogue.build('aggregator', 'nomean', 'x')",
        tmp_path,
    )
    assert "'nomean', which is no known aggregator" in missing.stderr
    assert "The plugin bad of bad can't be imported." in missing.stderr
    assert "no licence" in missing.stderr


def test_references_find_what_they_name() -> None:
    assert reference_to(np.hypot).endswith(":hypot")
    assert named(reference_to(textwrap.dedent), "key") is textwrap.dedent

    def scaled(factor: float) -> Any:
        return lambda x: factor * x

    one, other = reference_to(scaled(1.0)), reference_to(scaled(2.0))
    assert one != other
    assert named(one, "key")(3.0) == 3.0
    assert named(other, "key")(3.0) == 6.0


def test_five_unlike_sites_are_a_dozen_lines(own: str, tmp_path: Path) -> None:
    text = f"""
rounds = 2
seeds = 1
environment = {{name = "mysite{own}:Building", max_steps = 20, insulated = true}}
learner = {{name = "a2c", num_envs = 2, num_steps = 8}}

[federation]
aggregator = "mean"

[fleet]
data = ["a.csv", "b.csv", "a.csv", "b.csv", "a.csv"]
capacity = [3, 4.5, 2, 8, 5.5]
"""
    assert len(text.strip().splitlines()) <= 12
    (tmp_path / "five.toml").write_text(text)
    experiment = build(load(tmp_path / "five.toml"))
    assert experiment.config.federation.agents == 5
    call = call_of(experiment.environment)
    assert call is not None
    assert call.arguments["options"] == {"insulated": True}
    instances = experiment.environment.open(experiment.fleet, 1)  # type: ignore[union-attr]
    seen = instances.reset(range(5))
    instances.close()
    assert seen[:, 0].tolist() == [1, 2, 1, 2, 1]  # the size of each site's file
    assert seen[:, 1].tolist() == [3.0, 4.5, 2.0, 8.0, 5.5]
    again = build(parse(_tables_of(dump(experiment.config))))
    assert again.config == experiment.config


@pytest.mark.parametrize(
    ("environment", "fleet", "said"),
    [
        ({"name": "mysite{}:Building", "max_steps": 5, "data": "a.csv"}, {}, "missing 1 required positional argument"),
        ({"name": "mysite{}:Building", "data": "a.csv", "capacity": 1.0}, {}, "has no time limit"),
        ({"name": "mysite{}:Building", "max_steps": 5, "colour": 1}, {}, "has no argument 'colour'"),
        ({"name": "mysite{}:Building", "max_steps": 5, "data": "no.csv", "capacity": 1.0}, {}, "No such file"),
        ({"name": "mysite{}:building", "max_steps": 5, "data": "no.csv"}, {}, "No such file"),
        ({"name": "mysite{}:Building", "max_steps": 5, "capacity": 1.0}, {"data": ["a.csv"]}, "list of 1 values"),
        (
            {"name": "mysite{}:Building", "max_steps": 5, "capacity": 1},
            {"data": "a.csv", "capacity": [1, 2, 3]},
            "shape",
        ),
        ({"name": "mysite{}:Building", "max_steps": 5, "capacity": 1.0}, {"data": {"x": [1]}}, "names a distribution"),
        ({"name": "myparts{}:text", "environment": 1}, {}, "returned an object of the type str"),
    ],
)
def test_what_is_wrong_with_an_environment_is_said(own: str, environment: Any, fleet: Any, said: str) -> None:
    given = {**environment, "name": environment["name"].format(own)}
    with pytest.raises(ConfigError, match=said):
        build(load(tables(environment=given, fleet=fleet)))


def test_held_out_environments_of_texts_are_refused(own: str) -> None:
    environment = {"name": f"mysite{own}:Building", "max_steps": 5, "capacity": 1.0}
    with pytest.raises(ConfigError, match="values that are no numbers have none"):
        build(load(tables(environment=environment, fleet={"data": ["a.csv", "b.csv"]}, evaluation={"held_out": 2})))


def test_texts_are_not_reported_as_numbers(own: str) -> None:
    environment = {"name": f"mysite{own}:Building", "max_steps": 5, "capacity": 1.0}
    rule = {"name": "weight_by_environment", "names": ["data"]}
    given = tables(
        environment=environment, fleet={"data": ["a.csv", "b.csv"]}, federation={"agents": 2, "aggregator": rule}
    )
    with pytest.raises(UnsoundError, match="values of the parameter are no numbers"):
        build(load(given))


def _tables_of(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


def _python(program: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ)
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(path), *filter(None, [env.get("PYTHONPATH")])])
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("environment", "fleet", "words"),
    [
        ({"name": ["cartpole"]}, {}, "environment.name is .*a string"),
        ({"name": {}}, {}, "environment.name is .*a string"),
        ({"settings": 3}, {}, "environment.settings is 3"),
        ({"options": "x"}, {}, "environment.options is 'x'"),
        ({}, {"size": {"range": []}}, "fleet.size"),
        ({}, {"size": {"grid": []}}, "fleet.size"),
    ],
)
def test_a_wrong_type_is_one_sentence(environment: dict[str, Any], fleet: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(load(tables(environment={"name": "gymnasium:Wrapper", **environment}, fleet=fleet)))


def test_a_module_that_is_loaded_again_is_used_as_it_is_now(own: str, tmp_path: Path) -> None:
    data = tables(environment=f"myparts{own}:short")
    first = build(load(data)).environment
    source = tmp_path / f"myparts{own}.py"
    source.write_text(source.read_text().replace("max_steps=10", "max_steps=1100"))
    importlib.reload(sys.modules[f"myparts{own}"])
    again = build(load(data)).environment
    assert (first.max_steps, again.max_steps) == (10, 1100)
    assert first != again


def test_an_argument_may_have_a_name_that_gymnasium_uses(own: str, tmp_path: Path) -> None:
    (tmp_path / f"named{own}.py").write_text(
        f"from mysite{own} import Building\n\n\nclass Room(Building):\n"
        "    def __init__(self, id):\n        super().__init__('a.csv', float(id))\n"
    )
    experiment = build(load(tables(environment={"name": f"named{own}:Room", "max_steps": 5}, fleet={"id": [3, 4]})))
    instances = experiment.environment.open(experiment.fleet, 1)  # type: ignore[union-attr]
    assert instances.reset([0, 1])[:, 1].tolist() == [3.0, 4.0]
    instances.close()
