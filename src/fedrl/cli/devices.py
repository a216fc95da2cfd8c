"""The option `--devices` of the commands that compute (`run`, `sweep`, `evaluate`)."""

from __future__ import annotations

from fedrl.core.errors import ConfigError


def use_devices(devices: int | None) -> None:
    """Configure JAX before anything is computed, with this number of host devices if it is given.

    Raises:
        ConfigError: There can't be so many, or JAX does not compute on the processor.
    """
    from fedrl.launch import configure_jax

    configure_jax(devices)
    if devices is None:
        return
    import jax

    if jax.default_backend() != "cpu":
        raise ConfigError(
            f"--devices is {devices}, and JAX computes on {jax.default_backend()}, where the number of devices is that "
            "of the machine. Leave it out, or set JAX_PLATFORMS=cpu."
        )
