"""A run folder: the files of one run, each written so that a crash at any moment leaves something readable.

config.toml          everything that was chosen, defaults included: it reproduces the run
records.jsonl        a line per seed, method and round, flushed as it comes
summary.json         the outcome
params.safetensors   the parameters that agents act with in every seed: global ones, or each agent's own
report.html          the same for people
checkpoints/         where each seed of each method stands; gone when the run is complete
.lock                who writes here; gone when nobody does

A folder that is written to is used in a `with`: its lock is given back at the end, and a new run that failed before
its first round leaves nothing that would be in the way of the next try.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from fedrl.core.errors import RunError
from fedrl.records.files import (
    Records,
    append,
    read_json,
    read_records,
    reading,
    tidy,
    unwritable,
    write_atomically,
    writing,
)
from fedrl.records.lock import Held, hold

CONFIG, RECORDS, SUMMARY, PARAMS, REPORT, CHECKPOINTS = (
    "config.toml",
    "records.jsonl",
    "summary.json",
    "params.safetensors",
    "report.html",
    "checkpoints",
)
ELSEWHERE = "Choose another folder with --out."
MOST_TRIES = 1000


@dataclass(frozen=True)
class RunFolder:
    """A folder, and the lock that keeps the lines of its records apart.

    Attributes:
        path: Where it is.
        claim: What this process may do with it; None to read only.
    """

    path: Path
    claim: Claim | None = field(default=None, repr=False, compare=False)
    _lock: AbstractContextManager[Any] = field(default_factory=threading.Lock, repr=False, compare=False)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.claim is None:
            return
        if kind is not None and self.claim.fresh:
            self._discard()
        self.claim.release(failed=kind is not None)

    def _discard(self) -> None:
        """Remove what `create` has made, unless a round is through."""
        with contextlib.suppress(OSError):
            if _filled(self.path / RECORDS):
                return
            (self.path / CONFIG).unlink(missing_ok=True)
            (self.path / RECORDS).unlink(missing_ok=True)
            (self.path / CHECKPOINTS).rmdir()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line to the records and hand it to the operating system."""
        line = json.dumps(record, allow_nan=False)
        with self._lock:
            append(self.path / RECORDS, line)

    def read(self) -> Records:
        """All records, and what is wrong with the file of them."""
        return read_records(self.path / RECORDS)

    def records(self) -> list[dict[str, Any]]:
        """All records, each round once; a last line that was torn by a crash is left out."""
        return self.read().records

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> Records:
        """Leave only some of the records, each round once.

        Returns:
            What was there before.
        """
        found = self.read()
        kept = "".join(json.dumps(record) + "\n" for record in found.records if wanted(record))
        with self._lock:
            write_atomically(self.path / RECORDS, kept.encode())
        return found

    def sync(self) -> None:
        """Make sure that the records so far survive a loss of power."""
        with self._lock, writing(self.path / RECORDS), (self.path / RECORDS).open("rb") as lines:
            os.fsync(lines.fileno())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        write_atomically(self.path / SUMMARY, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())

    def summary(self) -> dict[str, Any]:
        """Read `summary.json`; empty if the run did not get there.

        Raises:
            RunError: It is damaged.
        """
        cure = f"Copy it anew, or delete it and make the run again with fedrl run --resume {self.path}."
        return read_json(self.path / SUMMARY, cure) or {}

    def write_params(self, params: Mapping[str, np.ndarray]) -> None:
        """Write `params.safetensors`."""
        ordered = {name: np.asarray(params[name], order="C") for name in sorted(params)}
        write_atomically(self.path / PARAMS, safetensors.numpy.save(ordered))

    def params(self) -> dict[str, np.ndarray]:
        """Read `params.safetensors`.

        Raises:
            RunError: There are none yet, or the file is damaged.
        """
        cure = f"Copy it anew, or make the run again: fedrl run {self.path / CONFIG}."
        try:
            with reading(self.path / PARAMS, cure):
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


