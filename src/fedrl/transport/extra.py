"""Whether the packages are installed that a network needs, and the core does not."""

from __future__ import annotations

import importlib.util

from fedrl.core.errors import ConfigError

PACKAGES = ("grpc", "cryptography", "msgpack")


def check_installed() -> None:
    """Refuse to go on without the packages of the extra `network`.

    Raises:
        ConfigError: One is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"A network needs {' and '.join(missing)}, which is not installed. Run pip install 'fedrl[network]'."
        )
