"""`fedrl examples`, `fedrl init`, `fedrl schema`, names of examples, and what the shell completes."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedrl.cli import main
from fedrl.cli.completion import components, experiments
from fedrl.config import load
from fedrl.config.build import build
from fedrl.config.catalogue import components as catalogued
from fedrl.config.parameters import parameters_of
from fedrl.core.component import Component
from fedrl.shipped import TEMPLATES, examples, purpose

TEMPLATE = (TEMPLATES / "experiment.toml").read_text()
HIDDEN = re.findall(r"^# \w+ = .*$", TEMPLATE, re.MULTILINE)
"""The keys that the template shows as comments."""
GRID = {"run": [], "explain": [], "sweep": ["--grid", "rounds=1,2"]}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """The command line in this process, in an empty folder: `(exit code, stdout, stderr)`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedrl", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
        else:
            code = 0
        printed = capsys.readouterr()
        return int(code or 0), printed.out, printed.err

    return run


def test_examples_are_listed_with_their_first_sentence(call):
    code, out, _ = call("examples")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == list(examples())
    assert lines[0].endswith("Ten agents, each with its own pole and cart, learn one policy that balances all poles.")
    assert all(purpose(path).endswith(".") for path in examples().values())


def test_an_example_is_printed_as_it_is(call):
    assert call("examples", "ring")[1] == examples()["ring"].read_text()


def test_an_example_is_copied_once(call, tmp_path):
    code, out, _ = call("examples", "cartpole", "--copy", "mine")
    assert code == 0
    assert "fedrl run mine/cartpole.toml" in out
    assert (tmp_path / "mine" / "cartpole.toml").read_text() == examples()["cartpole"].read_text()
    (tmp_path / "mine" / "cartpole.toml").write_text("mine")
    code, _, err = call("examples", "cartpole", "--copy", "mine")
    assert code == 2
    assert "mine/cartpole.toml exists already" in err
    assert (tmp_path / "mine" / "cartpole.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["examples", "cartpol"], "'cartpol' is not a shipped example. Did you mean 'cartpole'?"),
        (["examples", "--copy", "."], "--copy . needs the name of an example."),
        (["examples", "ring", "--copy", "file"], "file is a file. The example needs a folder."),
        (["init", "file"], "file is a file."),
        (["init", "pole.toml"], "pole.toml is the name of a file, and experiment.toml is written to a folder."),
        (["examples", "ring", "--copy", "my/ring.toml"], "Name the folder, for example my/ring."),
        (["run", "cartpol"], "cartpol does not exist. Did you mean 'cartpole'?"),
        (["run", "file"], "file is not valid TOML"),
        (["list", "poo"], "'poo' is neither a kind of component nor a component. Did you mean 'ppo'?"),
    ],
)
def test_a_wrong_name_is_one_sentence(call, tmp_path, arguments, said):
    (tmp_path / "file").write_text("?")
    code, _, err = call(*arguments)
    assert code == 2
    assert said in err


@pytest.mark.parametrize("command", ["run", "sweep", "explain"])
def test_a_shipped_example_is_taken_by_its_name_and_said(call, command):
    code, _, err = call(command, "gridworld", "--set", "learner.epsilon=2", *GRID[command])
    assert code == 2
    assert f"gridworld is the shipped example {examples()['gridworld']}, as there is no file of this name." in err
    assert "epsilon" in err.splitlines()[-1]  # the error, of what the example says


@pytest.mark.parametrize("command", ["run", "sweep", "explain"])
def test_a_file_wins_over_a_shipped_example_and_is_said(call, tmp_path, command):
    (tmp_path / "gridworld").write_text(examples()["gridworld"].read_text().replace('"rooms"', '"nowhere"'))
    code, _, err = call(command, "gridworld", *GRID[command])
    assert code == 2
    assert "gridworld is the file of this name here, not the shipped example." in err
    assert "nowhere" in err.splitlines()[-1]


