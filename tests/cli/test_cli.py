import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from fedrl.cli import main
from fedrl.records.formatting import NOTHING
from tests.support.signals import send

TOML = """
name = "corridor"
rounds = 6
seeds = 1

[environment]
name = "gridworld"
layout = "S.G"
max_steps = 10

[fleet]
slip = 0.0

[learner]
name = "q_table"
num_envs = 2
num_steps = 8
learning_rate = 0.5
epsilon = 0.5

[federation]
agents = 2

[evaluation]
film = false
"""


class Said(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Said]

COMMANDS = ("run", "sweep", "report", "list", "examples", "init", "schema", "explain", "evaluate", "export", "doctor")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["fedrl", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "120")
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        code = stopped.value.code
        return Said(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "corridor.toml"
    path.write_text(TOML)
    return path


@pytest.fixture(scope="module")
def folder(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fedrl import run

    out = tmp_path_factory.mktemp("runs") / "corridor"
    run(config, out)
    return out


def test_run_shows_the_outcome_and_where_it_is(call: Call, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = call("run", config, "--out", out, "--set", "rounds=2")
    assert said.code == 0, said.err
    assert str(out) in said.out
    assert str(out / "report.html") in said.out


def test_json_prints_the_summary_and_nothing_else(call: Call, config: Path, tmp_path: Path) -> None:
    said = call("run", config, "--out", tmp_path / "run", "--json", "--seeds", 2, "--set", "rounds=2")
    assert said.code == 0, said.err
    printed = json.loads(said.out)
    assert printed["seeds"] == [0, 1]
    assert printed == json.loads((tmp_path / "run" / "summary.json").read_text())


def test_quiet_prints_nothing(call: Call, config: Path, tmp_path: Path) -> None:
    said = call("run", config, "--out", tmp_path / "run", "--quiet", "--set", "rounds=1")
    assert said == Said(0, "", "")


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("run", ["--set", "learner.stepz=1"], "Did you mean 'num_steps'?"),
        ("run", ["--set", "rounds=-3"], "rounds is -3"),
        ("run", ["--set", "environment.name=gridword"], "Did you mean 'gridworld'?"),
        ("run", ["--seeds", "0"], "seeds is 0"),
        ("run", ["--resume", "nowhere"], "one of the two"),
        ("sweep", ["--grid", "rounds"], "not of the form key=value"),
        ("sweep", ["--grid", "rounds="], "has an empty value"),
        ("sweep", ["--grid", "rounds=1", "rounds=2"], "is given twice"),
        ("sweep", ["--grid", "rounds=1,1"], "the value 1 twice"),
        ("sweep", ["--grid", "rounds=1,0.2.3"], "is not a TOML value"),
        ("sweep", ["--grid", "learner.stepz=1"], "Did you mean 'num_steps'?"),
        ("sweep", ["--grid", "federation.stages.0.bits=1"], "no federation.stages with an entry 0. Add the list first"),
        ("sweep", [], "There is no grid"),
        ("sweep", ["--resume", "nowhere"], "one of the two"),
    ],
)
def test_wrong_input_is_one_sentence_with_exit_code_2(
    call: Call, config: Path, tmp_path: Path, command: str, arguments: list[str], words: str
) -> None:
    said = call(command, config, "--out", tmp_path / "made", *arguments)
    assert said.code == 2
    assert words in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not (tmp_path / "made").exists()


def test_explain_shows_what_would_leave_and_makes_nothing(
    call: Call, config: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stages = "federation.stages=[{name='lag', stages=[{name='hard_threshold', epsilon=0.1}]}]"
    said = call("explain", config, "--set", stages, "--set", "federation.selection={name='oort', cohort=1}")
    assert said.code == 0, said.err
    rows = {cells[0]: cells[1:5] for cells in (re.split(r"\s{2,}", line) for line in said.out.splitlines())}
    assert rows["value"] == ["agent", "server", "varies", "nothing"]
    assert rows["report/norm"] == ["agent", "server", "4", "nothing"]
    assert rows["silence"][2] == NOTHING
    assert {"weight", "version", "size", "participation"} < set(rows)
    assert "Updates are aggregated where those of all agents are summed." in said.out
    assert list(tmp_path.iterdir()) == []


def test_explain_as_json_is_what_the_table_shows(call: Call, config: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    edges = "federation.hierarchy={name='tree', branching=[1], periods=[1, 2]}"
    said = call("explain", config, "--json", "--set", edges)
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert (found["name"], found["agents"], found["opens"]) == ("corridor", 2, "sums of subsets")
    ways = {(each["name"], each["sender"], each["to"]) for each in found["outgoing"]}
    assert {("value", "agent", "servers of level 1"), ("change", "servers of level 1", "root")} < ways
    assert all(each["size_bytes"] is None or each["size_bytes"] >= 0 for each in found["outgoing"])
    assert list(tmp_path.iterdir()) == []


def test_explain_refuses_what_a_run_would_refuse(call: Call, config: Path) -> None:
    said = call("explain", config, "--set", "federation.aggregator=medan")
    assert said.code == 2
    assert "Did you mean 'median'?" in said.err
    assert said.out == ""


def test_a_missing_file_has_exit_code_2(call: Call) -> None:
    said = call("run", "nowhere.toml")
    assert said.code == 2
    assert "nowhere.toml does not exist" in said.err


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [(["run", "--resume"], "run"), (["evaluate"], "run"), (["report"], "run"), (["sweep", "--resume"], "study")],
)
def test_a_folder_of_another_kind_has_exit_code_2(call: Call, tmp_path: Path, arguments: list[str], kind: str) -> None:
    said = call(*arguments, tmp_path)
    assert said.code == 2
    assert f"is not a {kind} folder" in said.err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("params.safetensors", b"x" * 50, "params.safetensors is damaged"),
        ("config.toml", b"name = ", "config.toml is not valid TOML"),
        ("config.toml", b"\xff\xfe", "config.toml is UTF-16"),
    ],
)
def test_a_damaged_folder_is_one_sentence_with_exit_code_2(
    call: Call, folder: Path, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / name).write_bytes(content)
    said = call("evaluate", damaged)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert words in said.err
    assert said.err.count("\n") == 1
    assert call("report", damaged).code == 0


