"""Unusual surroundings of a command: a user without a home, settings of JAX, encodings of files, a closed pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import small

TOML = small.TOML.format(rounds=1)
FLAGS = ("run", "--quiet", "--set", "baselines={}", "--set", "rounds=1")


def fedrl(*arguments: str | bytes, cwd: Path, **env: str | None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; a variable that is None is unset."""
    given = {name: value for name, value in (os.environ | env).items() if value is not None}
    command = [sys.executable, "-m", "fedrl", *arguments]
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(TOML)
    return tmp_path


def test_a_user_without_a_home_folder_runs_without_a_cache(place: Path) -> None:
    program = (
        "import pathlib; from fedrl import launch\n"
        "def nobody(): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = nobody\n"
        "assert launch.cache_folder() is None\n"
        "launch.configure_jax(); import jax; print(jax.config.jax_compilation_cache_dir, len(jax.devices()))"
    )
    env = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("None "), done.stderr


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"JAX_ENABLE_X64": "1"}, "JAX_ENABLE_X64 is set, and fedrl computes in float32"),
        ({"JAX_PLATFORMS": "nothing"}, "JAX_PLATFORMS is 'nothing', and JAX can't start it"),
    ],
)
def test_settings_of_jax_that_do_not_work_are_named(place: Path, env: dict[str, str], sentence: str) -> None:
    done = fedrl(*FLAGS, "small.toml", cwd=place, **env)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sentence}")
    assert "Traceback" not in done.stderr


def test_a_byte_order_mark_is_no_part_of_a_file_and_utf_16_is_named(place: Path) -> None:
    (place / "bom.toml").write_bytes(b"\xef\xbb\xbf" + TOML.encode())
    assert fedrl("explain", "bom.toml", cwd=place).returncode == 0
    (place / "wide.toml").write_text(TOML, encoding="utf-16")
    done = fedrl("explain", "wide.toml", cwd=place)
    assert (done.returncode, done.stderr) == (
        2,
        "error: wide.toml is UTF-16, and TOML is UTF-8. Save it in that encoding.\n",
    )


def test_a_path_may_be_any_bytes(place: Path) -> None:
    name = os.fsdecode(b"b\xe9d.toml")
    (place / name).write_text(TOML)
    done = fedrl(*FLAGS, "--out", os.fsdecode(b"r\xe9"), name, cwd=place)
    assert done.returncode == 0, done.stderr
    assert (place / os.fsdecode(b"r\xe9") / "summary.json").exists()
