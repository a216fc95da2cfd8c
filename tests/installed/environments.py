"""Commands in an environment that knows nothing of the repository and of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FORGOTTEN = ("PYTHON", "VIRTUAL_ENV", "JAX", "XLA", "XDG", "COLUMNS", "COVERAGE", "PYTEST")
"""How variables begin that a new user would not have."""


def empty(home: Path, **more: str) -> dict[str, str]:
    """The variables of a new user whose home is a folder."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FORGOTTEN)}
    own = str(Path(sys.executable).parent)
    kept["PATH"] = os.pathsep.join(place for place in kept["PATH"].split(os.pathsep) if place != own)
    return kept | {"HOME": str(home)} | more


def said(command: list[str | Path], folder: Path, variables: dict[str, str]) -> str:
    """What a command prints; it has to end well."""
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
