"""What commands have in common that can be interrupted and resumed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fedrl.core.errors import ConfigError

if TYPE_CHECKING:
    from fedrl.records import Event

FAILED = 1
"""The exit code of a command that did not get done what its input asks for."""
INTERRUPTED = 130
"""The exit code of a command that was interrupted and left a folder from which it can go on."""
TERMINATED = 143
"""The same of one that got SIGTERM."""
NOTHING_MERGED = 3
"""The exit code of a command that ran to its end, with a seed in which nothing was ever merged."""


def check_resume(thing: str, config: Path | None, resume: Path | None, options: Mapping[str, object]) -> None:
    """Refuse a command line that says both what to begin and what to go on with, or neither.

    Args:
        thing: What is begun: "run".
        config: What to begin.
        resume: What to go on with.
        options: The options that describe what is begun, by name, in the order in which the message names them.

    Raises:
        ConfigError: It says which options have no place beside --resume.
    """
    if (config is None) == (resume is None):
        raise ConfigError("Give either the path of an experiment.toml or --resume DIR, one of the two.")
    if resume is not None and any(given is not None and given != [] for given in options.values()):
        *most, last = options
        raise ConfigError(
            f"--resume goes on with the configuration in its {thing} folder, so {', '.join(most)} and {last} have no "
            f"place beside it. Leave them out, or start a new {thing}."
        )


def overrides(settings: Sequence[str], seeds: int | None) -> list[str]:
    """All changes of the configuration that the options --set and --seeds ask for."""
    return [*settings, *([] if seeds is None else [f"seeds={seeds}"])]


class FolderListener:
    """A listener that remembers the folder it was last told of: a study's comes after those of its runs.

    It also remembers the number of the signal that ended it early.
    """

    path = ""
    signal = None

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        self.path = str(event.get("folder", self.path))
        self.signal = event.get("signal", self.signal)


def leave_interrupted(command: str, listener: FolderListener) -> None:
    """Say how to go on, and end with the exit code of an interruption."""
    print(f"Interrupted. Continue with: fedrl {command} --resume {listener.path}", file=sys.stderr)
    raise typer.Exit(TERMINATED if listener.signal == signal.SIGTERM else INTERRUPTED)


def leave_unmerged(sentence: str) -> None:
    """Say that nothing was merged, and end with the exit code that stands for it."""
    from fedrl.records.notices import TOO_FEW

    cure = "Look at what the agents' environments return, and at learning rates."
    if TOO_FEW in sentence:
        cure = "Lower the quorum in federation.schedule, raise its deadline_s, or use devices that drop out less often."
    print(f"{sentence} {cure}", file=sys.stderr)
    raise typer.Exit(NOTHING_MERGED)
