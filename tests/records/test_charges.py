"""The file of charges: what was written is read again, and nothing can be changed or removed in it unseen."""

import os
from pathlib import Path

import numpy as np
import pytest

from fedrl.core.errors import RunError
from fedrl.records.charges import Charge, ChargeFile

AGENTS = 4
ALL = np.ones(AGENTS, bool)
SOME = np.array([True, False, True, True])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = ChargeFile(tmp_path / "privacy.jsonl")
    file.begin({"epsilon": 8.0})
    file.charge(Charge(0, 1, 1, ALL))
    file.charge(Charge(1, 1, 1, SOME))
    file.settle(1, 1, np.array([False, False, True, False]))
    file.charge(Charge(0, 2, 2, ALL, {"kind": "GaussianDpEvent", "noise_multiplier": 2.5}))
    return file.path


def test_charges_are_read_as_they_were_written(path: Path) -> None:
    budget, charges = ChargeFile(path).read(AGENTS)
    assert budget == {"epsilon": 8.0}
    assert [(c.seed, c.number, c.round, c.who.tolist(), c.event, c.back) for c in charges] == [
        (0, 1, 1, [True] * 4, None, False),
        (1, 1, 1, [True, False, True, True], None, False),
        (1, 1, 1, [True, False, False, True], None, True),
        (0, 2, 2, [True] * 4, {"kind": "GaussianDpEvent", "noise_multiplier": 2.5}, False),
    ]


def test_a_file_goes_on_where_it_ended(path: Path) -> None:
    again = ChargeFile(path)
    again.read(AGENTS)
    again.charge(Charge(0, 3, 2, ALL))
    assert len(ChargeFile(path).read(AGENTS)[1]) == 5


def without(line: int):
    return lambda lines: lines[:line] + lines[line + 1 :]


def edited(lines: list[str]) -> list[str]:
    return [line.replace('"round": 1', '"round": 2') for line in lines]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(0), "line 1 does not follow from the one before"),
        (without(2), "line 3 does not follow from the one before"),
        (edited, "line 2 does not follow from the one before"),
        (lambda lines: [*lines, lines[-1]], "line 6 does not follow"),
        (lambda lines: [*lines[:2], "nonsense", *lines[2:]], "line 3 is no line of a ledger"),
        (lambda lines: [], "line 1 is no line of a ledger"),
    ],
)
def test_whatever_changes_it_is_seen(path: Path, change, said: str) -> None:
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in change(lines)))
    with pytest.raises(RunError, match=f"damaged, the ledger of a run with a privacy budget: {said}"):
        ChargeFile(path).read(AGENTS)


def test_a_missing_file_is_refused_with_what_to_do(path: Path) -> None:
    path.unlink()
    with pytest.raises(RunError, match=r"is missing.*Restore the file, or begin a new run in another folder"):
        ChargeFile(path).read(AGENTS)


def test_a_torn_last_line_was_for_a_round_that_never_began(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seed": 0, "char')
    assert len(ChargeFile(path).read(AGENTS)[1]) == 4
    assert path.read_bytes() == whole


@pytest.mark.parametrize("durably", [False, True])
def test_a_charge_is_on_file_when_the_call_returns_and_on_the_disk_if_wanted(
    path: Path, durably: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    file = ChargeFile(path, durably)
    file.read(AGENTS)
    before = len(path.read_bytes().splitlines())
    file.charge(Charge(0, 3, 3, SOME))
    assert len(path.read_bytes().splitlines()) == before + 1
    assert bool(synced) == durably
