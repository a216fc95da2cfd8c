import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedrl import launch
from fedrl.core.errors import ConfigError


def child(program: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    clean = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert said.returncode == 0, said.stderr
    return said.stdout.strip()


def test_prepare_gives_jax_a_device_per_core_and_a_cache(tmp_path: Path) -> None:
    program = (
        "import fedrl; fedrl.configure_jax(3); import jax, jax.numpy as jnp; jax.jit(lambda x: x + 1)(jnp.ones(3));"
        "print(len(jax.devices()), jax.config.jax_compilation_cache_dir)"
    )
    count, folder = child(program, XDG_CACHE_HOME=str(tmp_path)).split()
    assert count == "3"
    assert Path(folder).is_relative_to(tmp_path)
    assert any(Path(folder).iterdir())


def test_prepare_leaves_what_the_user_set(tmp_path: Path) -> None:
    flags = f"{launch.DEVICES}=5 {launch.VECTORS}=128"
    program = "import fedrl, os; fedrl.configure_jax(); import jax; print(os.environ['XLA_FLAGS'], jax.device_count())"
    said = child(program, XLA_FLAGS=flags, XDG_CACHE_HOME=str(tmp_path))
    assert said == f"{flags} 5"


def test_importing_fedrl_is_light_and_its_names_exist() -> None:
    program = (
        "import sys, fedrl; assert 'jax' not in sys.modules;"
        "[getattr(fedrl, name) for name in fedrl.__all__];"
        "from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    )
    assert child(program) == "False"


def test_a_platform_of_which_jax_says_nothing_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_devices() -> None:
        raise AssertionError  # as JAX does for CUDA where it is not installed

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(launch, "backend_runs", lambda: False)
    monkeypatch.setattr("jax.devices", no_devices)
    with pytest.raises(ConfigError, match=r"'cuda', and JAX can't start it \(there is no such device, or jaxlib"):
        launch.check_platform()


def test_prepare_warns_when_it_is_too_late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(launch, "backend_runs", lambda: True)
    with pytest.warns(RuntimeWarning, match="already runs"):
        launch.configure_jax()


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import fedrl

    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        fedrl.nothing_of_the_kind  # noqa: B018
