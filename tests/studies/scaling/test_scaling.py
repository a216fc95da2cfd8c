"""A whole measurement: its folder, its page, its table, its errors; with real processes and with made-up ones."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

import fedrl
from fedrl import ConfigError, RunError, ScaleResult
from fedrl.aggregators import mean
from fedrl.cli import app, main
from fedrl.core.component import CATALOGUE
from fedrl.studies.scaling.prober import Prober
from fedrl.studies.scaling.progress import scale_table
from fedrl.studies.scaling.records import Probe, value_in
from tests.cli.test_widths import check_whole
from tests.report.test_report import Page
from tests.studies.scaling.test_measure import CORRIDOR

Answer = Callable[[int], dict[str, Any]]


def made_answer(agents: int) -> dict[str, Any]:
    """Rounds of 2 ms and 0.1 ms for each agent, with a tenth of the memory and bytes of a real one."""
    return {
        "state": "measured",
        "rounds": 8,
        "round_s": 0.002 + 1e-4 * agents,
        "round_low_s": 0.001 + 1e-4 * agents,
        "round_high_s": 0.003 + 1e-4 * agents,
        "agents_compute_s": 1e-4 * agents,
        "server_compute_s": 0.002,
        "steps_per_second": 16 * agents / (0.002 + 1e-4 * agents),
        "bytes_up": 72.0 * agents,
        "bytes_down": 68.0 * agents,
        "messages_up": float(agents),
        "messages_down": float(agents),
        "latency_s": None,
        "memory_bytes": 40_000_000 + 1000 * agents,
        "rejected": 0,
        "start_s": 1.0,
        "compiled_s": 0.0,
        "machine": {"platform": "cpu", "devices": 2, "jax": "1"},
    }


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Let processes answer at once, by a function of the number of agents."""

    def by(answer: Answer) -> None:
        def made(self: Prober, agents: int) -> dict[str, Any] | None:
            return None if self.stop.is_set() else answer(agents)

        monkeypatch.setattr(Prober, "_answer", made)

    return by


@pytest.fixture
def result(answering: Callable[[Answer], None], tmp_path: Path) -> ScaleResult:
    answering(lambda agents: made_answer(agents) if agents < 2000 else {"state": "failed", "reason": "No memory."})
    return fedrl.scale(CORRIDOR, "round <= 500 ms", tmp_path / "out", verbose=0)


def test_the_folder_has_the_result_and_the_model_beside_every_measured_number(result: ScaleResult) -> None:
    assert result["state"] == "found"
    assert 1700 < result["agents"] < 2000 <= result["broken"] <= 1.1 * result["agents"]
    assert ScaleResult.read(result.folder) == result
    assert sorted(path.name for path in result.folder.iterdir()) == ["report.html", "scale.json"]
    assert [probe["agents"] for probe in result["probes"]] == sorted(probe["agents"] for probe in result["probes"])
    assert result["model"]["round"] == {"fixed": pytest.approx(0.002), "per_agent": pytest.approx(1e-4)}
    for probe in result["probes"]:
        assert ("model" in probe) == (probe["state"] == "measured")
        for name, said in probe.get("model", {}).items():
            assert said["value"] == pytest.approx(value_in(probe, name))
            assert said["error"] == pytest.approx(0.0, abs=1e-6)
    assert result["extrapolated"][0]["bytes"] == pytest.approx(14e6)
    assert repr(result) == f"<ScaleResult of {result.folder}: {result['agents']:,} agents>"


def test_the_page_shows_the_limit_the_model_and_every_number(result: ScaleResult) -> None:
    page = Page(result.folder / "report.html")
    assert set(page.charts) == {"scale-round", "scale-memory", "scale-bytes"}
    limit = page.line("scale-round", "limit, round <= 500 ms")
    assert limit["y"] == [0.5, 0.5]
    kept = page.line("scale-round", "keeps the limit")
    measured = [probe for probe in result["probes"] if probe["state"] == "measured"]
    assert kept["x"] == [probe["agents"] for probe in measured if probe["holds"]]
    line = page.line("scale-bytes", "cost model")
    assert line["y"] == pytest.approx([140 * k for k in line["x"]])
    for axis in ("xaxis", "yaxis"):
        assert all(page.charts[name]["layout"][axis]["type"] == "log" for name in page.charts)
    first = [row[0] for row in page.rows]
    for probe in result["probes"]:
        assert f"{probe['agents']:,}" in first
    assert "1,000,000 (extrapolated)" in first
    assert f"{result['broken']:,} agents, failed: No memory." in page.text
    assert "round = 2 ms + 0.1 ms K" in page.text


def test_its_page_is_written_again_by_fedrl_report(result: ScaleResult, tmp_path: Path) -> None:
    page, other = result.folder / "report.html", tmp_path / "other.html"
    before = page.read_bytes()
    page.write_text("damaged")
    for arguments, path in (([], page), (["--out", str(other)], other)):
        told = CliRunner().invoke(app, ["report", str(result.folder), *arguments])
        assert (told.exit_code, told.stdout) == (0, f"{path}\n")
        assert path.read_bytes() == before


