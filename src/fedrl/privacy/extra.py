"""The package that computes the privacy loss of mechanisms, an extra of the installation."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from fedrl.core.errors import ConfigError


def accounting() -> ModuleType:
    """Return the module `dp_accounting`, which is imported by the first call.

    Raises:
        ConfigError: It is not installed.

    >>> accounting().GaussianDpEvent(1.0).noise_multiplier
    1.0
    """
    if importlib.util.find_spec("dp_accounting") is None:
        raise ConfigError(
            "Differential privacy needs dp_accounting, which computes its price and is not installed. Run "
            "pip install 'fedrl[privacy]'."
        )
    import absl.logging
    import dp_accounting
    import dp_accounting.pld
    import dp_accounting.rdp

    # It warns of orders at which a bound is infinite, for every event; the smallest bound over orders is what counts.
    absl.logging.set_verbosity(absl.logging.ERROR)
    return dp_accounting
