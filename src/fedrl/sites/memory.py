"""What an agent keeps on disk between two processes: a folder for each run, readable by its owner alone.

    FOLDER/last_run                 identity of the run that the agent took part in last
    FOLDER/RUN/facts.json           number of the agent, kind of keys, highest term
    FOLDER/RUN/roots                root of the run's keys and the agent's secret, unless they follow from a seed
    FOLDER/RUN/state.safetensors    state of the agent, with the last job, its version and its update, and under down
                                    stages the copy of the server's parameters
    FOLDER/RUN/masked.json          the last version of which a masked vector was sent, where sums hide updates
    FOLDER/RUN/verdicts.json        who was in the last sum, and what was told of earlier ones

State, update and copy are one file, which is on the disk before the update is sent. So whatever was sent can be sent
again as the same bytes, and no job is trained twice with keys from which something has left the site.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fedrl.core import durable
from fedrl.core.errors import RunError, SecureSumError, reason
from fedrl.core.keys import ROOT_BYTES, Root
from fedrl.engines.halves.agent import AgentRun
from fedrl.engines.halves.saved import load, load_beside, save
from fedrl.secure.orders import LAST_SUM, NO_SUM, as_text, of_text

IDENTITY = re.compile("[0-9a-f]{32}")
"""Identities of runs. They name folders, so nothing else is accepted."""
STATE = "state.safetensors"


class Kept(NamedTuple):
    """State of an agent after its last job.

    Attributes:
        run: The state.
        job: Number of the last job; 0 before the first.
        version: Version from which the job was trained.
        update: The encoded update; empty if there is none.
        failed: Reason why there is no update; "" if there is one.
        bid: The encoded bid, under an upload budget; else empty.
        copy: Number and bytes of the copy of the server's parameters, under down stages; no bytes if there is none.
        vector: The vector for a secure sum, int32, in place of the update where it is hidden in one; else empty.
        broadcast: SHA-256 of the broadcast from which the vector was trained, 32 bytes; empty without a vector.
        order: Local steps and share of the job, with a vector; else zeros.
        last_sum: What the agent was told before the job of the last sum in which its vector was, where sums hide
            updates (`fedrl.secure.orders.JobOrder`).
        beyond: Why there is no vector, in this process alone: a number is not finite or beyond the grid of the sum.
    """

    run: AgentRun
    job: int = 0
    version: int = 0
    update: bytes = b""
    failed: str = ""
    bid: bytes = b""
    copy: tuple[int, bytes] = (0, b"")
    vector: bytes = b""
    broadcast: bytes = b""
    order: tuple[int, float] = (0, 0.0)
    last_sum: tuple[int, bytes] = NO_SUM
    beyond: str = ""


class MaskedNote(NamedTuple):
    """That a masked vector has left, or was about to.

    Attributes:
        job: Number of the job whose vector it was.
        version: Version of the broadcast from which the job was trained.
        plan: Digest of the plan of the sum, hexadecimal.
    """

    job: int
    version: int
    plan: str


class SumVerdicts(NamedTuple):
    """What an agent compares with what others say that they were told of secure sums.

    Attributes:
        version: Version of the last sum; -1 before the first.
        included: The agents that were in it.
        last_sums: What this agent was told of the last sum before that with each other agent, by its number.
    """

    version: int = -1
    included: tuple[int, ...] = ()
    last_sums: Mapping[int, tuple[int, bytes]] = MappingProxyType({})


class RunFacts(NamedTuple):
    """What an agent has been given by the coordinator of a run.

    Attributes:
        agent: Number of the agent.
        replayable: Whether its keys follow from a seed.
        term: Highest term that it has heard of.
    """

    agent: int
    replayable: bool
    term: int


class RunMemory:
    """The folder of one run.

    Args:
        folder: Folder of the site.
        run: Identity of the run, 32 hexadecimal digits.
        federation: Digest of the federation.

    Raises:
        RunError: The folder can't be made.

    >>> import tempfile
    >>> memory = RunMemory(Path(tempfile.mkdtemp()), "0" * 32, "digest")
    >>> memory.facts() is None, memory.has_state, len(memory.new_roots()[0])
    (True, False, 32)
    """

    def __init__(self, folder: Path, run: str, federation: str) -> None:
        if not IDENTITY.fullmatch(run):
            raise RunError(f"{run!r} is no identity of a run, which has 32 hexadecimal digits. Choose another run.")
        self.folder, self.run, self.federation = folder / run, run, federation
        make_folder(self.folder)

    @property
    def has_state(self) -> bool:
        """Whether the agent has a state of this run."""
        return (self.folder / STATE).is_file()

    def facts(self) -> RunFacts | None:
        """Return what is known of the run; None before the first `Welcome`.

        Raises:
            RunError: The file is damaged.
        """
        path = self.folder / "facts.json"
        try:
            found: Any = json.loads(path.read_bytes())
            return RunFacts(int(found["agent"]), bool(found["replayable"]), int(found["term"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise _damaged(path, fault) from fault

    def keep_facts(self, facts: RunFacts) -> None:
        """Write what is known of the run, and that it is the last one of this site."""
        write_private(self.folder / "facts.json", json.dumps(facts._asdict()).encode())
        write_private(self.folder.parent / "last_run", self.run.encode())

    def roots(self) -> tuple[Root, Root] | None:
        """Return the root of the run's keys and the agent's secret; None if there are none.

        Raises:
            RunError: The file is damaged, or others than its owner may read it.
        """
        path = self.folder / "roots"
        try:
            if os.name != "nt" and path.stat().st_mode & 0o077:
                raise RunError(
                    f"{path} may be read by others than its owner, and contains the agent's secret. Run chmod 600 on "
                    "it if nobody has read it; otherwise remove the folder, so that new ones are drawn."
                )
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise _damaged(path, fault) from fault
        if len(data) != 2 * ROOT_BYTES:
            raise RunError(
                f"{path} has {len(data)} bytes, and should have {2 * ROOT_BYTES}. Restore it, or remove its folder."
            )
        return data[:ROOT_BYTES], data[ROOT_BYTES:]

    def new_roots(self) -> tuple[Root, Root]:
        """Draw roots from the operating system, and write them."""
        drawn = os.urandom(ROOT_BYTES), os.urandom(ROOT_BYTES)
        write_private(self.folder / "roots", b"".join(drawn))
        return drawn

    def save(self, kept: Kept) -> None:
        """Write the state and the last update; both are on the disk when this returns.

        Raises:
            RunError: They can't be written. Those of the job before stay.
        """
        beside: dict[str, np.ndarray] = {
            "job": np.array([kept.job, kept.version], np.int64),
            "update": np.frombuffer(kept.update, np.uint8),
            "failed": np.frombuffer(kept.failed.encode(), np.uint8),
            "bid": np.frombuffer(kept.bid, np.uint8),
        }
        number, copy = kept.copy
        if kept.vector:
            beside |= {name: np.frombuffer(getattr(kept, name), np.uint8) for name in ("vector", "broadcast")}
            beside["order"] = np.array(kept.order, np.float64)  # exact: steps are below 2^31, shares of float32
        if kept.last_sum != NO_SUM:
            beside["last_sum"] = np.frombuffer(LAST_SUM.pack(*kept.last_sum), np.uint8)
        if copy:
            beside |= {"copy_number": np.array([number], np.int64), "copy": np.frombuffer(copy, np.uint8)}
        save(self.folder / STATE, "agent", self.federation, kept.run, beside)

    def load(self, like: AgentRun) -> Kept:
        """Read the state and the last update, in the shapes of `like`.

        Raises:
            RunError: The file is missing or damaged, or belongs to another federation.
        """
        path = self.folder / STATE
        return Kept(load(path, "agent", self.federation, like), *self._beside())

    def last_job(self) -> int:
        """Return the number of the last job that is on the disk; 0 for none."""
        return int(self._beside()[0]) if self.has_state else 0

    def masked(self) -> MaskedNote | None:
        """Return the note about the last masked vector; None if none has left.

        Raises:
            RunError: The file is damaged.
        """
        path = self.folder / "masked.json"
        try:
            found: Any = json.loads(path.read_bytes())
            return MaskedNote(int(found["job"]), int(found["version"]), str(found["plan"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise _damaged(path, fault) from fault

    def note_masked(self, note: MaskedNote) -> None:
        """Write a note about a masked vector; it is on the disk when this returns, and only then may the vector leave.

        Raises:
            RunError: It can't be written.
        """
        write_private(self.folder / "masked.json", json.dumps(note._asdict()).encode())

    def verdicts(self) -> SumVerdicts:
        """Return what is compared of earlier sums; nothing before the first one.

        Raises:
            RunError: The file is damaged.
        """
        path = self.folder / "verdicts.json"
        try:
            found: Any = json.loads(path.read_bytes())
            sums = {int(agent): of_text(str(each)) for agent, each in found["last_sums"].items()}
            return SumVerdicts(int(found["version"]), tuple(int(each) for each in found["included"]), sums)
        except FileNotFoundError:
            return SumVerdicts()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SecureSumError) as fault:
            raise _damaged(path, fault) from fault

    def keep_verdicts(self, verdicts: SumVerdicts) -> None:
        """Write what is compared of earlier sums.

        Raises:
            RunError: It can't be written.
        """
        sums = {agent: as_text(each) for agent, each in verdicts.last_sums.items()}
        write_private(self.folder / "verdicts.json", json.dumps({**verdicts._asdict(), "last_sums": sums}).encode())

    def _beside(self) -> tuple[Any, ...]:
        """Return the fields of `Kept` after the state."""
        path = self.folder / STATE
        found = load_beside(path, "agent", self.federation)
        try:
            job, version = found["job"].tolist()
            update, failed = (found[name].tobytes() for name in ("update", "failed"))
            copy = (int(found["copy_number"][0]), found["copy"].tobytes()) if "copy" in found else (0, b"")
            # States of version 0.x have no bids.
            nothing = np.zeros(0, np.uint8)
            bid, *summed = (found.get(name, nothing).tobytes() for name in ("bid", "vector", "broadcast"))
            steps, share = found.get("order", np.zeros(2)).tolist()
            told = LAST_SUM.unpack(found["last_sum"].tobytes()) if "last_sum" in found else NO_SUM
            return job, version, update, failed.decode(), bid, copy, *summed, (int(steps), share), told
        except (KeyError, ValueError, IndexError, struct.error) as fault:
            raise _damaged(path, fault) from fault


def last_run(folder: Path) -> str:
    """Return the identity of the run that a site took part in last; "" for none."""
    path = folder / "last_run"
    try:
        found = path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
    return found if IDENTITY.fullmatch(found) and (folder / found).is_dir() else ""


def write_private(path: Path, content: bytes) -> None:
    """Replace a file by one that only its owner may read, as a whole, and wait until it is on the disk.

    Raises:
        RunError: It can't be written; the old content stays.
    """
    try:
        durable.replace(path, content, 0o600)
    except OSError as fault:
        raise RunError(f"{path} can't be written: {reason(fault)}. Name an existing folder with free space.") from fault


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner may open, and tidy it.

    Raises:
        RunError: It can't be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.sync_folder(folder.parent)
        durable.tidy(folder)
    except OSError as fault:
        raise RunError(f"{folder} can't be made ({reason(fault)}). Name a folder that can be written to.") from fault


def _damaged(path: Path, fault: Exception) -> RunError:
    return RunError(f"{path} is damaged ({fault}). Restore it, or remove its folder, so that the agent begins anew.")