def test_a_damaged_file_is_refused_with_the_key_that_it_lacks(tmp_path: Path) -> None:
    for content, said in (("{}", "it has no agents"), ("{", "is damaged")):
        (tmp_path / "scale.json").write_text(content)
        with pytest.raises(RunError, match=rf"scale\.json.+{said}.+Measure again in another folder"):
            ScaleResult.read(tmp_path)


def test_a_notebook_and_a_figure_show_it_too(result: ScaleResult) -> None:
    assert f"{result['agents']:,} agents keep round" in result._repr_html_()
    assert {trace.name for trace in result.plot("memory").data} >= {"cost model", "keeps the limit"}
    with pytest.raises(ConfigError, match="quantity is 'rounds'"):
        result.plot("rounds")


def test_the_table_has_whole_numbers_at_every_width(result: ScaleResult) -> None:
    probes: list[Probe] = result["probes"]
    expected = [f"{probe['agents']:,}" for probe in probes]
    check_whole(scale_table(result.scale, "report.html"), expected, added="1 2 3 4 more column columns report.html :")


def test_nothing_that_fits_is_told(answering: Callable[[Answer], None], tmp_path: Path) -> None:
    answering(made_answer)
    found = fedrl.scale(CORRIDOR, "memory <= 1 MB", tmp_path / "out", verbose=0)
    assert (found["state"], found["agents"], found["broken"]) == ("none", None, 1)
    assert (
        "No measured number of agents keeps memory <= 1 MB; the smallest was 1."
        in Page(tmp_path / "out" / "report.html").text
    )
    assert repr(found).endswith(": no number of agents found>")


def test_without_a_limit_given_numbers_or_multiples_of_the_configured_one_are_measured(
    answering: Callable[[Answer], None], tmp_path: Path
) -> None:
    answering(made_answer)
    found = fedrl.scale(CORRIDOR, out=tmp_path / "a", verbose=0)
    assert [probe["agents"] for probe in found["probes"]] == [10, 40, 160]
    assert (found["limit"], found["state"], found["agents"]) == (None, "measured", None)
    found = fedrl.scale(CORRIDOR, out=tmp_path / "b", agents=[50, 5, 5], verbose=0)
    assert [probe["agents"] for probe in found["probes"]] == [5, 50]
    alone = fedrl.scale(CORRIDOR, out=tmp_path / "c", agents=[5], verbose=0)
    assert (alone["model"], alone["extrapolated"]) == ({}, [])


def test_a_search_that_ends_early_says_why(answering: Callable[[Answer], None], tmp_path: Path) -> None:
    answering(made_answer)
    found = fedrl.scale(CORRIDOR, "round <= 1 s", tmp_path / "a", most_probes=2, verbose=0)
    assert (found["state"], found["agents"], found["broken"]) == ("open", 40, None)
    assert found["notes"] == ["The search ended after 2 measurements."]
    found = fedrl.scale(CORRIDOR, "round <= 1 s", tmp_path / "b", most_agents=100, verbose=0)
    assert (found["agents"], found["notes"]) == (100, ["The search ended at the largest number of agents, 100."])


def test_an_interruption_keeps_what_was_measured(answering: Callable[[Answer], None], tmp_path: Path) -> None:
    def answer(agents: int) -> dict[str, Any]:
        if agents == 40:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return made_answer(agents)

    answering(answer)
    found = fedrl.scale(CORRIDOR, "round <= 500 ms", tmp_path / "out", verbose=0)
    assert (found["state"], found["agents"]) == ("interrupted", 40)
    assert json.loads((tmp_path / "out" / "scale.json").read_text())["state"] == "interrupted"
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("refused", "limit", "said"),
    [
        (range(10, 11), "round <= 1 s", "^it is a wrong number"),
        (range(11, 9999), "round <= 1 s", r"^federation.agents = 40: it is .* can't grow"),
    ],
)
def test_a_number_of_agents_that_cannot_change_is_an_error_and_leaves_no_folder(
    answering: Callable[[Answer], None], tmp_path: Path, refused: range, limit: str, said: str
) -> None:
    refusal = {"state": "refused", "reason": "it is a wrong number."}
    answering(lambda agents: dict(refusal) if agents in refused else made_answer(agents))
    with pytest.raises(ConfigError, match=said):
        fedrl.scale(CORRIDOR, limit, tmp_path / "out", verbose=0)
    assert not (tmp_path / "out").exists()


def test_wrong_input_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    for arguments, said in (
        ({"limit": "round <= 1"}, "the number has no unit"),
        ({"agents": [0]}, "agents has 0"),
        ({"verbose": 2}, "verbose is 2"),
        ({"timeout_s": 0.0}, "timeout_s is 0.0"),
        ({"overrides": ["fleet={slip=[0.1, 0.2]}"]}, r"fleet\.slip has 2 values"),
        ({"overrides": ["federation.agent=3"]}, "federation.agent"),
    ):
        with pytest.raises(ConfigError, match=said):
            fedrl.scale(CORRIDOR, **arguments)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="already holds a run or a study"):
        fedrl.scale(CORRIDOR, out=tmp_path, verbose=0)
    with pytest.raises(RunError, match=r"has no scale\.json"):
        ScaleResult.read(tmp_path)


