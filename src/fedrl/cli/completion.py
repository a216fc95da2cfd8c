"""What the shell completes: names of examples, files, and names of components. No JAX is imported here."""

from __future__ import annotations

import os
import re
from pathlib import Path

import fedrl
from fedrl.shipped import examples as shipped

CONFIG = "An experiment.toml, or the name of a shipped example: fedrl examples."
"""The help of arguments that `experiments` completes."""
COMPONENT = re.compile(r'^@component\(\s*"(\w+)".*?^def (\w+)', re.MULTILINE | re.DOTALL)


def experiments(incomplete: str) -> list[str]:
    """Complete an experiment: a shipped one, a TOML file, or a folder on the way to one."""
    prefix = incomplete[: incomplete.rfind("/") + 1]
    try:
        entries = [entry for entry in os.scandir(prefix or ".") if not entry.name.startswith(".")]
    except OSError:
        entries = []
    files = [f"{prefix}{e.name}" for e in entries if e.is_file() and e.name.endswith(".toml")]
    folders = [f"{prefix}{e.name}/" for e in entries if e.is_dir()]
    names = [name for name, path in shipped().items() if path.suffix == ".toml"]
    return sorted({each for each in names + files + folders if each.startswith(incomplete)})


def examples(incomplete: str) -> list[str]:
    """Complete the name of a shipped example."""
    return [name for name in shipped() if name.startswith(incomplete)]


def components(incomplete: str) -> list[str]:
    """Complete a kind of component, or the name of one; both are read from the sources, which takes milliseconds."""
    found: set[str] = set()
    for path in Path(fedrl.__file__).parent.rglob("*.py"):
        for kind, name in COMPONENT.findall(path.read_text(encoding="utf-8")):
            found |= {kind, name}
    return sorted(name for name in found if name.startswith(incomplete))
