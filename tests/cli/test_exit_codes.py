"""Each exit code of docs/exit-codes.md, through the real command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOML = """
name = "corridor"
rounds = {rounds}
seeds = 1

[environment]
name = "gridworld"
layout = "S.G"
max_steps = 10

[fleet]
step_cost = {cost}

[learner]
name = "q_table"
num_envs = 2
num_steps = 8
learning_rate = 0.5

[federation]
agents = 2

[evaluation]
film = false
episodes = 2
"""
FINE, TOO_MUCH = 0.01, 3e38


def begun(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedrl", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


def called(*arguments: object) -> tuple[int, str, str]:
    process = begun(*arguments)
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def written(cost: float = FINE, rounds: int = 3) -> Path:
        path = tmp_path / f"cost{cost:g}.toml"
        path.write_text(TOML.format(rounds=rounds, cost=cost))
        return path

    return written


def test_a_run_that_is_fine_ends_with_0(config: Any, tmp_path: Path) -> None:
    code, out, err = called("run", config(), "--out", tmp_path / "run", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["rejections"] == {}


def test_a_fault_ends_with_1_and_wrong_input_with_2(config: Any, tmp_path: Path) -> None:
    fault = "import fedrl.runs.run as r; r.run = lambda *_, **__: 1 / 0; from fedrl.cli import main; main()"
    ours = subprocess.run(
        [sys.executable, "-c", fault, "run", str(config())], capture_output=True, text=True, check=False
    )
    assert ours.returncode == 1
    assert "ZeroDivisionError" in ours.stderr
    assert called("run", config(), "--set", "learner.stepz=1")[0] == 2
    assert called("run", "--no-such-option")[0] == 2
    assert called("run", "--resume", tmp_path)[0] == 2


def test_a_run_in_which_nothing_was_merged_ends_with_3_and_one_sentence(config: Any, tmp_path: Path) -> None:
    code, out, err = called("run", config(TOO_MUCH), "--out", tmp_path / "run", "--quiet")
    assert (code, out) == (3, "")
    assert err.startswith("Nothing was ever merged in seed 0, so the federation has no result there (")
    assert err.count("\n") == 1
    assert (tmp_path / "run" / "report.html").exists()
    code, out, err = called("run", config(TOO_MUCH), "--out", tmp_path / "again", "--json")
    assert code == 3
    assert json.loads(out)["rejections"]["federated"]["unmerged"] == [0]
    warnings, (sentence,) = err.splitlines()[:-1], err.splitlines()[-1:]
    assert warnings
    assert all(
        re.match(r"warning: federated, seed 0, round \d: agents? .* rejected twice in a row: ", w) for w in warnings
    )
    assert sentence.startswith("Nothing was ever merged in seed 0")


def test_a_study_with_such_a_setting_ends_with_3_and_names_it(config: Any, tmp_path: Path) -> None:
    grid = f"fleet.step_cost={FINE},{TOO_MUCH:g}"
    code, out, err = called("sweep", config(), "--grid", grid, "--out", tmp_path / "study")
    assert code == 3, err
    assert "Nothing was ever merged in a seed of setting 2." in err
    text = " ".join(out.split())
    assert "6 updates rejected" in text
    assert "! setting 2: Nothing was ever merged in seed 0" in text
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    fine, broken = study["settings"]
    assert (fine["rejected"], broken["rejected"], broken["unmerged"]) == (0, 6, [0])
    assert "unmerged" not in fine
    assert fine["seed_returns"]
    assert not broken["seed_returns"]
    assert "setting 2: Nothing was ever merged" in (tmp_path / "study" / "report.html").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_signal_ends_a_run_in_order(config: Any, tmp_path: Path, command: str, number: int, code: int) -> None:
    out = tmp_path / "stopped"
    grid = ["--grid", "learner.epsilon=0.5,0.6"] if command == "sweep" else []
    process = begun(command, config(rounds=100_000), *grid, "--out", out, "--quiet")
    deadline = time.monotonic() + 300
    while not any(path.stat().st_size for path in out.rglob("records.jsonl")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code
    assert err == f"Interrupted. Continue with: fedrl {command} --resume {out}\n"
    (summary,) = out.rglob("summary.json")
    assert json.loads(summary.read_text())["final_return"]["mean"] is not None
    assert list(out.rglob("checkpoints/*.safetensors"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_there_is_a_folder_leaves_nothing(config: Any, tmp_path: Path, number: int, code: int) -> None:
    program = (
        "import signal, fedrl.runs.run as r; from fedrl.cli import main\n"
        f"r.build = lambda config: signal.raise_signal({int(number)})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "run", str(config()), "--out", str(tmp_path / "run")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (code, "", "")
    assert not (tmp_path / "run").exists()


def test_a_round_that_hangs_does_not_keep_a_process_after_a_second_signal(config: Any, tmp_path: Path) -> None:
    program = (
        "import time, fedrl.records.checkpoint as c; from fedrl.cli import main\n"
        "def hang(path): print('hangs', flush=True); time.sleep(300)\n"
        "c.round_of = hang\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "run", str(config()), "--out", str(tmp_path / "run"), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "hangs\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not (tmp_path / "run").exists()


def test_a_study_with_a_failed_setting_ends_with_1_and_goes_on_after_it(config: Any, tmp_path: Path) -> None:
    out = tmp_path / "study"
    program = (
        "import fedrl.studies.one_setting as r; from fedrl.cli import main; run = r.run\n"
        "r.run = lambda config, *a, **k: 1 / 0 if config.rounds == 1 else run(config, *a, **k)\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "sweep", str(config()), "--grid", "rounds=1,2", "--out", str(out)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    sentence = "error: setting 1 of 2 failed; the reason of setting 1: ZeroDivisionError: division by zero "
    assert f"{sentence}Try again with: fedrl sweep --resume {out} --retry-failed\n" in said.stderr
    assert re.search(r"^ *1 +1 +failed ", said.stdout, re.MULTILINE)
    assert "! setting 1 (rounds 1) failed: ZeroDivisionError: division by zero" in said.stdout
    code, _, err = called("sweep", "--resume", out)
    assert (code, err) == (
        2,
        f"error: The study in {out} has nothing left to run but setting 1, which failed. Run it again with fedrl sweep "
        f"--resume {out} --retry-failed.\n",
    )
    assert called("sweep", "--resume", out, "--retry-failed", "--quiet") == (0, "", "")
    code, _, err = called("sweep", config(), "--grid", "rounds=1", "--retry-failed")
    assert (code, err) == (
        2,
        "error: --retry-failed is about an earlier study. Add --resume DIR, or leave it out.\n",
    )


def test_a_run_whose_agents_all_leave_ends_with_3_and_says_why(config: Any, tmp_path: Path) -> None:
    trace = "federation.clock={name='clock', availability_trace=[[0, 0, 1.5], [1, 0, 1.5]]}"
    code, out, err = called("run", config(rounds=9), "--set", trace, "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (3, 1)
    reason = "Seed 0 ended after round 2 of 9: At 1.5 s on the virtual clock every agent has left for good."
    assert err.startswith(reason)
    assert f"! {reason}" in " ".join(out.split())
    assert not (tmp_path / "run" / "checkpoints").exists()
    grid = "rounds=1,9"
    code, _, err = called("sweep", config(), "--grid", grid, "--set", trace, "--out", tmp_path / "study", "--quiet")
    assert code == 3
    assert err == "A seed ended before its last round in setting 2; the report says why.\n"


def test_ctrl_c_before_a_run_begins_ends_with_130() -> None:
    program = (
        "import signal, fedrl.cli.list as l; from fedrl.cli import main\n"
        "l.list_command = lambda kind: signal.raise_signal(signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "main()"
    )
    said = subprocess.run([sys.executable, "-c", program, "list"], capture_output=True, text=True, check=False)
    assert said.returncode == 130
    assert "Traceback" not in said.stderr


def test_the_page_names_the_codes_that_there_are() -> None:
    from fedrl.cli import WRONG_INPUT
    from fedrl.cli.resuming import FAILED, INTERRUPTED, NOTHING_MERGED, TERMINATED

    page = (ROOT / "docs" / "exit-codes.md").read_text()
    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)]
    assert listed == [0, FAILED, WRONG_INPUT, NOTHING_MERGED, INTERRUPTED, TERMINATED]
