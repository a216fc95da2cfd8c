"""A reader that leaves, as `head` does, ends the printing of a command and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import small

TOML = small.TOML.format(rounds=4)
FILES = {"final", "config.toml", "records.jsonl", "summary.json", "params.safetensors", "report.html"}
PRINTING = """
import gymnasium as gym, numpy as np, time

class Printing(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        print("a new episode", flush=True)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        time.sleep(0.001)  # slow enough for worker processes
        print("a step", flush=True)
        return np.zeros(2, np.float32), 1.0, False, False, {}

gym.register("Printing-v0", entry_point="printing:Printing")
"""


def left(command: list[str], cwd: Path, closed: str, unbuffered: bool = False) -> tuple[int, str]:
    """The exit code of a command whose reader is gone before it starts, and what its other stream said."""
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: write}
    if closed == "both":
        streams = {"stdout": write, "stderr": write}
    flag = ["-u"] if unbuffered else []
    done = subprocess.run([sys.executable, *flag, "-m", "fedrl", *command], cwd=cwd, text=True, check=False, **streams)  # type: ignore[call-overload]
    os.close(write)
    return done.returncode, (done.stdout or "") + (done.stderr or "")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(TOML)
    return tmp_path


@pytest.mark.parametrize(("closed", "options"), [("stdout", []), ("both", ["--json"]), ("stderr", ["--json"])])
def test_a_run_goes_on_without_a_reader(place: Path, closed: str, options: list[str]) -> None:
    code, said = left(["run", "small.toml", "--out", "run", *options], place, closed)
    assert (code, {path.name for path in (place / "run").iterdir()}) == (0, FILES)
    assert len((place / "run" / "records.jsonl").read_text().splitlines()) == 2 * (3 * 4 + 1)
    if closed == "stderr":
        assert json.loads(said)["rounds"] == 4
    else:
        assert said == ""


def test_so_do_a_study_and_what_reads_folders(place: Path) -> None:
    grid = ["--grid", "learner.learning_rate=0.5,0.4", "--set", "baselines={}", "--set", "rounds=2"]
    assert left(["sweep", "small.toml", "--out", "study", *grid], place, "stdout") == (0, "")
    study = json.loads((place / "study" / "study.json").read_text())
    assert study["complete"]
    run = str(Path("study") / study["settings"][0]["folder"])
    (place / run / "report.html").unlink()
    assert left(["report", run], place, "stdout") == (0, "")
    assert (place / run / "report.html").exists()
    assert left(["evaluate", run, "--episodes", "1"], place, "stdout") == (0, "")


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("command", [["list"], ["run", "--help"]])
def test_lists_and_help_end_with_0(place: Path, command: list[str], unbuffered: bool) -> None:
    assert left(command, place, "stdout", unbuffered) == (0, "")


def test_an_error_that_nobody_reads_has_its_exit_code(place: Path) -> None:
    assert left(["run", "no-such.toml"], place, "stderr") == (2, "")


def test_a_pager_gets_what_it_reads(place: Path) -> None:
    script = f"{sys.executable} -m fedrl list | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=place, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("aggregator\n0\n", "")


def test_a_full_disk_is_told_and_a_missing_stream_is_none(place: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "fedrl", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: stdout can't be written to (No space left on device), so a part of it is missing.\n"
    program = "import sys; assert sys.stdout is None; from fedrl.core.pipes import keep_printing; keep_printing()\n"
    program += "print('nobody'); assert open('opened', 'w').fileno() > 2"
    done = subprocess.run(["sh", "-c", f'{sys.executable} -c "{program}" >&-'], cwd=place, check=False)
    assert done.returncode == 0
    assert (place / "opened").read_text() == ""


def test_what_an_environment_prints_in_a_worker_may_be_lost(place: Path) -> None:
    (place / "printing.py").write_text(PRINTING)
    program = (
        "import numpy as np, gymnasium as gym, printing\n"
        "from fedrl.environments.adapters.vector import open_instances\n"
        "copies = open_instances(gym.spec('Printing-v0'), [({}, {})] * 4, 2)\n"
        "copies.reset(range(4))\n"
        "for _ in range(5): found = copies.step(np.zeros(4, int))\n"
        "copies.close(); print(found.reward.tolist())"
    )
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=place, stdout=subprocess.PIPE, stderr=write, text=True, check=False)
    os.close(write)
    assert done.stdout == "[1.0, 1.0, 1.0, 1.0]\n"