def test_what_other_processes_cannot_have_is_refused_and_what_they_can_is_named_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def register(module: str) -> None:
        def rule_of_this_process() -> Any:
            return mean()

        rule_of_this_process.__module__ = module
        CATALOGUE.pop(("aggregator", "rule_of_this_process"), None)
        fedrl.component("aggregator")(rule_of_this_process)

    def told(**changes: Any) -> tuple[Any, Any]:
        asked: list[Prober] = []

        def answer(self: Prober, agents: int) -> dict[str, Any]:
            asked.append(self)
            return made_answer(agents)

        monkeypatch.setattr(Prober, "_answer", answer)
        fedrl.scale(CORRIDOR | changes, agents=[2], out=tmp_path / str(len(changes)), verbose=0)
        return asked[0].names, asked[0].tables

    known = dict(CATALOGUE)
    try:
        register("tests.support.short_examples")
        own = {"federation": {"agents": 10, "aggregator": "rule_of_this_process"}}
        assert told(**own)[0] == (("tests.support.short_examples",), ())
        register("__main__")
        with pytest.raises(ConfigError, match=r"^federation\.aggregator is .+can't import a script"):
            told(**own)
    finally:
        CATALOGUE.clear()
        CATALOGUE.update(known)
    numbers = {
        "fleet": {"slip": {"range": np.array([0.0, 0.2])}},
        "learner": {"name": "q_table", "num_envs": np.int64(2)},
    }
    tables = told(**numbers)[1]
    assert json.loads(json.dumps(tables)) == tables
    assert tables["fleet"] == {"slip": {"range": [0.0, 0.2]}}
    with pytest.raises(ConfigError, match="has no place in a configuration file"):
        told(learner={"name": "q_table", "num_envs": {1, 2}}, fleet={}, rounds=3)


def test_a_folder_with_a_measurement_is_not_written_to(result: ScaleResult) -> None:
    with pytest.raises(RunError, match=r"already holds scale\.json of a scale measurement"):
        fedrl.scale(CORRIDOR, out=result.folder, verbose=0)


def test_the_command_shows_the_table_or_only_json(
    answering: Callable[[Answer], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    answering(made_answer)
    (tmp_path / "x.toml").write_text(tomli_w.dumps(CORRIDOR))
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedrl", "scale", "x.toml", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    code, out, _ = called("--limit", "round <= 100 ms", "--out", "a")
    assert code == 0
    assert "agents keep round <= 100 ms, and" in out
    assert "1,000,000 agents, extrapolated: round 1 min 40 s" in out
    code, out, err = called("--limit", "round <= 100 ms", "--agents", "10,20", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["state"] == "found"
    assert len(list((tmp_path / "runs").glob("corridor-scale-*/scale.json"))) == 1
    code, out, err = called("--limit", "round <= 1 ms", "--quiet")
    assert (code, out) == (3, "")
    assert err.startswith("No measured number of agents keeps round <= 1 ms")
    code, _, err = called("--agents", "10,x")
    assert code == 2
    assert err == "error: --agents is '10,x', and 'x' is no whole number. Write, for example, --agents 10,100,1000.\n"
    answering(lambda agents: {"state": "failed", "reason": "No memory."})
    code, _, err = called("--agents", "10", "--quiet")
    assert (code, err) == (1, "error: No memory.\n")


def test_real_processes_find_what_the_bytes_of_a_message_say(tmp_path: Path) -> None:
    """140 bytes go to and from an agent: so 1,500 are those of ten."""
    found = fedrl.scale(CORRIDOR, "bytes <= 1500 B", tmp_path / "out", agents=[10, 11], verbose=0)
    assert (found["state"], found["agents"], found["broken"]) == ("found", 10, 11)
    assert found["model"]["bytes"] == {"fixed": 0.0, "per_agent": pytest.approx(140.0)}
    assert all(probe["memory_bytes"] > 100e6 for probe in found["probes"])
    assert found["machine"]["platform"] == "cpu"


def test_ctrl_c_ends_the_command_its_process_and_nothing_that_was_measured(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(tomli_w.dumps(CORRIDOR))
    command = [sys.executable, "-m", "fedrl", "scale", "x.toml", "--agents", "10,500000", "--out", "out", "--quiet"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stderr=subprocess.PIPE
    ) as process:
        while not (tmp_path / "out" / "scale.json").exists():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"Interrupted; what was measured so far is kept. It is in out.\n"
    found = ScaleResult.read(tmp_path / "out")
    assert (found["state"], [probe["agents"] for probe in found["probes"]]) == ("interrupted", [10])
