"""What `fedrl.run` returns: the summary as a mapping, and with it the curves, the chart and the policy."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrl
from fedrl import ConfigError, RunError, RunResult
from fedrl.records.folder import RunFolder
from tests.support.made_policies import made_policy
from tests.support.made_runs import make_run
from tests.support.small import TOML

METHODS, ROUNDS = ("federated", "independent", "centralised", "average_once"), 6


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """That of a folder made up, with a measure in every round and greedy episodes in some."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "one", methods=METHODS, seeds=2, rounds=ROUNDS)
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for i, record in enumerate(lines):
        record.update(loss=None if record["round"] == 1 else record["loss"], measures={"success": i / 50})
        if "greedy" in record:
            record["greedy_measures"] = {"success": 1 - i / 50}
    # Seeds run side by side.
    lines.sort(key=lambda record: (record["round"], record["seed"]))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    (folder / "report.html").touch()
    return RunResult.read(folder)


def test_a_result_is_the_mapping_of_its_summary(result: RunResult) -> None:
    written = json.loads((result.folder / "summary.json").read_text())
    assert result == written
    assert result.summary == written
    assert json.dumps(result.summary)
    assert {**result} == written
    assert result["seeds"] == [0, 1]
    assert written == result
    assert result.get("nothing", 3) == 3
    assert len(result) == len(written)


def test_curves_have_a_row_for_each_round_with_what_the_record_says(result: RunResult) -> None:
    frame, records = result.curves(), RunFolder(result.folder).records()
    assert list(frame.columns[:6]) == ["method", "seed", "round", "environment_steps", "seconds", "return"]
    assert {"loss", "greedy", "success", "greedy_success", "bytes_up", "bytes_down"} <= set(frame.columns)
    assert len(frame) == len(records) == 2 * (3 * ROUNDS + 1)
    assert list(frame.method.unique()) == ["federated", "independent", "centralised", "average_once"]
    assert not frame.duplicated(["method", "seed", "round"]).any()
    assert frame.seed.dtype == frame["round"].dtype == frame.environment_steps.dtype == "int64"
    assert frame["return"].dtype == frame.success.dtype == "float64"
    rows = frame.set_index(["method", "seed", "round"])
    assert list(frame["round"][:ROUNDS]) == list(range(1, ROUNDS + 1))
    for record in records:
        row = rows.loc[(record["method"], record["seed"], record["round"])]
        greedy = float(np.mean(record["greedy"])) if "greedy" in record else None
        given = {"return": record["return"], "environment_steps": record["environment_steps"], "greedy": greedy}
        given |= {"seconds": record["seconds"], "success": record["measures"]["success"], "loss": record["loss"]}
        given |= {"greedy_success": record.get("greedy_measures", {}).get("success")}
        for name, value in given.items():
            assert np.isnan(row[name]) if value is None else row[name] == pytest.approx(value, rel=1e-12)


def test_a_missing_pandas_is_named_with_its_extra(result: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedrl\[pandas\]'.*fedrl export DIR --csv"):
        result.curves()


def test_the_chart_has_a_line_for_each_method_through_the_means_of_its_seeds(result: RunResult) -> None:
    figure, frame = result.plot(), result.curves()
    (line,) = (trace for trace in figure.data if trace.name == "federated" and trace.showlegend is not False)
    mean = frame[frame.method == "federated"].groupby("environment_steps")["return"].mean().dropna()
    assert dict(zip(line.x, line.y, strict=True)) == pytest.approx(mean.to_dict())
    assert line.line.color == "#0067a8"
    assert "theme:" not in figure.to_json()
    assert {"federated", "independent", "centralised"} <= {trace.name for trace in figure.data}
    assert result.plot("success").layout.yaxis.title.text.startswith("success")
    with pytest.raises(ConfigError, match=r"measure is 'succes', which is not measured here. Did you mean 'success'"):
        result.plot("succes")


def test_a_run_without_a_round_has_nothing_to_draw_and_no_rows(result: RunResult, tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    (tmp_path / "records.jsonl").touch()
    empty = RunResult(tmp_path, result.summary)
    with pytest.raises(ConfigError, match="nothing to draw: no round has a value of 'return'"):
        empty.plot()
    assert empty.curves().empty
    assert list(empty.curves().columns[:3]) == ["method", "seed", "round"]


def test_the_policy_is_that_of_the_folder(tmp_path: Path, result: RunResult) -> None:
    folder = made_policy(tmp_path / "poles", "softmax")
    policy = RunResult(folder, result.summary).policy(seed=1)
    observations = np.linspace(-0.1, 0.1, 40).reshape(10, 4)
    assert policy.seed == 1
    np.testing.assert_array_equal(policy.predict(observations), fedrl.load(folder, seed=1).predict(observations))


def test_a_notebook_shows_the_table_and_no_text_of_a_configuration_as_html(result: RunResult) -> None:
    shown = RunResult(result.folder, {**result.summary, "name": "<script>x</script>"})._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert str(result.folder) in shown
    for word in ("independent", "centralised", "report.html"):
        assert word in shown
    assert repr(result) == f"<RunResult of {result.folder}: return {result['final_return']['mean']:.4g}>"


def test_an_earlier_run_is_read_from_its_folder(result: RunResult, tmp_path: Path) -> None:
    assert RunResult.read(str(result.folder)) == result
    with pytest.raises(RunError, match="is not a run folder"):
        RunResult.read(tmp_path)
    (tmp_path / "config.toml").touch()
    with pytest.raises(RunError, match=r"has not ended. Continue it with fedrl run --resume"):
        RunResult.read(tmp_path)


def test_verbose_shows_what_the_command_line_shows_and_0_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small: dict[str, Any] = tomllib.loads(TOML.format(rounds=2)) | {"seeds": 1, "baselines": {}}
    made = fedrl.run(small, tmp_path / "silent", verbose=0)
    assert capsys.readouterr() == ("", "")
    assert made == json.loads((tmp_path / "silent" / "summary.json").read_text())
    assert made.folder == tmp_path / "silent"
    assert len(made.curves()) == 2
    fedrl.run(small, tmp_path / "shown")
    said, wrong = capsys.readouterr()
    assert wrong == ""
    assert "corridor: 3 agents, 1 seed, 2 rounds" in said
    assert 1 <= sum(", round " in line for line in said.splitlines()) <= 2
    assert "corridor: greedy returns" in said
    assert "run folder" in said
    assert all(c.isprintable() or c == "\n" for c in said)


def test_another_verbose_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="verbose is 7"):
        fedrl.run(tomllib.loads(TOML.format(rounds=2)), tmp_path / "loud", verbose=7)
    assert not (tmp_path / "loud").exists()
