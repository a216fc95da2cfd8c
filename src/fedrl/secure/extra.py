"""Whether the packages are installed that secure sums need, and the core does not."""

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


def check_tenseal() -> None:
    """Refuse to go on without the package of the extra `he`.

    Raises:
        ConfigError: It is missing.
    """
    if importlib.util.find_spec("tenseal") is None:
        raise ConfigError("An encrypted sum needs tenseal, which is not installed. Run pip install 'fedrl[he]'.")