def test_a_quiet_run_does_not_say_which_file_it_took(call):
    assert "shipped" not in call("run", "gridworld", "--set", "learner.epsilon=2", "--quiet")[2]


def test_a_folder_of_the_name_does_not_hide_the_example(call, tmp_path):
    (tmp_path / "cartpole").mkdir()
    code, out, err = call("explain", "cartpole", "--json")
    assert code == 0
    assert json.loads(out)["name"] == "cartpole"
    assert "is the shipped example" in err


def test_init_writes_an_experiment_that_builds_as_it_is(call, tmp_path):
    code, out, _ = call("init", "mine")
    assert code == 0
    assert "fedrl run mine/experiment.toml" in out
    assert build(load(tmp_path / "mine" / "experiment.toml")).methods[0].communicates
    assert call("init", "mine")[0] == 2


def test_init_writes_the_same_experiment_in_python(call, tmp_path):
    assert call("init", "mine", "--python")[0] == 0
    text = (tmp_path / "mine" / "experiment.py").read_text()
    scope: dict[str, Any] = {}
    exec(text.partition("summary =")[0].replace("fedrl.configure_jax()", ""), scope)
    assert build(load(scope["config"])).config == build(load(TEMPLATES / "experiment.toml")).config


@pytest.mark.parametrize("line", HIDDEN, ids=lambda line: line.split()[1])
def test_what_the_template_hides_is_right(line):
    config = build(load(tomllib.loads(TEMPLATE.replace(line, line.removeprefix("# "))))).config
    assert config != build(load(TEMPLATES / "experiment.toml")).config


def test_the_template_shows_more_than_it_uses():
    assert len(HIDDEN) >= 10


def test_schema_is_json(call):
    code, out, _ = call("schema")
    assert code == 0
    assert json.loads(out)["properties"]["rounds"]["minimum"] == 1


def test_list_of_a_component_shows_all_of_each_parameter(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = call("list", "ppo")
    assert code == 0
    assert re.search(r"gamma = 0.99 +a number from 0 to 1\n +Discount factor.\n", out)
    assert re.search(r"network = mlp\(\) +a component of the kind network\n", out)
    assert "Schulman et al. (2017), https://arxiv.org/abs/1707.06347" in out
    assert "environment" not in out.splitlines()[1]
    assert re.search(r"learning_rate +a number above 0, finite; needed", call("list", "sgd")[1])


def shipped_components() -> list[Component]:
    """The components of fedrl, without those that test files add when they are collected."""
    return [entry for entry in catalogued() if entry.build.__module__.startswith("fedrl.")]


def test_every_parameter_of_the_catalogue_has_a_description():
    assert len(shipped_components()) > 100
    bare = [f"{e.kind} {e.name}.{p.name}" for e in shipped_components() for p in parameters_of(e) if not p.text]
    assert bare == []


def test_list_shows_ranges(call):
    out = call("list", "learner")[1]
    assert "gamma = 0.99 (a number from 0 to 1)" in out


def test_what_the_shell_completes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.toml").touch()
    assert experiments("") == sorted(["my.toml", "deep/", *(n for n in examples() if not n.endswith(".py"))])
    assert experiments("car") == ["cartpole"]
    assert experiments("deep/") == ["deep/x.toml"]
    assert experiments("nowhere/") == []
    everything = {name for entry in shipped_components() for name in (entry.kind, entry.name)}
    assert everything - set(components("")) == set()
    assert components("pp") == ["ppo"]


def test_the_shell_is_answered_without_jax(tmp_path):
    """As bash asks, in a process of its own."""
    program = "import sys; from fedrl.cli import main\ntry: main()\nfinally: assert 'jax' not in sys.modules"
    asked = {"COMP_WORDS": "fedrl run grid", "COMP_CWORD": "2", "_FEDRL_COMPLETE": "complete_bash"}
    said = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | asked,
        cwd=tmp_path,
    )
    assert said.stderr == ""
    assert said.stdout.split() == ["gridworld"]


def test_completion_can_be_shown(call):
    assert "--install-completion" in call("--help")[1]
