"""Options and exit codes of the commands that can be interrupted and resumed (`run`, `sweep`)."""

from __future__ import annotations

import json
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
"""Exit code of a command of which a part failed."""
INTERRUPTED = 130
"""Exit code of a command that was interrupted and left a folder that can be resumed."""
TERMINATED = 143
"""Exit code of such a command after SIGTERM."""
NOTHING_MERGED = 3
"""Exit code of a command that completed, with a seed that never merged an update or ended before its last round."""


def check_resume(thing: str, config: Path | None, resume: Path | None, options: Mapping[str, object]) -> None:
    """Refuse a command line with both a configuration and --resume, or with neither.

    Args:
        thing: "run" or "study", for messages.
        config: Path of the configuration to run.
        resume: Folder to resume.
        options: Options that describe a new run, by name, in the order in which the message lists them.

    Raises:
        ConfigError: Both are given, or neither, or --resume is combined with one of `options`.
    """
    if (config is None) == (resume is None):
        raise ConfigError("Give either the path of an experiment.toml or --resume DIR, one of the two.")
    if resume is not None and any(given is not None and given != [] for given in options.values()):
        *most, last = options
        raise ConfigError(
            f"--resume uses the configuration in its {thing} folder, so {', '.join(most)} and {last} can't be "
            f"combined with it. Leave them out, or start a new {thing}."
        )


def overrides(
    settings: Sequence[str], seeds: int | None, rounds: str | None = None, on_environment_error: str | None = None
) -> list[str]:
    """Return all changes of the configuration that the options request.

    Raises:
        ConfigError: --rounds has a plus sign, and there are no rounds yet to which it could add.
    """
    if rounds is not None and not rounds.isdecimal():
        raise ConfigError(
            f"--rounds is {rounds!r}. A new run has a whole number of rounds, such as --rounds 500. Further rounds, "
            "such as --rounds +50, are those of an earlier run: --resume DIR --rounds +50."
        )
    failing = None if on_environment_error is None else json.dumps(on_environment_error)
    given = {"seeds": seeds, "rounds": rounds, "on_environment_error": failing}
    return [*settings, *(f"{name}={value}" for name, value in given.items() if value is not None)]


class FolderListener:
    """A listener that stores the last folder of the events, and the number of the signal that ended the command.

    A study reports its own folder after those of its runs, so the last folder is the study's.
    """

    path = ""
    signal = None

    def __call__(self, event: Event) -> None:
        """Store the folder and the signal of an event, if it has them."""
        self.path = str(event.get("folder", self.path))
        self.signal = event.get("signal", self.signal)


def leave_interrupted(command: str, listener: FolderListener) -> None:
    """Print how to resume, and end with the exit code of an interruption."""
    print(f"Interrupted. Continue with: fedrl {command} --resume {listener.path}", file=sys.stderr)
    raise typer.Exit(TERMINATED if listener.signal == signal.SIGTERM else INTERRUPTED)


def leave_unmerged(sentence: str) -> None:
    """Print that no update was merged, with a remedy, and end with exit code 3."""
    from fedrl.records.notices import TOO_FEW

    cure = "Check the observations and rewards of the agents' environments, and the learning rates."
    if TOO_FEW in sentence:
        cure = "Lower the quorum in federation.schedule, raise its deadline_s, or use devices that drop out less often."
    print(f"{sentence} {cure}", file=sys.stderr)
    raise typer.Exit(NOTHING_MERGED)


def leave_early(sentence: str) -> None:
    """Print that a seed ended before its last round, and end with exit code 3."""
    print(sentence, file=sys.stderr)
    raise typer.Exit(NOTHING_MERGED)