class Claim(NamedTuple):
    """A folder that this process alone may write to.

    Attributes:
        path: Which.
        held: Its lock.
        made: Whether this process made the folder.
        fresh: Whether what stands in it was begun by this process.
    """

    path: Path
    held: Held
    made: bool
    fresh: bool = True

    def release(self, failed: bool) -> None:
        """Give the lock back; after a failure, also remove the folder if it is new and empty."""
        self.held.release()
        if failed and self.made:
            with contextlib.suppress(OSError):
                self.path.rmdir()


def create(path: Path | None, name: str, config: str) -> RunFolder:
    """Make the folder of a new run, for use in a `with`; by default `runs/<name>-<time>`.

    Raises:
        RunError: The folder holds a run already, another process writes to it, or it can't be made.
    """
    claim = claimed(path, name, CONFIG, "run")
    try:
        with writing(claim.path, ELSEWHERE):
            if _filled(claim.path / RECORDS):
                raise RunError(f"{claim.path} holds {RECORDS} of a run whose {CONFIG} is gone. {ELSEWHERE}")
            with contextlib.suppress(OSError):
                (claim.path / CHECKPOINTS).rmdir()  # empty: of a process killed in these lines; else it is refused
            (claim.path / CHECKPOINTS).mkdir()
            (claim.path / RECORDS).touch()
            write_atomically(claim.path / CONFIG, config.encode(), ELSEWHERE)
    except BaseException as fault:
        RunFolder(claim.path, claim).__exit__(type(fault))
        raise
    return RunFolder(claim.path, claim)


def claimed(path: Path | None, name: str, plan: str, thing: str) -> Claim:
    """A folder that nobody else has or gets: a new one, or one that is there and holds nothing of the kind.

    Making a folder is a single step of the operating system, in which only one process succeeds.

    Args:
        path: Where; `runs/<name>-<time>` by default.
        name: Of the experiment.
        plan: The file that such a folder holds.
        thing: "run" or "study", for the message.

    Raises:
        RunError: The folder holds such a thing already, another process writes to it, or it can't be made.
    """
    tries = _default_paths(name) if path is None else itertools.repeat(path)
    for tried, place in enumerate(tries):
        made = False
        try:
            made = _made(place)
            if path is None and not made:
                continue  # somebody else's, perhaps of this very moment
            held = hold(place, thing)
        except RunError:
            if made:
                with contextlib.suppress(OSError):
                    place.rmdir()
            raise
        except OSError as fault:
            if isinstance(fault, FileNotFoundError) and tried < MOST_TRIES:
                continue  # somebody else's that failed and was removed again
            raise unwritable(place, fault, ELSEWHERE) from None
        if not (place / plan).exists():
            return Claim(place, held, made)
        held.release()
        command = "run" if thing == "run" else "sweep"
        raise RunError(
            f"{place} already holds a {thing}. Choose another folder, or continue that {thing} with "
            f"fedrl {command} --resume {place}."
        )
    raise AssertionError("there is always another name")


def _filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _made(place: Path) -> bool:
    """Make a folder and those above it; False if it is there."""
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        if place.is_dir():
            return False
        raise
    return True


def _default_paths(name: str) -> Iterator[Path]:
    """Where what has this name goes if nobody says where: `runs/<name>-<time>`, with a number if that is taken."""
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    stem = f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    for i in itertools.count(1):
        yield Path("runs") / (stem if i == 1 else f"{stem}~{i}")


def open_folder(path: Path) -> RunFolder:
    """The folder of an earlier run, to read.

    Raises:
        RunError: It holds none.
    """
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} is not a run folder: it has no {CONFIG}. Give the folder that fedrl run printed.")
    return RunFolder(path)


def reopen_folder(path: Path) -> RunFolder:
    """The folder of an earlier run, to go on writing in it; for use in a `with`.

    Raises:
        RunError: It holds none, another process writes to it, or it can't be written to.
    """
    open_folder(path)
    held = hold(path)
    for place in (path, path / CHECKPOINTS):
        tidy(place)
    return RunFolder(path, Claim(path, held, made=False, fresh=False))