def test_on_a_full_disk_a_report_is_one_sentence_and_not_a_part_of_a_page(
    call: Call, folder: Path, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        said = call("report", folder, "--out", tmp_path / "page.html")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"error: {tmp_path / 'page.html'} can't be written to (File too large). Free space on the disk, make the "
        "folder writable, or name another file with --out.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_study_in_which_all_agents_of_a_setting_left_ends_with_3(call: Call, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    said = call(
        "sweep", config, "--out", out, "--set", "rounds=3", "--set", "federation.clock={name='clock'}",
        "--grid", "federation.clock.availability_trace=[[0,0,1.5],[1,0,1.5]],[[0,0,1e9]]",
    )  # fmt: skip
    assert said.code == 3
    assert said.err == "A seed ended before its last round in setting 1; the report says why.\n"
    assert (out / "study.json").exists()


@pytest.mark.parametrize(
    ("command", "option", "thing"),
    [
        ("run", ["--set", "rounds=9"], "run"),
        ("run", ["--seeds", "2"], "run"),
        ("sweep", ["--grid", "rounds=1"], "study"),
        ("sweep", ["--target", "0"], "study"),
    ],
)
def test_what_is_resumed_is_resumed_as_it_is(
    call: Call, folder: Path, command: str, option: list[str], thing: str
) -> None:
    said = call(command, "--resume", folder, *option)
    assert said.code == 2
    assert option[0] in said.err
    assert f"Leave them out, or start a new {thing}." in said.err


