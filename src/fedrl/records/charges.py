"""The file `privacy.jsonl` of a run folder: what was charged to whom, written before a round releases anything.

    {"budget": {...}}                              what is promised; once
    {"seed": 0, "charge": 1, "round": 1, "who": "all"}
    {"seed": 0, "settle": 1, "took": {"only": [3, 7]}}     who took part, where only these pay

Each line ends with a link, a hash of the line and the link before, so a line that is changed, removed or added in the
middle is seen. That lines at the end are missing is seen only by what else is in the folder: every record of a round
has the number of its charge.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrl.core import durable
from fedrl.core.errors import RunError
from fedrl.records.files import append, reading, write_atomically, writing

LINK, LENGTH = "link", 16
CURE = (
    "What it has spent is not known any more, so it can't be continued. Restore the file, or begin a new run in "
    "another folder, which has a budget of its own."
)


class Charge(NamedTuple):
    """A charge for a round, or what was given back of it.

    Attributes:
        seed: Seed of the run.
        number: Number of the charge among those of the seed, from 1.
        round: Number of the round.
        who: Mask of the agents that are charged, `[agents]`; those that get it back if `back`.
        event: The event, if it is another one than the budget's.
        back: Whether it is given back.
        covered: Whether it costs nothing, since an earlier charge covers several rounds together.
    """

    seed: int
    number: int
    round: int
    who: np.ndarray
    event: dict[str, Any] | None = None
    back: bool = False
    covered: bool = False


class ChargeFile:
    """The file of charges. It may be written from several threads.

    Args:
        path: The file.
        durably: Whether a charge is on the disk when `charge` returns; else it is with the operating system, so a
            process that is killed loses nothing, and a power failure may.
    """

    def __init__(self, path: Path, durably: bool = False) -> None:
        self.path, self._durably = path, durably
        self._lock, self._link = threading.Lock(), ""

    def begin(self, budget: Mapping[str, Any]) -> None:
        """Begin the file of a new run.

        Raises:
            RunError: It can't be written.
        """
        write_atomically(self.path, f"{self._linked({'budget': dict(budget)})}\n".encode())

    def read(self, agents: int) -> tuple[dict[str, Any], list[Charge]]:
        """Read the budget and all charges, and go on after the last one.

        A last line that a crash has torn was written before a round that never began, and is dropped.

        Args:
            agents: Number of agents.

        Raises:
            RunError: It is missing or damaged.
        """
        try:
            with reading(self.path, CURE):
                content = self.path.read_bytes()
        except FileNotFoundError:
            raise RunError(f"{self.path} is missing, the ledger of a run with a privacy budget. {CURE}") from None
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            write_atomically(self.path, whole + b"\n" if whole else b"")
        lines = list(self._checked(whole.decode(errors="replace").split("\n")))
        try:
            budget = dict(lines[0]["budget"])
            return budget, list(_charges(lines[1:], agents))
        except (KeyError, TypeError, ValueError, IndexError) as fault:
            raise self._damaged(f"a line of it is no charge: {fault!r}") from fault

    def charge(self, charge: Charge) -> None:
        """Write that agents are charged for a round, and return when the operating system has it, or the disk.

        Raises:
            RunError: It can't be written.
        """
        line = {"seed": charge.seed, "charge": charge.number, "round": charge.round, "who": _named(charge.who)}
        event = {} if charge.event is None else {"event": charge.event}
        self._write(line | event | ({"covered": True} if charge.covered else {}))

    def settle(self, seed: int, number: int, took: np.ndarray) -> None:
        """Write who took part in the round of a charge; the others get it back.

        Raises:
            RunError: It can't be written.
        """
        self._write({"seed": seed, "settle": number, "took": _named(took)})

    def _write(self, line: dict[str, Any]) -> None:
        with self._lock:
            before = self._link
            try:
                append(self.path, self._linked(line))
            except BaseException:
                self._link = before
                raise
            if self._durably:
                with writing(self.path):
                    durable.sync(self.path)

    def _linked(self, line: dict[str, Any]) -> str:
        """Return a line with its link, to which the next one is linked."""
        text = json.dumps(line, allow_nan=False)
        self._link = hashlib.sha256(f"{self._link}{text}".encode()).hexdigest()[:LENGTH]
        return f'{text[:-1]}, "{LINK}": "{self._link}"}}'

    def _checked(self, lines: list[str]) -> Iterator[dict[str, Any]]:
        self._link = ""
        for number, line in enumerate(lines, 1):
            try:
                found = dict(json.loads(line))
                link = found.pop(LINK)
            except (ValueError, KeyError, TypeError) as fault:
                raise self._damaged(f"line {number} is no line of a ledger") from fault
            if self._linked(found) != line:
                raise self._damaged(f"line {number} does not follow from the one before ({link})")
            yield found

    def _damaged(self, why: str) -> RunError:
        return RunError(f"{self.path} is damaged, the ledger of a run with a privacy budget: {why}. {CURE}")


def _charges(lines: list[dict[str, Any]], agents: int) -> Iterator[Charge]:
    last: dict[int, Charge] = {}
    known: dict[str, np.ndarray] = {}  # most charges are to the same agents

    def mask(named: Any) -> np.ndarray:
        text = json.dumps(named)
        if text not in known:
            known[text] = _mask(named, agents)
        return known[text]

    for line in lines:
        seed = int(line["seed"])
        if "settle" in line:
            before = last[seed]
            if before.number != int(line["settle"]):
                raise ValueError(f"charge {line['settle']} is settled after charge {before.number}")
            yield before._replace(who=before.who & ~_mask(line["took"], agents), back=True)
            continue
        number = last[seed].number + 1 if seed in last else 1
        if int(line["charge"]) != number:
            raise ValueError(f"charge {line['charge']} of seed {seed} comes in place of charge {number}")
        who, covered = mask(line["who"]), bool(line.get("covered"))
        last[seed] = Charge(seed, number, int(line["round"]), who, line.get("event"), covered=covered)
        yield last[seed]


def _named(who: np.ndarray) -> str | dict[str, list[int]]:
    """Return a mask in the shorter of its forms."""
    if who.all():
        return "all"
    inside, outside = np.flatnonzero(who).tolist(), np.flatnonzero(~who).tolist()
    return {"only": inside} if len(inside) <= len(outside) else {"but": outside}


def _mask(named: Any, agents: int) -> np.ndarray:
    if named == "all":
        return np.ones(agents, bool)
    (form, listed), *_ = dict(named).items()
    mask = np.isin(np.arange(agents), listed)
    return mask if form == "only" else ~mask
