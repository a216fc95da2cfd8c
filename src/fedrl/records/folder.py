"""A run folder: the files of one run, each written so that a crash at any moment leaves it readable.

config.toml          the configuration with all defaults: it reproduces the run
records.jsonl        a line per seed, method and round, passed to the operating system at once
events.jsonl         over a network, a line per round with what the scheduler was told
privacy.jsonl        with a privacy budget, what was charged to whom, before each round
summary.json         the results
params.safetensors   the parameters with which agents act in every seed: global ones, or each agent's own and
                     those of the server, if they are a policy too; its metadata describe them
film.gif             one greedy episode of the policy, if it can be drawn; the report shows it
report.html          the report page
checkpoints/         the last state of each seed of each method, and what a run started from, if from an earlier run
final/               the same of a complete run, with which it is continued for more rounds
.lock                the process that writes to the folder; removed when it ends

A folder is written to inside a `with`: its lock is released at the end, and a new run that failed before its first
round removes its files, so that the same path can be used again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from fedrl.core import durable
from fedrl.core.errors import RunError
from fedrl.records.files import (
    Records,
    append,
    read_json,
    read_records,
    reading,
    unwritable,
    write_atomically,
    writing,
)
from fedrl.records.lock import Held, hold

CONFIG, RECORDS, EVENTS, CHARGES, SUMMARY, PARAMS, FILM, REPORT, CHECKPOINTS, FINAL = (
    "config.toml",
    "records.jsonl",
    "events.jsonl",
    "privacy.jsonl",
    "summary.json",
    "params.safetensors",
    "film.gif",
    "report.html",
    "checkpoints",
    "final",
)
START = "start-{seed}.safetensors"
FILM_BYTES = 300_000
"""The largest size of the film of a run, which is part of its report."""
ELSEWHERE = "Choose another folder with --out."
MOST_TRIES = 1000


@dataclass(frozen=True)
class RunFolder:
    """A run folder, and a lock so that threads do not mix the lines of its records.

    Attributes:
        path: Path of the folder.
        claim: The right of this process to write to it; None for reading only.
    """

    path: Path
    claim: Claim | None = field(default=None, repr=False, compare=False)
    _lock: AbstractContextManager[Any] = field(default_factory=threading.Lock, repr=False, compare=False)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.claim is None:
            return
        # Only a new run that failed is removed; a resumed one keeps the rounds that it had.
        if kind is not None and self.claim.fresh:
            self._discard()
        self.claim.release(failed=kind is not None)

    def _discard(self) -> None:
        """Remove the files that `create` has made, unless a round was recorded, or paid for."""
        with contextlib.suppress(OSError):
            if _filled(self.path / RECORDS) or _has_charges(self.path / CHARGES):
                return
            (self.path / CONFIG).unlink(missing_ok=True)
            (self.path / CHARGES).unlink(missing_ok=True)
            (self.path / RECORDS).unlink(missing_ok=True)
            for start in (self.path / CHECKPOINTS).glob(START.format(seed="*")):
                start.unlink()
            (self.path / CHECKPOINTS).rmdir()

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a record as a line and pass it to the operating system."""
        line = json.dumps(record, allow_nan=False)
        with self._lock:
            append(self.path / RECORDS, line)

    def read(self) -> Records:
        """Return all records, with the defects of their file."""
        return read_records(self.path / RECORDS)

    def records(self) -> list[dict[str, Any]]:
        """Return all records, each round once, without a last line that a crash has torn."""
        return self.read().records

    def revise(self, revised: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Records:
        """Replace each record by its revision, each round once; those of None are dropped.

        Returns:
            The records before.
        """
        found = self.read()
        kept = [after for after in map(revised, found.records) if after is not None]
        with self._lock:
            write_atomically(self.path / RECORDS, "".join(json.dumps(record) + "\n" for record in kept).encode())
        return found

    def write_config(self, config: str) -> None:
        """Write `config.toml`."""
        write_atomically(self.path / CONFIG, config.encode())

    def syncing(self) -> Callable[[], None]:
        """Begin to flush records, events and charges to the disk, and return a function that waits for them.

        A checkpoint must never be newer than they are, so it waits before it replaces the one before. The disk writes
        all of them at the same time: one after the other, each would take as long as the checkpoint.
        """
        pool = ThreadPoolExecutor(3)
        names = (RECORDS, EVENTS, CHARGES)
        begun = [pool.submit(durable.sync, path) for name in names if (path := self.path / name).exists()]
        pool.shutdown(wait=False)

        def wait() -> None:
            with writing(self.path / RECORDS):
                for each in begun:
                    each.result()

        return wait

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        write_atomically(self.path / SUMMARY, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())

    def summary(self) -> dict[str, Any]:
        """Read `summary.json`; empty if the run has not written it yet.

        Raises:
            RunError: The file is damaged.
        """
        cure = f"Copy it again, or delete it and run it again with fedrl run --resume {self.path}."
        return read_json(self.path / SUMMARY, cure) or {}

    def write_params(self, params: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
        """Write `params.safetensors`, and in it what they are."""
        ordered = {name: np.asarray(params[name], order="C") for name in sorted(params)}
        write_atomically(self.path / PARAMS, safetensors.numpy.save(ordered, dict(metadata or {}) or None))

    def params(self) -> dict[str, np.ndarray]:
        """Read `params.safetensors`.

        Raises:
            RunError: There are none yet, or the file is damaged.
        """
        cure = f"Copy it again, or repeat the run with fedrl run {self.path / CONFIG}."
        try:
            with reading(self.path / PARAMS, cure):
                return dict(safetensors.numpy.load((self.path / PARAMS).read_bytes()))
        except FileNotFoundError:
            raise RunError(
                f"{self.path} has no {PARAMS}: the run has not ended. Continue it with fedrl run --resume."
            ) from None

    def write_film(self, content: bytes) -> None:
        """Write `film.gif`."""
        write_atomically(self.path / FILM, content)

    def forget_film(self) -> None:
        """Remove the film of an earlier part of the run."""
        with contextlib.suppress(OSError):
            (self.path / FILM).unlink(missing_ok=True)

    def report(self) -> str | None:
        """Return the path of the report page; None if there is none."""
        return str(self.path / REPORT) if (self.path / REPORT).exists() else None

    def checkpoint(self, method: str, seed: int) -> Path:
        """Return the path of the checkpoint of a seed of a method, whether or not it exists."""
        return self.path / CHECKPOINTS / f"{method}-{seed}.safetensors"

    def start(self, seed: int) -> Path:
        """Return the path of the file from which a seed starts, if the run starts from an earlier one."""
        return self.path / CHECKPOINTS / START.format(seed=seed)

    @property
    def complete(self) -> bool:
        """Whether the run reached its last round."""
        # Both are needed: an interrupted run has a summary, too, and a new one has an empty folder of checkpoints.
        return (self.path / SUMMARY).exists() and not (self.path / CHECKPOINTS).exists()

    def close_checkpoints(self, keep: bool) -> None:
        """Move the checkpoints of a run that is complete to `final/`, or remove them."""
        with writing(self.path):
            shutil.rmtree(self.path / FINAL, ignore_errors=True)
            if keep:
                (self.path / CHECKPOINTS).rename(self.path / FINAL)
            else:
                shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)

    def reopen_checkpoints(self) -> None:
        """Make a complete run an interrupted one, which has done all its rounds.

        Raises:
            RunError: It has no checkpoints.
        """
        if not (self.path / FINAL).is_dir():
            raise RunError(
                f"{self.path} is complete and has no {FINAL}/, the states after its last round: it ran with "
                "keep_checkpoints = false, in a study, or with an earlier version. Start a new run from its "
                f'parameters, with init = "{self.path}".'
            )
        with writing(self.path):
            (self.path / FINAL).rename(self.path / CHECKPOINTS)


class Claim(NamedTuple):
    """A folder to which only this process may write.

    Attributes:
        path: Path of the folder.
        held: Its lock.
        made: Whether this process made the folder.
        fresh: Whether this process started the run in it, rather than resuming it.
    """

    path: Path
    held: Held
    made: bool
    fresh: bool = True

    def release(self, failed: bool) -> None:
        """Release the lock; after a failure, also remove the folder if it is new and empty."""
        self.held.release()
        if failed and self.made:
            with contextlib.suppress(OSError):
                self.path.rmdir()


def create(path: Path | None, name: str, config: str) -> RunFolder:
    """Make the folder of a new run, for use in a `with`; by default `runs/<name>-<time>`.

    Raises:
        RunError: The folder already contains a run, another process writes to it, or it can't be made.
    """
    claim = claimed(path, name, CONFIG, "run")
    try:
        with writing(claim.path, ELSEWHERE):
            if _filled(claim.path / RECORDS):
                raise RunError(f"{claim.path} has {RECORDS} of a run whose {CONFIG} is gone. {ELSEWHERE}")
            with contextlib.suppress(OSError):
                (
                    claim.path / CHECKPOINTS
                ).rmdir()  # if empty, left by a process killed in these lines; else mkdir fails
            (claim.path / CHECKPOINTS).mkdir()
            (claim.path / RECORDS).touch()
            # The configuration comes last: a folder with one is a run that can be resumed.
            write_atomically(claim.path / CONFIG, config.encode(), ELSEWHERE)
    except BaseException as fault:
        RunFolder(claim.path, claim).__exit__(type(fault))
        raise
    return RunFolder(claim.path, claim)


def claimed(path: Path | None, name: str, plan: str, thing: str) -> Claim:
    """Make or take a folder for this process alone: a new one, or an existing one without a run or study.

    Args:
        path: Path of the folder; `runs/<name>-<time>` by default.
        name: Name of the experiment.
        plan: Name of the file that identifies such a folder.
        thing: "run", "study" or "scale", for the message.

    Raises:
        RunError: The folder already contains a run or study, another process writes to it, or it can't be made.
    """
    tries = _default_paths(name) if path is None else itertools.repeat(path)
    for tried, place in enumerate(tries):
        made = False
        try:
            # Making a folder is one step of the operating system, in which only one of several processes succeeds.
            made = _made(place)
            if path is None and not made:
                continue  # another process has just taken this name
            held = hold(place, thing)
        except RunError:
            if made:
                with contextlib.suppress(OSError):
                    place.rmdir()
            raise
        except OSError as fault:
            # Bounded, since a parent folder that vanishes again and again would never let this end.
            if isinstance(fault, FileNotFoundError) and tried < MOST_TRIES:
                continue  # another process made the folder, failed, and removed it before we could lock it
            raise unwritable(place, fault, ELSEWHERE) from None
        if not (place / plan).exists():
            return Claim(place, held, made)
        held.release()
        command = {"run": "run", "study": "sweep"}.get(thing)
        if command is None:
            raise RunError(f"{place} already holds {plan} of a {thing} measurement. {ELSEWHERE}")
        raise RunError(
            f"{place} already holds a {thing}. Choose another folder, or continue that {thing} with "
            f"fedrl {command} --resume {place}."
        )
    raise AssertionError("there is always another name")


def _filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _has_charges(path: Path) -> bool:
    """Return whether a ledger has a line after that of its budget."""
    return path.exists() and path.read_bytes().count(b"\n") > 1


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
    """Yield the default paths of an experiment: `runs/<name>-<time>`, then the same with a number."""
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    stem = f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    for i in itertools.count(1):
        yield Path("runs") / (stem if i == 1 else f"{stem}~{i}")


def open_folder(path: Path) -> RunFolder:
    """Open the folder of an earlier run for reading.

    Raises:
        RunError: It is not a run folder.
    """
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} is not a run folder: it has no {CONFIG}. Give the folder that fedrl run printed.")
    return RunFolder(path)


def reopen_folder(path: Path) -> RunFolder:
    """Open the folder of an earlier run for writing, in a `with`.

    Raises:
        RunError: It is not a run folder, another process writes to it, or it is not writable.
    """
    open_folder(path)
    held = hold(path)
    for place in (path, path / CHECKPOINTS, path / FINAL):
        durable.tidy(place)
    return RunFolder(path, Claim(path, held, made=False, fresh=False))
