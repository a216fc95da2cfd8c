"""What a worker process needs to run the settings of a study as this process would: folders, modules, consent.

A configuration names things: files, by paths from the working directory; modules; components that a module has
registered. A worker has the same working directory and imports the same modules. Objects that exist in this process
alone, as in a script or a notebook, can't be had in another one, and are refused before a folder is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedrl.core.component import CATALOGUE
from fedrl.core.errors import ConfigError
from fedrl.core.imports import allowed, known, searched
from fedrl.studies.plan import StudyPlan


class Surroundings(NamedTuple):
    """What a worker process is told before its first setting.

    Attributes:
        folder: Absolute path of the working directory.
        beside: Further folders in which modules are looked for, if they are not found elsewhere.
        modules: Modules whose components the study names.
        references: References "module:name" that this process has obtained with the user's consent.
        trust: Whether further code that a configuration names may be imported.
    """

    folder: str
    beside: tuple[str, ...]
    modules: tuple[str, ...]
    references: tuple[str, ...]
    trust: bool


def surroundings_of(plan: StudyPlan) -> Surroundings:
    """Return what workers need for a study whose settings were built in this process.

    Raises:
        ConfigError: The study names an object that exists in this process alone; the message has its key.
    """
    return Surroundings(os.getcwd(), searched(), *named_in({**plan.base, "name": ""} | dict(plan.grid)), allowed())


def named_in(tables: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the modules and the references of components of one's own that a configuration names.

    Raises:
        ConfigError: It names an object that exists in this process alone; the message has its key.
    """
    modules: list[str] = []
    references: list[str] = []
    for key, text in _texts(tables):
        if "#" in text and known(text):
            raise ConfigError(
                f"{key} is {text!r}, an object of this Python process, and a worker process can't build it. Put it "
                "into a module, and name it 'module:name'."
            )
        if known(text):
            references.append(text)
        homes = {entry.build.__module__ for (_, name), entry in CATALOGUE.items() if name == text and ":" not in name}
        for module in sorted(home for home in homes if home.partition(".")[0] != "fedrl"):
            if module == "__main__":
                raise ConfigError(
                    f"{key} is {text!r}, which the running script defines, and a worker process can't import a script. "
                    "Put it into a module, and list the module under imports."
                )
            modules.append(module)
    return tuple(dict.fromkeys(modules)), tuple(dict.fromkeys(references))


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield all texts in a table, each with its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, Sequence):
        for i, item in enumerate(value):
            yield from _texts(item, f"{key}.{i}" if key else str(i))
