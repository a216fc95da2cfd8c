"""The versions of Python, of fedrl and of other packages, as they are installed."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable

__version__ = "0.1.0"
"""Of this source tree, which may run without being installed."""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of Python and of each package; "not installed" if it is not."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = __version__ if package == "fedrl" else "not installed"
    return found
