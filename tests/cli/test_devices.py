"""The option --devices, and that no result depends on it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedrl import launch
from fedrl.core.errors import ConfigError
from fedrl.core.processors import cores
from tests.support import small

MOST = launch.MOST_PER_CORE * cores()


def called(cwd: Path, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedrl", *map(str, arguments)]
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | env
    return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("agents", [3, 13], ids=["one block", "three blocks"])
def test_results_do_not_depend_on_the_number_of_devices(tmp_path: Path, agents: int) -> None:
    (tmp_path / "small.toml").write_text(small.TOML.format(rounds=3).replace("slip = [0.0, 0.1, 0.2]", "slip = 0.1"))
    found = []
    for devices in (1, 3):
        out = tmp_path / f"on{devices}"
        more = ("--set", f"federation.agents={agents}", "--out", out, "--quiet")
        done = called(tmp_path, "run", "small.toml", "--devices", devices, *more)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
        greedy = called(tmp_path, "evaluate", out, "--devices", devices, "--json").stdout
        found.append(((out / "params.safetensors").read_bytes(), small.without_times(lines), greedy))
    assert found[0] == found[1]
    assert json.loads(found[0][2])["seeds"]


def test_a_number_of_devices_is_had_and_takes_precedence_over_xla_flags(tmp_path: Path) -> None:
    program = (
        "import os; from fedrl.cli.devices import use_devices; use_devices(3)\n"
        "import fedrl, jax; fedrl.configure_jax(); print(jax.local_device_count(), os.environ['XLA_FLAGS'])"
    )
    env = os.environ | {"XLA_FLAGS": f"{launch.DEVICES}=2 {launch.VECTORS}=128"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == f"3 {launch.VECTORS}=128 {launch.DEVICES}=3\n", done.stderr


@pytest.mark.parametrize("devices", [0, -1, MOST + 1])
def test_too_few_and_too_many_are_refused_in_one_sentence(tmp_path: Path, devices: int) -> None:
    with pytest.raises(ConfigError, match=rf"The number of devices is {devices}\. .* Choose 1 to {MOST}\.$"):
        launch.configure_jax(devices)
    (tmp_path / "small.toml").write_text(small.TOML.format(rounds=3))
    for command in (["run", "small.toml", "--out", "run"], ["sweep", "small.toml", "--grid", "rounds=1"]):
        done = called(tmp_path, *command, "--devices", devices)
        assert done.returncode == 2
        assert re.fullmatch(rf"error: The number of devices is {devices}\. .*\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["small.toml"]


def test_another_number_than_jax_already_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    has = jax.local_device_count()
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
    launch.configure_jax(has)
    with pytest.raises(ConfigError, match=f"is {has + 1}, and JAX's backend already runs with {has}"):
        launch.configure_jax(has + 1)


def test_where_jax_does_not_compute_on_the_processor_there_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    from fedrl.cli.devices import use_devices

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ConfigError, match=r"--devices is 2, and JAX computes on gpu"):
        use_devices(2)


def test_doctor_says_how_many_devices_there_are_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax
    from typer.testing import CliRunner

    import fedrl.core.processors
    import fedrl.runs.selftest
    from fedrl.cli import app

    monkeypatch.setattr(fedrl.runs.selftest, "self_test", lambda: [])
    said = CliRunner().invoke(app, ["doctor"]).stdout
    assert re.search(rf"^cores +{cores()}: ", said, re.MULTILINE)
    named = re.escape(", ".join(map(str, jax.local_devices())))
    assert re.search(rf"^devices +{jax.local_device_count()}, set in XLA_FLAGS: {named}$", said, re.MULTILINE)
    limited = fedrl.core.processors.Cores(1, "a quota of 1 CPUs in cpu.max", True)
    monkeypatch.setattr(fedrl.core.processors, "usable", lambda: limited)
    said = CliRunner().invoke(app, ["doctor"]).stdout
    assert re.search(r"^cores +1: a quota of 1 CPUs in cpu.max$", said, re.MULTILINE)


def test_a_quota_limits_devices_and_the_threads_of_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, fedrl.core.processors as p\n"
        "p.usable = lambda: p.Cores(1, 'a quota', True)\n"
        "import fedrl, jax; fedrl.configure_jax(); print(jax.local_device_count(), os.environ['PJRT_NPROC'])"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PJRT_NPROC")}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "1 1\n", done.stderr
