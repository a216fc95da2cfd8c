"""Whether the package is installed that secure sums need, and the core does not."""

from __future__ import annotations

import importlib.util

from fedrl.core.errors import ConfigError


def check_cryptography() -> None:
    """Refuse to go on without the package of the extra `secure`.

    Raises:
        ConfigError: It is missing.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError("A secure sum needs cryptography, which is not installed. Run pip install 'fedrl[secure]'.")
