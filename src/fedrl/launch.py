"""Configure JAX before its backend starts, after which settings have no effect.

* one host device per core that this process may use, so that blocks of agents run in parallel (measured: +42 to +90 %
  speed on two cores); in a container with a quota, XLA's own threads are limited likewise
* the widest vectors of the processor: +6 to +16 % where AVX-512 works on 512 bits at a time, nothing on a Zen 4, which
  works on halves; sums are grouped differently, so the last bits of results depend on the width
* a persistent cache of compiled programs, so that a second start compiles nothing

A flag or folder that is already set is not changed, unless a number of devices is asked for. Results do not depend on
that number. Importing this module does not import JAX.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

from fedrl.core.errors import ConfigError
from fedrl.core.processors import cores, usable

DEVICES = "--xla_force_host_platform_device_count"
VECTORS = "--xla_cpu_prefer_vector_width"
THREADS = "PJRT_NPROC"
MOST_PER_CORE = 4
"""Devices per core beyond which a number of devices is refused."""


def configure_jax(devices: int | None = None) -> None:
    """Configure JAX for the processor of this machine. Call it before the first array is created.

    A `RuntimeWarning` is issued if JAX's backend already runs.

    Args:
        devices: The number of host devices; by default that in XLA_FLAGS, or one for each core of this process.

    Raises:
        ConfigError: JAX is set up in a way in which fedrl can't compute, or can't have so many devices.
    """
    set_already = os.environ.get("XLA_FLAGS", "")
    if devices is not None:
        _check_devices(devices)
        set_already = " ".join(flag for flag in set_already.split() if not flag.startswith(f"{DEVICES}="))
    wanted = {DEVICES: cores() if devices is None else devices}
    if widest_vector() == 512:
        wanted[VECTORS] = 512
    missing = [f"{flag}={value}" for flag, value in wanted.items() if f"{flag}=" not in set_already]
    runs, before = backend_runs(), os.environ.get("XLA_FLAGS", "").split()
    without_effect = [flag for flag in missing if flag not in before]
    if without_effect and runs:
        warnings.warn(
            f"JAX's backend already runs, so {' '.join(without_effect)} has no effect and the run may be slower. "
            "Call fedrl.configure_jax() before the first array is made.",
            RuntimeWarning,
            stacklevel=2,
        )
    os.environ["XLA_FLAGS"] = " ".join([set_already, *missing]).strip()
    limit = usable()
    if not runs and limit.limited:
        os.environ.setdefault(THREADS, str(limit.number))
    _cache_programs()
    check_platform()


def use_devices(devices: int | None) -> None:
    """Configure JAX before anything is computed, with this number of host devices if it is given.

    Raises:
        ConfigError: There can't be so many, or JAX does not compute on the processor.
    """
    configure_jax(devices)
    if devices is None:
        return
    import jax

    if jax.default_backend() != "cpu":
        raise ConfigError(
            f"--devices is {devices}, and JAX computes on {jax.default_backend()}, where the number of devices is that "
            "of the machine. Leave it out, or set JAX_PLATFORMS=cpu."
        )


def _check_devices(devices: int) -> None:
    """Refuse a number of devices that can't be had.

    Raises:
        ConfigError: It is below 1, of no use, or JAX's backend already runs with another number.
    """
    limit = usable()
    most = MOST_PER_CORE * limit.number
    if not 1 <= devices <= most:
        raise ConfigError(
            f"The number of devices is {devices}. This process may use {limit.number} core"
            f"{'' if limit.number == 1 else 's'} ({limit.reason}), and each device compiles every program anew. "
            f"Choose 1 to {most}."
        )
    if backend_runs():
        import jax

        has = jax.local_device_count()
        if has != devices:
            raise ConfigError(
                f"The number of devices is {devices}, and JAX's backend already runs with {has}. It is set when the "
                "backend starts. Set it before the first array is made."
            )


def widest_vector() -> int | None:
    """Return 512 on a processor with AVX-512; else None, to leave the choice to the compiler."""
    try:
        return 512 if "avx512f" in Path("/proc/cpuinfo").read_text() else None
    except OSError:
        return None


def cache_folder() -> Path | None:
    """Return where compiled programs are kept between runs; None for a user without a home folder."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a container often runs as a user that it does not list
        # No shared folder such as /tmp takes its place: JAX executes what it finds in its cache.
        return None
    return root / "fedrl" / "programs"


def check_platform() -> None:
    """Refuse settings of JAX under which fedrl can't compute.

    Raises:
        ConfigError: 64-bit numbers are enabled, or JAX_PLATFORMS names a platform that JAX can't start.
    """
    import jax

    if jax.config.read("jax_enable_x64"):
        raise ConfigError(
            "JAX_ENABLE_X64 is set, and fedrl computes in float32, for which sums, messages and checkpoints are made. "
            "Unset JAX_ENABLE_X64, or run fedrl in a process of its own."
        )
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms and not backend_runs():
        try:
            jax.devices()
        except Exception as fault:  # JAX raises RuntimeError, AssertionError and others
            raise ConfigError(
                f"JAX_PLATFORMS is {platforms!r}, and JAX can't start it "
                f"({str(fault) or 'there is no such device, or jaxlib does not support it'}). "
                "Unset it, or set JAX_PLATFORMS=cpu."
            ) from fault


def backend_runs() -> bool:
    """Return whether JAX's backend has started in this process."""
    if "jax" not in sys.modules:
        return False
    from jax._src import xla_bridge  # JAX has no public function for it

    return bool(xla_bridge.backends_are_initialized())


def _cache_programs() -> None:
    import jax

    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        folder = cache_folder()
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # a read-only home: compile anew each time
        config.update("jax_compilation_cache_dir", str(folder))
    # By default JAX caches only programs that take long to compile; a run has many short ones.
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    config.update("jax_persistent_cache_min_entry_size_bytes", -1)
