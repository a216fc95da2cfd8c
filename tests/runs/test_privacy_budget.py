"""Runs with a privacy budget: exact to the round, durable against kill -9, and refused if their ledger is not whole."""

import html
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.numpy
from rich.console import Console

from fedrl.cli import explain
from fedrl.config import load
from fedrl.config.build import build
from fedrl.config.experiment import InitConfig
from fedrl.core.errors import ConfigError, RunError
from fedrl.core.stage import Noise
from fedrl.records.charges import ChargeFile
from fedrl.records.table import row_of
from fedrl.report import write_report
from fedrl.runs.explain import explained
from fedrl.runs.privacy_statements import sentences
from fedrl.runs.run import resume, run
from fedrl.runs.spending import Account
from fedrl.sinks.display import plain
from fedrl.sinks.final_summary import privacy_lines
from fedrl.studies import sweep
from fedrl.studies.result import study_notices

ROUNDS, AGENTS = 6, 3
TOML = f"""
name = "private"
rounds = {ROUNDS}
seeds = 1
checkpoint_s = 1000
environment = {{ name = "gridworld", layout = "S..G", max_steps = 20 }}
learner = {{ name = "q_table", num_envs = 2, num_steps = 4 }}
fleet = {{ slip = [0.0, 0.1, 0.2] }}
evaluation = {{ film = false, episodes = 2 }}

[federation]
aggregator = {{ name = "mean", weighting = "uniform" }}

[federation.privacy]
epsilon = 8.0
delta = 1e-3
mechanism = {{ name = "central_gaussian", clip = 0.5 }}
"""
KILLED_AT = 4
SCRIPT = """
import os, signal, sys
from fedrl.records.charges import ChargeFile
from fedrl.runs.run import run

before = ChargeFile.charge

def charge(self, charge):
    before(self, charge)
    if charge.number == {at}:
        os.kill(os.getpid(), signal.SIGKILL)

ChargeFile.charge = charge
run(sys.argv[1], sys.argv[2], verbose=0)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "private.toml"
    path.write_text(TOML)
    return path


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run(config, out, verbose=0)
    return out


@pytest.fixture(scope="module")
def killed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed between a charge and the round that it pays for."""
    out = tmp_path_factory.mktemp("killed") / "run"
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(at=KILLED_AT), str(config), str(out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=300,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    return out


@pytest.fixture
def copied(killed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(killed, tmp_path / "run")


def charges(folder: Path) -> list[int]:
    return [charge.round for charge in ChargeFile(folder / "privacy.jsonl").read(AGENTS)[1]]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def test_a_run_spends_its_budget_to_the_round_and_says_so(whole: Path) -> None:
    assert charges(whole) == [1, 2, 3, 4, 5, 6]
    spent = [record["privacy"] for record in records(whole)]
    assert [each["charges"] for each in spent] == [1, 2, 3, 4, 5, 6]
    assert [each["epsilon"] for each in spent] == sorted(each["epsilon"] for each in spent)
    assert all(each["epsilon"] + each["remaining"] == pytest.approx(8.0) for each in spent)
    summary = json.loads((whole / "summary.json").read_text())
    assert 7.99 < summary["epsilon"] <= 8.0
    assert summary["privacy"]["seeds"] == {"0": summary["epsilon"]}
    assert summary["privacy"]["mechanism"] == "central_gaussian"
    assert summary["privacy"]["certified"] == ("not_certified" not in summary["privacy"])
    assert "ended" not in summary
    said = " ".join(line.plain for line in privacy_lines(summary["privacy"]))
    assert "Differential privacy with epsilon = 8, delta = 0.001, of all data of one agent, added or removed" in said
    page = (whole / "report.html").read_text()
    assert "Spent epsilon against rounds" in page
    assert "In a deployment they never leave the agents" in page


def test_tables_and_displays_have_what_was_spent(whole: Path) -> None:
    kept = records(whole)
    assert [row_of(record)["epsilon"] for record in kept] == [record["privacy"]["epsilon"] for record in kept]
    console = Console(file=io.StringIO(), width=200)
    sink = plain(console)
    sink(cast(Any, {"event": "start", "name": "x", "rounds": ROUNDS, "seeds": [0], "methods": ["federated"],
                    "agents": AGENTS, "environment_steps_per_round": 1, "epsilon": 8.0}))  # fmt: skip
    sink(cast(Any, kept[-1]))
    assert "epsilon 8 of 8 spent, 0.0" in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_it_costs_is_explained_before_anything_is_run(config: Path) -> None:
    found = explained(build(load(config)))
    assert 7.99 < found["privacy"]["epsilon"] <= 8.0
    said = "\n".join(explain.privacy_lines(found))
    assert "Privacy of the federated method, for each seed, after 6 rounds in all:" in said
    assert "central_gaussian: clip 0.5, noise multiplier z = " in said
    assert "The coordinator is trusted" in said


def test_rounds_that_are_run_again_after_an_error_are_paid_for_again(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_round, broken = Account.round, []

    def fails(self: Account, given: Any, run_state: Any, number: int) -> Any:
        if number == 3 and not broken:
            broken.append(number)
            raise RuntimeError("the power failed")
        return one_round(self, given, run_state, number)

    monkeypatch.setattr(Account, "round", fails)
    with pytest.raises(RuntimeError, match="the power failed"):
        run(config, tmp_path / "run", verbose=0)
    assert charges(tmp_path / "run") == [1, 2, 1, 2]
    monkeypatch.undo()
    resume(tmp_path / "run", verbose=0)
    assert charges(tmp_path / "run") == [1, 2, 1, 2, 3, 4]


def test_a_public_report_shows_what_the_guarantee_covers_alone(whole: Path, tmp_path: Path) -> None:
    page = write_report([whole], tmp_path / "public.html", public=True).read_text()
    assert "Differential privacy with epsilon = 8" in page
    own = (whole / "report.html").read_text()
    for word in ("Final returns", "config.toml", "Training return", "In a deployment they never"):
        assert word in own
        assert word not in page
    with pytest.raises(ConfigError, match="2 runs are to be in a public report"):
        write_report([whole, whole], tmp_path / "both.html", public=True)


def test_the_resolved_configuration_builds_the_same_and_allows_not_one_round_more(whole: Path) -> None:
    experiment = build(load(whole / "config.toml"))
    assert build(load(tables())).federation == experiment.federation
    with pytest.raises(ConfigError, match=r"rounds is 7.* enough only for 6 rounds of central_gaussian"):
        build(load(whole / "config.toml", ["rounds=7"]))


def tables() -> dict[str, Any]:
    return tomllib.loads(TOML)


def test_a_complete_run_is_not_continued_beyond_its_budget(whole: Path, tmp_path: Path) -> None:
    place = shutil.copytree(whole, tmp_path / "run")
    before = (place / "config.toml").read_bytes()
    with pytest.raises(ConfigError, match=r"seed 0 has done 6 and paid for 6: its privacy budget.* for 0 more"):
        resume(place, rounds="+1", verbose=0)
    assert (place / "config.toml").read_bytes() == before
    assert charges(place) == [1, 2, 3, 4, 5, 6]


def test_a_killed_run_has_paid_for_the_round_that_was_to_come(killed: Path) -> None:
    assert len(records(killed)) == KILLED_AT - 1
    assert charges(killed) == [1, 2, 3, 4]


def test_a_resumed_run_pays_again_for_rounds_that_were_lost_and_ends_before_it_exceeds_its_budget(copied: Path) -> None:
    events: list[Any] = []
    resume(copied, sinks=[events.append], verbose=0)
    assert charges(copied) == [1, 2, 3, 4, 1, 2]
    assert [(record["round"], record["privacy"]["charges"]) for record in records(copied)] == [(1, 5), (2, 6)]
    summary = json.loads((copied / "summary.json").read_text())
    assert summary["ended"][0]["round"] == 2
    assert summary["ended"][0]["reason"].startswith("round 3 would exceed the privacy budget of every agent, epsilon")
    assert "on 6 charges, 2 of them for rounds that were run again, as a process ended" in summary["ended"][0]["reason"]
    assert summary["privacy"]["repeated"] == 2
    assert summary["epsilon"] <= 8.0
    # The result is kept, as that of a run that has reached its end.
    assert (copied / "final").is_dir()
    assert (copied / "params.safetensors").exists()
    with pytest.raises(RunError, match="is complete"):
        resume(copied, verbose=0)
    with pytest.raises(ConfigError, match=r"and paid for 6, 2 of them lost.* enough for 0 more"):
        resume(copied, rounds=ROUNDS + 1, verbose=0)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


def test_the_noise_of_rounds_that_are_run_again_is_fresh(killed: Path, tmp_path: Path) -> None:
    params = []
    for name in ("one", "other"):
        place = shutil.copytree(killed, tmp_path / name)
        resume(place, verbose=0)
        params.append(safetensors.numpy.load((place / "params.safetensors").read_bytes()))
    assert all((params[0][name] != params[1][name]).any() for name in params[0])


def shorter(place: Path) -> None:
    lines = (place / "privacy.jsonl").read_text().splitlines()[:-2]
    (place / "privacy.jsonl").write_text("".join(f"{line}\n" for line in lines))


def richer(place: Path) -> None:
    text = (place / "config.toml").read_text()
    (place / "config.toml").write_text(text.replace("epsilon = 8.0", "epsilon = 80.0"))


def quieter(place: Path) -> None:
    text = (place / "config.toml").read_text()
    before = next(line for line in text.splitlines() if line.startswith("noise_multiplier"))
    (place / "config.toml").write_text(text.replace(before, "noise_multiplier = 50.0"))


def edited(place: Path) -> None:
    text = (place / "privacy.jsonl").read_text()
    (place / "privacy.jsonl").write_text(text.replace('"charge": 4, "round": 4', '"charge": 4, "round": 3'))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda place: (place / "privacy.jsonl").unlink(), "privacy.jsonl is missing, the ledger of a run with"),
        (shorter, "has 2 charges of seed 0, and the folder shows that 3 were made: lines at its end were removed"),
        (edited, "is damaged, the ledger of a run with a privacy budget: line 5 does not follow from the one before"),
        (richer, "has another privacy budget than the ledger .*, in epsilon: 80.0 there, 8.0 here"),
        (quieter, "has another privacy budget than the ledger .*, in events"),
    ],
)
def test_a_run_whose_ledger_is_not_whole_is_not_continued(
    copied: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(copied)
    kept = content(copied)
    with pytest.raises(RunError, match=said):
        resume(copied, verbose=0)
    assert content(copied) == kept


def test_what_has_to_be_said_is_said_once(config: Path, tmp_path: Path) -> None:
    events: list[Any] = []
    more = ["federation.privacy.delta=0.5", "federation.privacy.reproducible=true", "rounds=1"]
    result = run(config, tmp_path / "run", overrides=[*more, "baselines.independent=true"], sinks=[events.append])
    said = [event["text"] for event in events if event.get("event") == "notice"]
    assert [text.split(" ")[0] for text in said] == ["federation.privacy.delta", "Not", "The"]
    assert "has delta = 0.33. Set it far below that." in said[0]
    assert said[1] == f"Not certified: {result['privacy']['not_certified']}."
    assert said[2] == "The baselines have no privacy: independent."
    assert not result["privacy"]["certified"]
    assert "<b>Not certified: </b>" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_that_starts_from_another_one_says_that_both_add_up(config: Path) -> None:
    experiment = build(load(config))
    started = replace(experiment, config=replace(experiment.config, init=InitConfig(run="runs/first")))
    assert sentences(experiment) == []
    (said,) = sentences(started)
    assert said.startswith("The run starts from runs/first: what agents have paid for that run is not part of this")


def test_the_claim_of_a_run_that_starts_from_another_one_keeps_saying_so(whole: Path, tmp_path: Path) -> None:
    def first(text: str) -> bool:
        return text.startswith(f"The run starts from {whole}:")

    run(tables(), tmp_path / "run", overrides=["rounds=1", f"init={str(whole)!r}"], verbose=0)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [first(text) for text in summary["privacy"]["assumptions"]].count(True) == 1
    page = write_report([tmp_path / "run"], tmp_path / "public.html", public=True).read_text()
    assert f"The run starts from {whole}" in page
    assert not any(map(first, json.loads((whole / "summary.json").read_text())["privacy"]["assumptions"]))


@pytest.mark.parametrize(
    ("own", "noise", "said"),
    [((), None, 0), (("personal",), None, 1), (("personal",), Noise("event", 1.0, "agent"), 0)],
)
def test_what_stays_with_agents_is_said_to_be_without_noise(
    config: Path, own: tuple[str, ...], noise: Any, said: int
) -> None:
    experiment = build(load(config))
    learner = replace(experiment.learner, personalised=own, noise=noise)
    found = explained(replace(experiment, learner=learner))["privacy"]["assumptions"]
    assert [text.startswith("Parameters that stay with the agents have no noise") for text in found].count(True) == said


def test_a_study_says_that_the_budgets_of_its_settings_add_up(tmp_path: Path) -> None:
    tables_of_one_round = tables() | {"rounds": 1}
    study = sweep(tables_of_one_round, {"federation.privacy.epsilon": [4.0, 2.0]}, out=tmp_path / "study", verbose=0)
    spent = [setting["epsilon"] for setting in study["settings"]]
    assert spent == pytest.approx([4.0, 2.0], abs=0.01)
    (said,) = [text for text in study_notices(study) if "add up" in text]
    assert "2 have spent up to epsilon = 4 each. If their agents are the same, they add up, to 6 at most" in said
    assert said in html.unescape((tmp_path / "study" / "report.html").read_text())
    alone = {**study, "settings": study["settings"][:1]}
    assert not any("add up" in text for text in study_notices(cast(Any, alone)))


def test_noise_without_a_budget_is_said(tmp_path: Path) -> None:
    given = tables()
    del given["federation"]["privacy"]
    given["federation"]["stages"] = [
        {"name": "central_gaussian", "clip": 1.0, "noise_multiplier": 0.1, "expected": 3.0}
    ]
    result = run(given, tmp_path / "run", overrides=["rounds=1"], verbose=0)
    (note,) = result["notes"]
    assert note.startswith("central_gaussian(1.0, 0.1, 3.0) adds noise, and no budget says what it costs in all")
    assert result["epsilon"] is None
    assert not (tmp_path / "run" / "privacy.jsonl").exists()
