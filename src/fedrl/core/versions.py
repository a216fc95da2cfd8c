"""Look up the installed versions of Python, of fedrl and of other packages."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable

__version__ = "0.1.0"
"""The version of this source tree, which may run without being installed."""
COMPUTING = ("fedrl", "jax", "jaxlib", "numpy", "optax")
"""Packages on whose versions the bits of results depend."""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of each package, "not installed" where there is none."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = __version__ if package == "fedrl" else "not installed"
    return found
