"""A run folder: the files of one run, each written so that a crash at any moment leaves something readable.

config.toml          everything that was chosen, defaults included: it reproduces the run
records.jsonl        a line per seed, method and round, flushed as it comes
summary.json         the outcome
params.safetensors   the parameters that agents act with in every seed: global ones, or each agent's own
report.html          the same for people
checkpoints/         where each seed of each method stands; gone when the run is complete
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from fedrl.core.errors import RunError

CONFIG, RECORDS, SUMMARY, PARAMS, REPORT, CHECKPOINTS = (
    "config.toml",
    "records.jsonl",
    "summary.json",
    "params.safetensors",
    "report.html",
    "checkpoints",
)


@dataclass(frozen=True)
class RunFolder:
    """A folder, and the lock that keeps the lines of its records apart."""

    path: Path
    _lock: AbstractContextManager[Any] = field(default_factory=threading.Lock, repr=False, compare=False)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line to the records and hand it to the operating system."""
        line = json.dumps(record, allow_nan=False)
        with self._lock, (self.path / RECORDS).open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All records; a last line that was torn by a crash is left out."""
        try:
            lines = (self.path / RECORDS).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Leave only some of the records."""
        kept = "".join(json.dumps(record) + "\n" for record in self.records() if wanted(record))
        with self._lock:
            write_atomically(self.path / RECORDS, kept.encode())

    def sync(self) -> None:
        """Make sure that the records so far survive a loss of power."""
        with self._lock, (self.path / RECORDS).open("rb") as lines:
            os.fsync(lines.fileno())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        write_atomically(self.path / SUMMARY, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())

    def summary(self) -> dict[str, Any]:
        """Read `summary.json`; empty if the run did not get there."""
        try:
            return dict(json.loads((self.path / SUMMARY).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def write_params(self, params: Mapping[str, np.ndarray]) -> None:
        """Write `params.safetensors`."""
        ordered = {name: np.asarray(params[name], order="C") for name in sorted(params)}
        write_atomically(self.path / PARAMS, safetensors.numpy.save(ordered))

    def params(self) -> dict[str, np.ndarray]:
        """Read `params.safetensors`.

        Raises:
            RunError: There are none yet.
        """
        try:
            return dict(safetensors.numpy.load((self.path / PARAMS).read_bytes()))
        except FileNotFoundError:
            raise RunError(
                f"{self.path} holds no {PARAMS}: the run has not got there. Continue it with fedrl run --resume."
            ) from None

    def checkpoint(self, method: str, seed: int) -> Path:
        """Where the checkpoint of a seed of a method is, or would be."""
        return self.path / CHECKPOINTS / f"{method}-{seed}.safetensors"

    @property
    def complete(self) -> bool:
        """Whether the run got to its end."""
        return (self.path / SUMMARY).exists() and not (self.path / CHECKPOINTS).exists()

    def forget_checkpoints(self) -> None:
        """Remove the checkpoints of a run that is complete."""
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)


def create(path: Path | None, name: str, config: str) -> RunFolder:
    """Make the folder of a new run; by default `runs/<name>-<time>`.

    Raises:
        RunError: The folder holds a run already, or can't be made.
    """
    path = default_path(name) if path is None else path
    if (path / CONFIG).exists():
        raise RunError(
            f"{path} already holds a run. Choose another folder, or continue that run with fedrl run --resume {path}."
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / CONFIG, config.encode())
        (path / RECORDS).touch()
        (path / CHECKPOINTS).mkdir()
    except OSError as fault:
        raise RunError(f"{path} can't be written to ({fault}). Choose another folder with --out.") from None
    return RunFolder(path)


def default_path(name: str) -> Path:
    """Where what has this name goes if nobody says where: `runs/<name>-<time>`, with a number if that is taken."""
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    path = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = 1
    while path.exists():
        taken += 1
        path = path.with_name(f"{path.name.partition('~')[0]}~{taken}")
    return path


def opened(path: Path) -> RunFolder:
    """The folder of an earlier run.

    Raises:
        RunError: It holds none.
    """
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} is not a run folder: it has no {CONFIG}. Give the folder that fedrl run printed.")
    return RunFolder(path)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole: whoever reads it, even after a crash, finds the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