@pytest.mark.parametrize(
    ("command", "options", "shown"),
    [
        ("run", [], "fedrl.sinks.display.silent"),
        ("sweep", ["--grid", "rounds=6,7"], "fedrl.studies.progress.silent"),
    ],
)
def test_an_interruption_has_exit_code_130_and_says_how_to_go_on(
    call: Call,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: list[str],
    shown: str,
) -> None:
    def interrupt(event: Any) -> None:
        if (event.get("seed"), event.get("round")) == (0, 2):  # once: seeds run side by side
            send()

    with monkeypatch.context() as patched:
        patched.setattr(shown, interrupt)
        said = call(command, config, *options, "--quiet", "--out", tmp_path / "stopped")
    assert said == Said(130, "", f"Interrupted. Continue with: fedrl {command} --resume {tmp_path / 'stopped'}\n")
    assert call(command, "--quiet", "--resume", tmp_path / "stopped") == Said(0, "", "")


def test_sweep_runs_the_grid_and_says_where_the_study_is(call: Call, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    grid = ["--grid", "federation.agents=2,4", "learner.learning_rate=0.5"]
    said = call("sweep", config, *grid, "--set", "rounds=2", "--target", "0.5", "--out", out)
    assert said.code == 0, said.err
    assert "setting 1 of 2: agents 2, learning_rate 0.5" in said.out
    assert "rounds to 0.5" in said.out
    assert str(out) in said.out
    again = call("sweep", out / "study.toml", "--out", tmp_path / "again", "--json")
    assert again.code == 0, again.err
    printed = json.loads(again.out)
    assert printed["grid"] == {"federation.agents": [2, 4], "learner.learning_rate": [0.5]}
    assert printed == json.loads((tmp_path / "again" / "study.json").read_text())


def test_report_compares_runs(call: Call, folder: Path, tmp_path: Path) -> None:
    said = call("report", folder, folder, "--out", tmp_path / "both.html")
    assert said.code == 0, said.err
    assert "<html" in (tmp_path / "both.html").read_text()


def test_list_shows_parameters_and_reference(call: Call) -> None:
    said = call("list", "learner")
    assert said.code == 0
    assert "clip = 0.2" in said.out
    assert "https://arxiv.org/abs/1707.06347" in said.out
    assert "cartpole" not in said.out


def test_list_shows_no_inner_life_of_python(call: Call) -> None:
    said = call("list").out
    assert "optimizer = adam(0.0025, max_norm=0.5)" in said
    assert "<" not in said.replace("<-", "").replace("<=", "")


def test_list_of_an_unknown_kind_names_the_kinds(call: Call) -> None:
    said = call("list", "lerner")
    assert said.code == 2
    assert "Did you mean 'learner'?" in said.err


def test_evaluate_prints_what_the_summary_says(call: Call, folder: Path) -> None:
    said = call("evaluate", folder, "--json")
    assert said.code == 0, said.err
    summary = json.loads((folder / "summary.json").read_text())
    assert json.loads(said.out)["seeds"]["0"] == pytest.approx([a["return"] for a in summary["agents"]])


def test_evaluate_films_an_episode(call: Call, folder: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.gif"
    said = call("evaluate", folder, "--render", film, "--agent", 1)
    assert said.code == 0, said.err
    assert "agent 1, seed 0, return 0.98" in said.out
    with Image.open(film) as frames:
        assert frames.n_frames == 3  # start, one step, goal


def test_evaluate_knows_its_agents(call: Call, folder: Path) -> None:
    said = call("evaluate", folder, "--agent", 2)
    assert said.code == 2
    assert "agents 0 to 1" in said.err


def test_doctor_fails_if_training_does(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrl.runs import selftest

    monkeypatch.setattr(selftest, "BEST", 0.5)
    said = call("doctor")
    assert said.code == 1
    assert "They do not learn" in said.out


def test_help_imports_no_jax() -> None:
    program = "import sys; from fedrl.cli import main\ntry: main()\nfinally: assert 'jax' not in sys.modules"
    said = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    for command in COMMANDS:
        assert command in said.stdout


def test_every_command_has_help(call: Call) -> None:
    for command in COMMANDS:
        said = call(command, "--help")
        assert said.code == 0
        assert "Usage" in said.out
